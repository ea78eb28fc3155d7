#!/bin/sh
# Builds and runs the quick start.
set -eu
cd "$(dirname "$0")"
exec cargo run --quiet --locked -- "$@"
