#!/bin/sh
# Installs what package.json pins, generates the stubs, and runs the quick start.
set -eu
cd "$(dirname "$0")"
[ -d node_modules ] || npm install --silent --no-save --no-audit --no-fund
[ -d generated ] || npm run --silent generate
exec npm start --silent -- "$@"
