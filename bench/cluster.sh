#!/usr/bin/env bash
# Measures what many streams cost that nodes share: bench/cluster.sh [flags]
#
#	-s STREAMS  each with a client on each of three nodes (10000)
#	-t SECONDS  for which nothing happens, and is measured (30)
#
# It prints the memory of each node before and after, and what the idle nodes use of processors and say to each other.
# What a stream costs with subscribers is measured by bench/run.sh, with the systems owner, follower and fan.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

streams=10000 seconds=30
while getopts s:t: flag; do
	case $flag in
	s) streams=$OPTARG ;;
	t) seconds=$OPTARG ;;
	*) die "see the head of $0" ;;
	esac
done

work=$(mktemp -d)
trap 'end_all; rm -rf "$work"' EXIT
ulimit -n "$(ulimit -Hn)" # a node has one and a third files for each stream
(cd "$root" && go build -buildvcs=false -o "$work/ssebench" ./cmd/ssebench)
build_cluster

# memory NUMBER: of a node, in KiB.
memory() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/${node[$1]}/status"; }

# processor NUMBER: that a node has used, in hundredths of a second.
processor() { awk '{ print $14 + $15 }' "/proc/${node[$1]}/stat"; }

# figure NUMBER NAME: one of the metrics of a node.
figure() { figures "$1" | awk -v name="caddy_sse_$2" '$1 == name { printf "%d", $2 }'; }

BENCH_ORIGIN=$(free_port 19000)
spawn "$load_core" "$work/ssebench" origin -addr "127.0.0.1:$BENCH_ORIGIN"
wait_port "$BENCH_ORIGIN"
start_nodes "$server_core" 3
declare -A before
for n in 1 2 3; do before[$n]=$(memory "$n"); done
# ask NUMBER PART: clients of a node, one for each stream of a third of them.
ask() {
	spawn "$load_core" "$work/ssebench" client -addr "127.0.0.1:${node_port[$1]}" -host "$host" -n "$((streams / 3))" -streams "$((streams / 3))" \
		-path "/events/$2/{s}" -conc 10 -settle 1h -timeout 10m
}

# await NUMBER COUNT: until a node has so many streams.
await() {
	local i
	for ((i = 0; ; i++)); do
		if (($(figure "$1" 'cluster_streams{role="owns"}') + $(figure "$1" 'cluster_streams{role="follows"}') >= $2)); then return; fi
		((i < 3000)) || die "node $1 has too few streams; see $work/log"
		sleep 0.1
	done
}

for n in 1 2 3; do ask "$n" "$n"; done # each owns a third
for n in 1 2 3; do await "$n" "$((streams / 3))"; done
for n in 1 2 3; do # and follows the others
	ask "$n" "$((n % 3 + 1))"
	ask "$n" "$(((n + 1) % 3 + 1))"
done
for n in 1 2 3; do await "$n" "$((streams / 3 * 3))"; done
sleep 15 # until what was new is not
declare -A cpu sent messages
for n in 1 2 3; do
	cpu[$n]=$(processor "$n") sent[$n]=$(figure "$n" 'cluster_bytes_total{direction="out"}') messages[$n]=$(figure "$n" 'cluster_messages_total{direction="out"}')
done
sleep "$seconds"
versions
printf '%d streams, each with a client on each of three nodes; %d s without an event; load average %s.\n\n' "$streams" "$seconds" "$(cut -d' ' -f1-3 /proc/loadavg)"
printf '| node | owns | follows | KiB for a stream and its client | CPU | bytes/s to others | messages/s to others |\n| --- | --- | --- | --- | --- | --- | --- |\n'
for n in 1 2 3; do
	awk -v n="$n" -v owns="$(figure "$n" 'cluster_streams{role="owns"}')" -v follows="$(figure "$n" 'cluster_streams{role="follows"}')" \
		-v kib="$(($(memory "$n") - before[$n]))" -v cpu="$(($(processor "$n") - cpu[$n]))" \
		-v sent="$(($(figure "$n" 'cluster_bytes_total{direction="out"}') - sent[$n]))" \
		-v messages="$(($(figure "$n" 'cluster_messages_total{direction="out"}') - messages[$n]))" -v streams="$streams" -v seconds="$seconds" \
		'BEGIN { printf "| %d | %d | %d | %.1f | %.1f %% of a core | %.0f | %.0f |\n", n, owns, follows, kib / streams, cpu / seconds, sent / seconds, messages / seconds }'
done
