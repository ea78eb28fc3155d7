#!/bin/sh
# Generates the stubs and runs the quick start.
set -eu
cd "$(dirname "$0")"
[ -d generated ] || go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate ../../proto
exec go run . "$@"
