# shellcheck shell=sh
# shellcheck disable=SC2034 # the names are used by the scripts that source this
# Sourced where a script wants a registry on loopback, with its files in the current folder. Sets registry=HOST:PORT, and
# registry_pid, for the script to end it.
cat >registry.yml <<'YML'
version: 0.1
storage: {filesystem: {rootdirectory: registry}}
http: {addr: "127.0.0.1:0"}
YML
docker-registry serve registry.yml >registry.log 2>&1 &
registry_pid=$!
port=''
for _ in $(seq 50); do
    port=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' registry.log | head -n 1)
    [ -z "$port" ] || break
    sleep 0.1
done
[ -n "$port" ] || { cat registry.log >&2; exit 1; }
registry=127.0.0.1:$port
