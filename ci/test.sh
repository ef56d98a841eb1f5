#!/usr/bin/env bash
# Runs all tests with the race detector: the module's (fuzz seeds are part of them), then the end-to-end tests of
# integration/, which need node packages and a browser. Their set-up installs what is missing, or says what is
# and fails: nothing is skipped. Arguments go to go test, whose own lines are the last ones.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [[ -f integration/go.mod ]]; then
	step "integration: set-up" integration/setup.sh
fi

rm -rf ./_artifacts integration/_artifacts # screenshots of the run before

# The gateway's tests run for both ways to write to clients: see "delivery" in docs/concepts/delivery.md.
root=$PWD
mapfile -t dirs < <(modules)
for delivery in handler connection; do
	for dir in "${dirs[@]}"; do
		cd "$root/$dir"
		heading "go test -race: $dir, delivery $delivery"
		CADDY_SSE_DELIVERY=$delivery go test -race -artifacts -count=1 -timeout=30m "$@" ./... || status=1
	done
done
