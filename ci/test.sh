#!/usr/bin/env bash
# Runs all tests with the race detector: the module's (fuzz seeds are part of them), and the end-to-end tests of
# integration/, which need node packages and a browser. Their set-up installs what is missing, or says what is
# and fails: nothing is skipped. Arguments go to go test, whose own lines are the last ones.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [[ -f integration/go.mod ]]; then
	step "integration: set-up" integration/setup.sh
fi

root=$PWD
rm -rf ./_artifacts integration/_artifacts # screenshots of the run before
mkdir _artifacts

# What waits more than it computes runs beside others: it says so with t.Parallel.
run() { go test -race -artifacts -count=1 -parallel=8 -timeout=30m "$@"; }

# test_module tests the module in a folder. There are two ways to write to clients: see "delivery" in
# docs/concepts/delivery.md. All tests run for the default, and those that have asked which one it is
# (internal/deliverytest) run for the other too: only they depend on it. Those of the gateway run over HTTP/2 as well,
# where streams are taken over, unless they say that this is nothing to them.
test_module() (
	module=$1 failed=0
	shift
	noted=$root/_artifacts/delivery-$(basename "$PWD/$module").txt # lines of a folder and a test in it
	cd "$root/$module"
	: >"$noted"
	heading "go test -race: $module, delivery connection"
	CADDY_SSE_DELIVERY=connection CADDY_SSE_DELIVERY_NOTE=$noted run "$@" ./... || failed=1
	if [[ $# == 0 && ! -s $noted ]]; then
		printf '** no test of %s has asked for the delivery: the other one is not tested\n' "$module"
		failed=1
	fi
	mapfile -t dirs < <(cut -f1 "$noted" | sort -u)
	for dir in "${dirs[@]}"; do
		cd "$dir"
		names=$(awk -F '\t' -v dir="$dir" '$1 == dir && !$3 { print $2 }' "$noted" | sort | paste -sd '|')
		heading "go test -race: ${dir#"$root"}, delivery handler: $(tr '|' '\n' <<<"$names" | wc -l) tests"
		CADDY_SSE_DELIVERY=handler run "$@" -run "^($names)\$" . || failed=1
	done
	if [[ $module == . ]]; then
		cd "$root"
		names=$(awk -F '\t' -v dir="$root" '$1 == dir { if ($3) not[$2]; else asks[$2] }
			END { for (name in asks) if (!(name in not)) print name }' "$noted" | sort | paste -sd '|')
		heading "go test -race: over HTTP/2: $(tr '|' '\n' <<<"$names" | wc -l) tests"
		CADDY_SSE_DELIVERY=http2 run "$@" -run "^($names)\$" . || failed=1
		# The race detector costs five times the CPU, and it has seen the first 20,000.
		heading "go test: 80,000 more random scenarios of sharing"
		go test -count=1 -timeout=30m -run '^TestSharingIsEarned$' ./internal/stream -earned.runs 80000 || failed=1
	fi
	exit "$failed"
)

# The end-to-end tests wait while the others compute, so they run beside them, and are shown when both are done.
log=_artifacts/integration.log
if [[ -f integration/go.mod ]]; then
	set -m # a group of its own, to end all of it
	test_module integration "$@" >"$log" 2>&1 &
	beside=$!
	set +m
	trap 'kill -- "-$beside" 2>/dev/null; exit 1' INT TERM
fi
test_module . "$@" || status=1
if [[ -f integration/go.mod ]]; then
	wait "$beside" || status=1
	cat "$log"
fi
