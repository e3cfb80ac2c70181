#!/bin/sh
# Outlives the owner of a lab. Its standard input is a pipe whose other end only the owner holds: when it closes
# without the word "keep", however the owner ended, the lab is taken down.
if read -r word && [ "$word" = keep ]; then
    exit 0
fi
settle=1 exec sh "$1"
