#!/bin/sh
# Creates a virtual environment (in $VENV, or .venv here), installs the client library in it ($WARRENGATE_PACKAGE, or
# the one of this repository), and runs the quick start.
set -eu
venv=${VENV:-$(dirname "$0")/.venv}
mkdir -p "$venv"
venv=$(cd "$venv" && pwd)
cd "$(dirname "$0")"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${WARRENGATE_PACKAGE:-../../clients/python}"
exec "$venv/bin/python" quickstart.py "$@"
