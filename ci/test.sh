#!/usr/bin/env bash
# Runs all tests with the race detector: the module's (fuzz seeds are part of them), then the end-to-end tests of
# integration/, which need node packages and a browser. Their set-up installs what is missing, or says what is
# and fails: nothing is skipped. Arguments go to go test, whose own lines are the last ones.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [[ -f integration/go.mod ]]; then
	step "integration: set-up" integration/setup.sh
fi

root=$PWD
for dir in $(modules); do
	cd "$root/$dir"
	heading "go test -race: $dir"
	go test -race -count=1 -timeout=30m "$@" ./... || status=1
done
