#!/bin/sh
# Fetches what pom.xml pins, generates the stubs, compiles, and runs the quick start.
set -eu
cd "$(dirname "$0")"
mvn --quiet --batch-mode compile dependency:build-classpath -Dmdep.outputFile=target/classpath >&2
exec java -cp "target/classes:$(cat target/classpath)" warrengate.example.Quickstart "$@"
