#!/bin/sh
# Runs the application of traced.py in a separate virtual environment ($VENV), with separately generated stubs.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=${VENV:?}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    'grpcio==1.85.1' 'grpcio-tools==1.85.1' 'opentelemetry-sdk==1.45.2' 'opentelemetry-exporter-otlp-proto-grpc==1.45.2'
generated=$venv/generated
mkdir -p "$generated"
"$venv/bin/python" -m grpc_tools.protoc -I "$here/../../proto" --python_out="$generated" --grpc_python_out="$generated" \
    "$here"/../../proto/warrengate/v1/*.proto
PYTHONPATH=$generated exec "$venv/bin/python" "$here/traced.py"
