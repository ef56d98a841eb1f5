#!/usr/bin/env bash
# Runs all tests with the race detector: the module's (fuzz seeds are part of them), and the end-to-end tests of
# integration/, which need node packages and a browser. Their set-up installs what is missing, or says what is
# and fails: nothing is skipped. An argument is a pattern: only tests run whose names match it.
#
# Most tests wait more than they compute, so several processes run at once (workers): not more of
# them, because some tests say how long something may take at most. A Caddy is process-global, so
# those tests that load one cannot run beside each other in one process. So the tests of a folder are dealt to groups,
# whose tests run one after the other, in a process of their own: to groups that take about as long as one another
# (ci/seconds.txt). What a process prints is shown when it ends, if one of its tests has failed.
#
# Some tests only compute, in fake time (computing). They begin first, and get what the others leave of the processors.
#
# There are two ways to write to clients: see "delivery" in docs/concepts/delivery.md. All tests run for the default,
# and those that have asked which one it is (internal/deliverytest) run for the other too: only they depend on it. Those
# of the gateway run over HTTP/2 as well, where streams are taken over. Both unless they say that this is nothing to them.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly workers=4 # one of them computes, at first
readonly computing='TestSharingIsEarned|TestModel' # of internal/stream
pattern=${1-.}
work=$(mktemp -d)
trap 'status=$(($? | status)); rm -rf "$work"; exit "$status"' EXIT

rm -rf ./_artifacts integration/_artifacts # screenshots of the run before

# tests runs a command that tests, and tells how that has ended, how long it took, and for how long it had a processor.
tests() {
	local title=$1 log=$work/$BASHPID.log failed=0 TIMEFORMAT='%R %U %S' took
	shift
	took=$({ time "$@" >"$log" 2>&1; } 2>&1) || failed=1
	tell "$failed" "$(awk '{ printf "%4.0f s (%3.0f s of CPU)", $1, $2 + $3 }' <<<"$took")  $title" "$log"
}

# tell tells how tests have ended, and what they have printed if they have failed.
tell() {
	flock 9
	if (($1 == 0)); then
		printf 'ok   %s\n' "$2"
	else
		heading "$2"
		cat "$3"
		printf 'FAIL %s\n' "$2" | tee -a "$work/failed"
	fi
} 9>"$work/lock"

# binary runs tests of a binary in the folder of its package.
binary() { (cd "$1" && "$2" -test.artifacts -test.outputdir="$PWD" -test.count=1 -test.parallel=4 -test.timeout=30m -test.run "^($3)\$"); }

# count says how many names are joined by |.
count() { tr '|' '\n' <<<"$1" | wc -l; }

# asking prints the tests that were noted because they ask, less those of which a pattern was noted, joined by |.
asking() {
	awk -F '\t' -v pattern="$2" '!$3 { asks[$2] } $3 && $3 ~ pattern { not[$2] } END { for (name in asks) if (!(name in not)) print name }' "$1" |
		sort | paste -sd '|'
}

# group runs the tests of a group: for connection, and those that ask for the other ways too.
group() {
	local folder=$1 n=$2 name=${1/./root} names
	local noted=$work/noted.$name.$n binary=$work/$name.test title="$folder, group $n"
	names=$(paste -sd '|' "$work/names.$name.$n")
	: >"$noted" # lines of a folder and a test in it
	CADDY_SSE_DELIVERY=connection CADDY_SSE_DELIVERY_NOTE=$noted \
		tests "$title, delivery connection, $(count "$names") tests" binary "$folder" "$binary" "$names"
	names=$(asking "$noted" once)
	if [[ $names ]]; then
		CADDY_SSE_DELIVERY=handler tests "$title, delivery handler, $(count "$names") tests" binary "$folder" "$binary" "$names"
	fi
	names=$(asking "$noted" .)
	if [[ $names && $folder == . ]]; then
		CADDY_SSE_DELIVERY=http2 tests "$title, over HTTP/2, $(count "$names") tests" binary "$folder" "$binary" "$names"
	fi
}

# deal compiles the tests of a folder, and deals them to groups: each, those first that take long, to the group that has
# least to do.
deal() {
	local folder=$1 groups=$2 name=${1/./root}
	(cd "$folder" && go test -race -c -o "$work/$name.test" .)
	(cd "$folder" && "$work/$name.test" -test.list "$pattern") | sed -nE '/^(Test|Fuzz|Example)/p' |
		awk 'FNR == NR { takes[$1] = $2; next } { print $1, $1 in takes ? takes[$1] : 1 }' ci/seconds.txt - | sort -k2,2nr -s |
		awk -v groups="$groups" -v names="$work/names.$name." '{
			least = 0
			for (n = 1; n < groups; n++) if (has[n] < has[least]) least = n
			has[least] += $2
			print $1 >(names least)
		}'
}

# others runs the tests of the packages below the module's own, but for those that compute.
others() {
	local packages
	mapfile -t packages < <(go list ./... | grep -vxF "$(go list .)")
	tests "the other packages" go test -race -artifacts -count=1 -p=1 -timeout=30m -run "$pattern" -skip "^($computing)\$" "${packages[@]}"
}

# compute runs those that compute.
compute() {
	local names
	names=$(tr '|' '\n' <<<"$computing" | grep -E "$pattern" | paste -sd '|') || return 0
	tests "$names" nice -n 5 go test -race -count=1 -timeout=30m -run "^($names)\$" ./internal/stream
	# The race detector costs five times the CPU, and it has seen the first 20,000.
	if grep -qE "$pattern" <<<TestSharingIsEarned; then
		tests "TestSharingIsEarned, more of it" nice -n 5 go test -count=1 -timeout=30m -run '^TestSharingIsEarned$' \
			./internal/stream -earned.seed 2 -earned.runs 80000
	fi
}

# nested runs the tests of a module below, which are few: its Caddy is the one of the folder cmd/caddy there.
nested() { tests "$1" go -C "$1" test -race -count=1 -timeout=10m -run "$pattern" ./...; }

# queue is what the workers do, in this order: what takes long comes first, and what can begin before tests are dealt.
queue() {
	printf '%s\n' compute others
	if [[ -f cluster/nats/go.mod ]]; then printf 'nested cluster/nats\n'; fi
	if [[ -f integration/go.mod ]]; then
		deal integration 2 >&2 # which builds the programs; not more: many of these tests have a thousand clients
		touch "$CADDY_SSE_PROGRAMS/built"
		groups integration integration
	fi
	deal . 12 >&2
	groups . root
}

# groups prints what runs those of a folder.
groups() {
	local names
	for names in "$work/names.$2".*; do
		if [[ -f $names ]]; then printf 'group %s %s\n' "$1" "${names##*.}"; fi
	done
}

if [[ -f integration/go.mod ]]; then
	step "integration: set-up" integration/setup.sh
	export CADDY_SSE_PROGRAMS=$work/programs
	mkdir "$CADDY_SSE_PROGRAMS"
fi

export work pattern computing
export -f tests tell binary asking count group others nested compute heading
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
