#!/bin/sh
# Checks pages, and comments and messages of all sources: banned words and sentences that begin with a clause
# (docs/STYLE.md). Checks that links between pages have a target.
set -eu
cd "$(dirname "$0")/../.."

failed=0
complain() {
    echo "lint-words: $1" >&2
    failed=1
}

# A page without code: names of tests, commands, reasons.
# shellcheck disable=SC2016 # backticks, not a command
prose() { sed -e '/^ *```/,/^ *```/s/.*//' -e 's/`[^`]*`//g' "$1"; }

# Comments and strings of a source; a line without them is empty. A string without a blank is a word for programs.
code_prose() {
    awk '{
        out = ""; rest = $0
        if (match(rest, "^ *//[/!]?")) {
            out = substr(rest, RLENGTH + 1)
        } else {
            while (match(rest, "\"([^\"\\\\]|\\\\.)*\"")) {
                text = substr(rest, RSTART + 1, RLENGTH - 2)
                if (text ~ / /) out = out "|" text
                rest = substr(rest, 1, RSTART - 1) substr(rest, RSTART + RLENGTH)
            }
            if (at = index(rest, " // ")) out = out "|" substr(rest, at + 4)
        }
        gsub(/`[^`]*`/, "", out)
        gsub(/[{][^}]*[}]/, "", out)
        print out
    }' "$1"
}

words='mend|mends|mended|mending|heed|heeds|heeded|tell|tells|telling|told|anew|lest|whoever|whomever'
for page in $(git ls-files '*.md' docs/update.conf | grep -vx docs/STYLE.md); do
    found=$(prose "$page" | grep -nwiE "$words" || true)
    [ -z "$found" ] || complain "$page has a banned word:
$found"
    found=$(prose "$page" | grep -nE '(^|[.:|*] +|^#+ +|^# )(What|Who|Whatever|Whether) [^?]*$' || true)
    [ -z "$found" ] || complain "$page has a sentence that begins with a clause:
$found"
done

for source in $(git ls-files '*.rs'); do
    found=$(code_prose "$source" | grep -nwiE "$words" || true)
    [ -z "$found" ] || complain "$source has a banned word:
$found"
    found=$(code_prose "$source" | grep -nE '(^|[.:|*]) *(What|Who|Whatever|Whether) [^?]*$' || true)
    [ -z "$found" ] || complain "$source has a sentence that begins with a clause:
$found"
done

# anchors PAGE: of its headings, as repository hosts make them
anchors() { sed -n 's/^##* //p' "$1" | tr '[:upper:] ' '[:lower:]-' | tr -cd 'a-z0-9_\n-'; }
for page in $(git ls-files '*.md'); do
    for link in $(prose "$page" | grep -oE '\]\([^)]+\)' | sed 's/^](//; s/)$//' | grep -vE '^https?:'); do
        file=$(dirname "$page")/${link%%#*}
        [ -n "${link%%#*}" ] || file=$page
        if [ ! -e "$file" ]; then
            complain "$page: $link does not exist"
        elif [ "$link" != "${link#*#}" ] && ! anchors "$file" | grep -qxF -e "${link#*#}"; then
            complain "$page: $link: $file has no such heading"
        fi
    done
done
exit $failed
