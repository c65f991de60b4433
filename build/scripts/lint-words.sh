#!/bin/sh
# Checks the pages: banned words and sentences that begin with a clause (docs/STYLE.md), and links without a target.
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

words='mend|mends|mended|mending|heed|heeds|heeded|tell|tells|telling|told|anew|lest|whoever|whomever'
for page in $(git ls-files '*.md' docs/update.conf | grep -vx docs/STYLE.md); do
    found=$(prose "$page" | grep -nwiE "$words" || true)
    [ -z "$found" ] || complain "$page has a banned word:
$found"
    found=$(prose "$page" | grep -nE '(^|[.:|*] +|^#+ +|^# )(What|Who|Whatever|Whether) [^?]*$' || true)
    [ -z "$found" ] || complain "$page has a sentence that begins with a clause:
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
