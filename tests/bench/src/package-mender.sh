# shellcheck shell=sh
# $1 release folder, $2 keys, $3 slot: an artifact for the stock update module that replaces one file. It knows only one, so
# that both images are one here.
[ -e "$1/update.mender" ] && exit 0
[ -e "$2/mender.key" ] || openssl genrsa -traditional -out "$2/mender.key" 3072 2>/dev/null
[ -e "$2/mender.pub" ] || openssl rsa -in "$2/mender.key" -pubout -out "$2/mender.pub" 2>/dev/null
work=$(mktemp -d "$1/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
cat "$1/vmlinuz" "$1/kubesolo-os.gz" >"$work/images"
printf %s "$3" >"$work/dest_dir"
printf images >"$work/filename"
printf 644 >"$work/permissions"
mender-artifact write module-image --compression none -T single-file -t bench -n bench -k "$2/mender.key" \
    -f "$work/dest_dir" -f "$work/filename" -f "$work/permissions" -f "$work/images" -o "$1/update.mender.new"
mv "$1/update.mender.new" "$1/update.mender"
