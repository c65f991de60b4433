#!/bin/sh
# Breaks the product in one way after the other and shows that a test notices: tests/mutations/*.patch, each with what it
# does and the cheapest test that must fail. Works on a copy under target/mutations.
#
#   build/scripts/mutations.sh [NAME...]
#
# Prints a table. Fails if a mutation survives, does not compile or does not apply any more.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
work=$root/target/mutations
tree=$work/tree
export CARGO_TARGET_DIR="$work/target"

# The same files as here, with their times, so that only what a mutation changes is compiled.
mkdir -p "$tree"
# What was moved or removed here since.
find "$tree" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
git ls-files --cached --others --exclude-standard | cpio --quiet -pdmu "$tree"
# What the virtual devices are made of.
mkdir -p "$tree/target"
for made in kernels dist tools; do
    [ ! -e "target/$made" ] || ln -sfn "$root/target/$made" "$tree/target/$made"
done

survived=0
echo '| mutation | what it does | caught by |'
echo '|---|---|---|'
for patch in tests/mutations/*.patch; do
    name=$(basename "$patch" .patch)
    case " $* " in '  ' | *" $name "* | *" ${name#*-} "*) ;; *) continue ;; esac
    what=$(sed -n 1p "$patch")
    test=$(sed -n 's/^Caught by: //p' "$patch")
    if ! patch -d "$tree" -p1 --quiet --forward --fuzz=0 <"$patch" >"$work/$name.log" 2>&1; then
        echo "mutations: $name does not apply any more: $work/$name.log" >&2
        exit 1
    fi
    # shellcheck disable=SC2086 # words of a command
    run() { (cd "$tree" && $1 >"$2" 2>&1); }
    build=$(echo "$test" | sed -n 's/^cargo test \(.*--test [^ ]*\).*/cargo test --locked --no-run \1/p')
    if [ -n "$build" ] && ! run "$build" "$work/$name.log"; then
        echo "mutations: $name does not compile: $work/$name.log" >&2
        exit 1
    fi
    if run "$test" "$work/$name.log"; then
        caught='**nothing**'
        survived=$((survived + 1))
    else
        caught=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p; s/^FAIL  \([^ ]*\).*/\1/p' "$work/$name.log" | sort | head -n1)
        if [ -z "$caught" ]; then
            echo "mutations: $name: the test did not run: $work/$name.log" >&2
            exit 1
        fi
    fi
    echo "| ${name#*-} | $what | $caught |"
    # The old files, with a time at which cargo compiles them again.
    patch -d "$tree" -p1 --quiet --reverse --fuzz=0 <"$patch" >/dev/null
done
[ $survived = 0 ] || { echo "mutations: $survived survived" >&2; exit 1; }
