# shellcheck shell=sh
# $1 folder of the new image with os.cpio, $2 of its chunks, $3 with keys: a casync bundle of RAUC. A chunk store has the name of
# its bundle, so that it is moved.
[ -e "$3/rauc.pem" ] ||
    openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj /CN=bench -keyout "$3/rauc.key" -out "$3/rauc.pem" 2>/dev/null
work=$(mktemp -d "$1/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/content"
# A slot is a block device: whole pages.
cp "$1/os.cpio" "$work/content/os.img"
truncate --size=%4096 "$work/content/os.img"
printf '[update]\ncompatible=bench\nversion=2\n[bundle]\nformat=plain\n[image.os]\nfilename=os.img\n' >"$work/content/manifest.raucm"
rauc --cert="$3/rauc.pem" --key="$3/rauc.key" bundle "$work/content" "$work/whole.raucb"
rauc --cert="$3/rauc.pem" --key="$3/rauc.key" --keyring="$3/rauc.pem" convert "$work/whole.raucb" "$work/os.raucb"
rm -rf "$1/os.raucb" "$2"
mv "$work/os.raucb" "$1/os.raucb"
mv "$work/os.castr" "$2"
