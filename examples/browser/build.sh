#!/bin/sh
# Installs the client library ($WARRENGATE_PACKAGE, or the one of this repository, which is built), and builds page/app.js.
set -eu
cd "$(dirname "$0")"
package=${WARRENGATE_PACKAGE:-}
if [ -z "$package" ]; then
  package=$(cd ../../clients/typescript && npm ci --silent --no-audit --no-fund && npm run --silent build && npm pack --silent --pack-destination .)
  package=../../clients/typescript/$package
fi
npm install --silent --no-save --no-audit --no-fund "$package"
exec npm run --silent build
