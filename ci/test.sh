#!/usr/bin/env bash
# Runs all tests with the race detector: the module's (fuzz seeds are part of them), then the end-to-end tests of
# integration/, which need node packages and a browser. Their set-up installs what is missing, or says what is
# and fails: nothing is skipped. Arguments go to go test.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [[ -f integration/go.mod ]]; then
	step "integration: set-up" integration/setup.sh
fi

rm -rf ./_artifacts integration/_artifacts # screenshots of the run before

# There are two ways to write to clients: see "delivery" in docs/concepts/delivery.md. All tests run for the default,
# and those that have asked which one it is (internal/deliverytest) run for the other too: only they depend on it.
root=$PWD
mkdir -p _artifacts
noted=$root/_artifacts/delivery.txt # lines of a folder and a test in it
: >"$noted"

run() { go test -race -artifacts -count=1 -timeout=30m "$@" || status=1; }

mapfile -t dirs < <(modules)
for dir in "${dirs[@]}"; do
	cd "$root/$dir"
	heading "go test -race: $dir, delivery connection"
	CADDY_SSE_DELIVERY=connection CADDY_SSE_DELIVERY_NOTE=$noted run "$@" ./...
	if [[ $# == 0 ]] && ! grep -qsF "$PWD"$'\t' "$noted"; then
		printf '** no test of %s has asked for the delivery: the other one would not be tested\n' "$dir"
		status=1
	fi
done

mapfile -t dirs < <(cut -f1 "$noted" | sort -u)
for dir in "${dirs[@]}"; do
	cd "$dir"
	names=$(awk -F '\t' -v dir="$dir" '$1 == dir { print $2 }' "$noted" | sort | paste -sd '|')
	heading "go test -race: ${dir#"$root"}, delivery handler: $(tr '|' '\n' <<<"$names" | wc -l) tests"
	CADDY_SSE_DELIVERY=handler run "$@" -run "^($names)\$" .
done
