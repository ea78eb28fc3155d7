#!/bin/sh
# Runs the quick start.
set -eu
# Physically, because the module refers to the library by a relative path.
cd -P "$(dirname "$0")"
exec go run . "$@"
