# shellcheck shell=sh
# shellcheck disable=SC2034 # the names are used by the steps that source this
# Sourced by every step of the init stage.

run=/run/kubesolo
data=/var/lib/kubesolo

say() { echo "kubesolo: $*"; }

# argument NAME: its value on the kernel command line, the last one if it is repeated.
argument() {
    tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p" | tail -n 1
}

# seconds NAME DEFAULT: a duration from the kernel command line.
seconds() {
    asked=$(argument "$1")
    case $asked in '' | *[!0-9]*) asked=$2 ;; esac
    echo "$asked"
}

mounted() { grep -q " $1 " /proc/mounts; }

# As the agent reads it: `ks.trial=` occurs once, with 8 hexadecimal digits. Two values form two lines, which match nothing.
in_trial() {
    case $(tr -s ' \t\n' '\n' </proc/cmdline | sed -n 's/^ks\.trial=//p') in
        00000000) return 1 ;;
        [0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]) ;;
        *) return 1 ;;
    esac
}

# seen STEP: a mark that this boot called the step, for `kubesolo-update doctor`. Only root reads it.
seen() (
    umask 077
    mkdir -p /run/kubesolo-update/seen
    echo "uptime=$(cut -d. -f1 /proc/uptime)" >"/run/kubesolo-update/seen/$1"
)

# Reports a fault on the console and in a file. The device stays up.
degraded() {
    say "degraded: $*"
    mkdir -p $run
    echo "$*" >>$run/degraded
}

# Shuts down in order, so that services end and the data partition is unmounted. If init, a filesystem or the disk hangs,
# the kernel resets the machine after 30 s.
restart() {
    say "restarting: $*"
    sync &
    if [ -d /run/systemd/system ]; then systemctl reboot & else reboot & fi
    sleep 30
    echo b >/proc/sysrq-trigger
    reboot -nf
}
