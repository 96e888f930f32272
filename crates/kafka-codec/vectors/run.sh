#!/bin/sh
# Writes golden.txt anew with the Java client of the version the generator is run on.
set -eu
cd "$(dirname "$0")"
version=${1:-4.2.0}
jars=$(mktemp -d)
trap 'rm -rf "$jars"' EXIT
for artifact in "org.apache.kafka:kafka-clients:$version" org.slf4j:slf4j-api:1.7.36 org.slf4j:slf4j-nop:1.7.36; do
    mvn -q dependency:copy -Dartifact="$artifact" -DoutputDirectory="$jars"
done
java -cp "$jars/*" GoldenVectors.java ../tests/support/schema.txt > golden.txt.new
mv golden.txt.new golden.txt
wc -l golden.txt
