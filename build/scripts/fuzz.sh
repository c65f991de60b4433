#!/bin/sh
# Feeds every parser of bytes from outside with what libFuzzer makes of the seeds in fuzz/corpus.
#
#   [RUNS=N] build/scripts/fuzz.sh [SECONDS [PARSER...]]
#
# Each parser ends after SECONDS (10), or after N inputs if that is sooner.
# What is found stays in target/fuzz. Put an input that broke a parser into fuzz/corpus/PARSER: the tests replay it for ever.
set -eu
cd "$(dirname "$0")/../.."

seconds=${1:-10}
[ $# -eq 0 ] || shift
# shellcheck disable=SC2046 # a list of names
[ $# -gt 0 ] || set -- $(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | grep -vx fuzz)

# What cargo-fuzz sets, without its sanitizers: those need a nightly compiler, and there is next to no unsafe code here.
flags='--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares'
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=$(echo "$flags" | tr -s '\n ' ' ') cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml \
    --target-dir target/fuzz --target "$host" --bins

for parser in "$@"; do
    found=target/fuzz/corpus/$parser
    mkdir -p "$found"
    if ! "target/fuzz/$host/release/$parser" -max_total_time="$seconds" -runs="${RUNS:--1}" -max_len=65536 \
        -timeout=10 -print_final_stats=1 -artifact_prefix="target/fuzz/$parser-" "$found" "fuzz/corpus/$parser" >"target/fuzz/$parser.log" 2>&1; then
        tail -n 30 "target/fuzz/$parser.log" >&2
        echo "fuzz: $parser fails; its log is target/fuzz/$parser.log" >&2
        exit 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "target/fuzz/$parser.log")
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "target/fuzz/$parser.log" | tail -n 1)
    echo "fuzz: $parser: $runs inputs in at most $seconds s, $edges edges covered, nothing found"
done
