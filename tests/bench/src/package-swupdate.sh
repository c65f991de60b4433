# shellcheck shell=sh
# $1 release folder, $2 keys, $3 slot: an update that is written as it arrives.
[ -e "$1/update.swu" ] && exit 0
[ -e "$2/swupdate.crt" ] || openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj /CN=bench \
    -addext extendedKeyUsage=emailProtection -keyout "$2/swupdate.key" -out "$2/swupdate.crt" 2>/dev/null
cd "$1" || exit
image() { # NAME
    printf '{ filename = "%s"; path = "%s/%s"; type = "rawfile"; installed-directly = true; sha256 = "%s"; }' \
        "$1" "$2" "$1" "$(sha256sum "$1" | cut -d' ' -f1)"
}
printf 'software = { version = "2.0.0"; hardware-compatibility = [ "1.0" ]; files: ( %s, %s ); }\n' "$(image vmlinuz "$3")" "$(image kubesolo-os.gz "$3")" \
    >sw-description
openssl cms -sign -in sw-description -out sw-description.sig -signer "$2/swupdate.crt" -inkey "$2/swupdate.key" \
    -outform DER -nosmimecap -binary
printf '%s\n' sw-description sw-description.sig vmlinuz kubesolo-os.gz | cpio --quiet -o -H crc >update.swu.new
mv update.swu.new update.swu
