#!/usr/bin/env bash
# Runs each fuzz test of the module for a while: ci/fuzz.sh [30s]. What it finds is kept below testdata/fuzz, to be
# committed with the fix.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=$(go list ./...)
for package in $packages; do
	names=$(go test -list '^Fuzz' "$package")
	for name in $(grep '^Fuzz' <<<"$names" || true); do
		step "$name in $package" go test -run '^$' -fuzz "^$name\$" -fuzztime "${1:-30s}" "$package"
	done
done
