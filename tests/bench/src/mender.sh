# shellcheck shell=sh
# $1 URL, $2 folder for its state, $3 public key. Its name for what runs has a fixed place: given in a namespace of its own.
echo device_type=bench >"$2/device_type"
echo artifact_name=before >"$2/artifact_info"
printf '{"ArtifactVerifyKey": "%s"}' "$3" >"$2/mender.conf"
# shellcheck disable=SC2016 # expanded in the inner shell
exec unshare --mount sh -euc 'mount --bind "$2" /etc/mender
    exec mender --no-syslog --config "$2/mender.conf" --data "$2" install "$1"' sh "$1" "$2"
