#!/bin/sh
# Creates a virtual environment (in $VENV, or .venv here), installs what pyproject.toml names, generates the stubs, and runs
# the quick start.
set -eu
venv=${VENV:-$(dirname "$0")/.venv}
mkdir -p "$venv"
venv=$(cd "$venv" && pwd)
cd "$(dirname "$0")"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
# One requirement per line.
"$venv/bin/python" - >"$venv/requirements.txt" <<'PYTHON'
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print(*project["dependencies"], *project["optional-dependencies"]["generate"], sep="\n")
PYTHON
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$venv/requirements.txt"
mkdir -p generated
"$venv/bin/python" -m grpc_tools.protoc -I ../../proto --python_out=generated --grpc_python_out=generated \
    ../../proto/warrengate/v1/*.proto
exec "$venv/bin/python" quickstart.py "$@"
