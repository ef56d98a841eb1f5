#!/usr/bin/env bash
# Runs all tests with the race detector: the module's (fuzz seeds are part of them), and the end-to-end tests of
# integration/, which need node packages and a browser. Their set-up installs what is missing, or says what is
# and fails: nothing is skipped. An argument is a pattern: only tests run whose names match it.
#
# Most tests wait more than they compute, so several processes run at once (workers): not more of
# them, because some tests say how long something may take at most. A Caddy is process-global, so
# those tests that load one cannot run beside each other in one process. So the tests of a folder are dealt to groups,
# whose tests run one after the other, in a process of their own. What a process prints is shown when it ends, if one of
# its tests has failed.
#
# There are two ways to write to clients: see "delivery" in docs/concepts/delivery.md. All tests run for the default,
# and those that have asked which one it is (internal/deliverytest) run for the other too: only they depend on it. Those
# of the gateway run over HTTP/2 as well, where streams are taken over, unless they say that this is nothing to them.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly workers=3
pattern=${1-.}
work=$(mktemp -d)
trap 'status=$(($? | status)); rm -rf "$work"; exit "$status"' EXIT

rm -rf ./_artifacts integration/_artifacts # screenshots of the run before

# tests runs tests of a binary in the folder of its package, with further arguments.
tests() {
	local title=$1 folder=$2 binary=$3 log=$work/$BASHPID.log began=$SECONDS failed=0
	shift 3
	(cd "$folder" && "$binary" -test.artifacts -test.outputdir="$PWD" -test.count=1 -test.parallel=4 -test.timeout=30m "$@") \
		>"$log" 2>&1 || failed=1
	tell "$failed" "$title" "$began" "$log"
}

# tell tells how tests have ended that have begun at a second, and what they have printed if they have failed.
tell() {
	flock 9
	if (($1 == 0)); then
		printf 'ok   %4d s  %s\n' $((SECONDS - $3)) "$2"
	else
		heading "$2"
		cat "$4"
		printf 'FAIL %4d s  %s\n' $((SECONDS - $3)) "$2" | tee -a "$work/failed"
	fi
} 9>"$work/lock"

# count says how many names are joined by |.
count() { tr '|' '\n' <<<"$1" | wc -l; }

# group runs the tests of a group: for connection, and those that ask for the other ways too.
group() {
	local folder=$1 n=$2 names noted=$work/noted.${1/./root}.$2 binary=$work/${1/./root}.test
	names=$(paste -sd '|' "$work/names.${1/./root}.$n")
	: >"$noted" # lines of a folder and a test in it
	CADDY_SSE_DELIVERY=connection CADDY_SSE_DELIVERY_NOTE=$noted \
		tests "$folder, group $n, delivery connection, $(count "$names") tests" "$folder" "$binary" -test.run "^($names)\$"
	names=$(awk -F '\t' '!$3 { print $2 }' "$noted" | sort -u | paste -sd '|')
	if [[ $names ]]; then
		CADDY_SSE_DELIVERY=handler tests "$folder, group $n, delivery handler, $(count "$names") tests" "$folder" "$binary" -test.run "^($names)\$"
	fi
	names=$(awk -F '\t' '{ if ($3) not[$2]; else asks[$2] } END { for (name in asks) if (!(name in not)) print name }' "$noted" | sort | paste -sd '|')
	if [[ $names && $folder == . ]]; then
		CADDY_SSE_DELIVERY=http2 tests "$folder, group $n, over HTTP/2, $(count "$names") tests" "$folder" "$binary" -test.run "^($names)\$"
	fi
}

# deal compiles the tests of a folder, and deals them to groups.
deal() {
	local folder=$1 groups=$2 name=${1/./root}
	(cd "$folder" && go test -race -c -o "$work/$name.test" .)
	(cd "$folder" && "$work/$name.test" -test.list "$pattern") | grep -E '^(Test|Fuzz|Example)' |
		awk -v groups="$groups" -v names="$work/names.$name." '{ print >(names (NR % groups)) }'
}

# others runs the tests of the packages below the module's own.
others() {
	local began=$SECONDS packages failed=0
	mapfile -t packages < <(go list ./... | grep -vxF "$(go list .)")
	go test -race -artifacts -count=1 -p=1 -timeout=30m -run "$pattern" "${packages[@]}" >"$work/others.log" 2>&1 || failed=1
	# The race detector costs five times the CPU, and it has seen the first 20,000.
	if grep -qE "$pattern" <<<TestSharingIsEarned; then
		go test -count=1 -timeout=30m -run '^TestSharingIsEarned$' ./internal/stream -earned.seed 2 -earned.runs 80000 >>"$work/others.log" 2>&1 || failed=1
	fi
	tell "$failed" "the other packages" "$began" "$work/others.log"
}

# nested runs the tests of a module below, which are few: its Caddy is the one of the folder cmd/caddy there.
nested() {
	local began=$SECONDS failed=0
	(cd "$1" && go test -race -count=1 -timeout=10m -run "$pattern" ./...) >"$work/nested.log" 2>&1 || failed=1
	tell "$failed" "$1" "$began" "$work/nested.log"
}

# queue is what the workers do, in this order: what takes long comes first.
queue() {
	local names
	printf 'others\n'
	if [[ -f cluster/nats/go.mod ]]; then printf 'nested cluster/nats\n'; fi
	for names in "$work"/names.integration.* "$work"/names.root.*; do
		names=${names#"$work/names."}
		printf 'group %s %s\n' "$(sed s/root/./ <<<"${names%.*}")" "${names##*.}"
	done
}

if [[ -f integration/go.mod ]]; then
	step "integration: set-up" integration/setup.sh
	export CADDY_SSE_PROGRAMS=$work/programs
	mkdir "$CADDY_SSE_PROGRAMS"
	deal integration 4
fi
deal . 12

export work pattern
export -f tests tell count group others nested heading
set -m # a process group of their own, to end all of them
queue | xargs -P "$workers" -I '{}' bash -euo pipefail -c '{}' & # which works until the queue is empty, whatever fails
beside=$!
set +m
trap 'kill -- "-$beside" 2>/dev/null; exit 1' INT TERM
wait "$beside" || status=1

if ! grep -qs . "$work"/noted.root.*; then
	printf '** no test has asked for the delivery: the other one is not tested\n'
	status=1
fi
if [[ -f $work/failed ]]; then
	heading "what has failed"
	cat "$work/failed"
	status=1
fi
