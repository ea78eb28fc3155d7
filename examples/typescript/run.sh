#!/bin/sh
# Installs what package.json pins, generates the stubs, and runs the quick start.
set -eu
cd "$(dirname "$0")"
[ -d node_modules ] || npm install --silent --no-save --no-audit --no-fund
if [ ! -d generated ] || [ -n "$(find ../../proto -newer generated)" ]; then
  npm run --silent generate && touch generated
fi
exec npm start --silent -- "$@"
