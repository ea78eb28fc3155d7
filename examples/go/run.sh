#!/bin/sh
# Generates the stubs and runs the quick start.
set -eu
cd "$(dirname "$0")"
if [ ! -d generated ] || [ -n "$(find ../../proto -newer generated)" ]; then
  go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate ../../proto && touch generated
fi
exec go run . "$@"
