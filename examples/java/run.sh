#!/bin/sh
# Installs the client library ($WARRENGATE_PACKAGE, a jar, or the one of this repository) in the local repository of
# Maven, and runs the quick start.
set -eu
cd "$(dirname "$0")"
if [ -n "${WARRENGATE_PACKAGE:-}" ]; then
  mvn --quiet --batch-mode org.apache.maven.plugins:maven-install-plugin:3.1.4:install-file -Dfile="$WARRENGATE_PACKAGE" >&2
else
  mvn --quiet --batch-mode --file ../../clients/java install -Dmaven.test.skip -Dmaven.javadoc.skip -Dmaven.source.skip >&2
fi
mvn --quiet --batch-mode compile dependency:build-classpath -Dmdep.outputFile=target/classpath >&2
exec java -cp "target/classes:$(cat target/classpath)" warrengate.example.Quickstart "$@"
