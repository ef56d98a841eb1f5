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
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
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
for n in 1 2 3; do # which owns what it is asked for first; the others follow
	spawn "$load_core" "$work/ssebench" client -addr "127.0.0.1:${node_port[$n]}" -host "$host" -n "$streams" -streams "$streams" -path '/events/{s}' -settle 1h -timeout 10m
	for ((i = 0; ; i++)); do
		if (($(figure "$n" 'cluster_streams{role="owns"}') + $(figure "$n" 'cluster_streams{role="follows"}') >= streams)); then break; fi
		((i < 6000)) || die "node $n has too few streams; see $work/log"
		sleep 0.1
	done
done
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
