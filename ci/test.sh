#!/usr/bin/env bash
# Runs all tests with the race detector: the module's (fuzz seeds are part of them), then the end-to-end tests of
# integration/, which need node packages and a browser. Their set-up installs what is missing, or says what is
# and fails: nothing is skipped. Arguments go to go test.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [[ -f integration/go.mod ]]; then
	heading "integration: set-up"
	integration/setup.sh
fi

# All of them run, also after a failure; go test's own lines are the last ones.
status=0
for dir in $(modules); do
	heading "go test -race: $dir"
	(cd "$dir" && go test -race -count=1 "$@" ./...) || status=1
done
exit "$status"
