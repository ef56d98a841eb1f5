#!/usr/bin/env bash
# Runs each fuzz test of the module for a while: ci/fuzz.sh [30s]. What it finds is kept below testdata/fuzz, to be
# committed with the fix.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

found=0
for package in $(go list ./...); do
	for name in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		heading "$package $name"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "${1:-30s}" "$package"
		found=1
	done
done
if ((!found)); then
	echo "no fuzz test found" >&2
	exit 1
fi
