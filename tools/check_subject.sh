#!/usr/bin/env bash
# Check the first line of a commit message, which git puts into a file: tools/check_subject.sh FILE
set -eu
subject=$(head -n 1 "$1")
if [ "${#subject}" -ge 72 ]; then
    echo "The subject has ${#subject} characters; it has fewer than 72. The body says why." >&2
    exit 1
fi
