# shellcheck shell=sh
# What people write when they have no agent: fetch, check, copy, sync.
# $1 URL, $2 public key, $3 staging folder, $4 slot
cd "$3" || exit
curl -sSf -O "$1/SHA256SUMS" -O "$1/SHA256SUMS.sig" -O "$1/vmlinuz" -O "$1/kubesolo-os.gz"
openssl pkeyutl -verify -rawin -pubin -inkey "$2" -in SHA256SUMS -sigfile SHA256SUMS.sig
sha256sum --check SHA256SUMS
cp vmlinuz kubesolo-os.gz "$4"
sync "$4/vmlinuz" "$4/kubesolo-os.gz" "$4"
