#!/usr/bin/env bash
# Measures the gateway beside others: bench/run.sh [flags] SCENARIO [SYSTEM...]
#
#	-k ROUNDS   of each system, alternating (5)
#	-n COUNT    subscribers, in place of the scenario's own
#	-o DIR      where results.jsonl and report.md go; results are added (bench/out)
#
# Scenarios: cpu.
# Systems: floor ours stock nchan nginx haproxy varnish, ours+'OPTION' (a further option of sse), NAME=PROGRAM (another
# build of the gateway). The server runs on core 0 (BENCH_SERVER_CORE), the load on core 1 (BENCH_LOAD_CORE).

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

rounds=5 count= out=$bench/out
while getopts k:n:o: flag; do
	case $flag in
	k) rounds=$OPTARG ;;
	n) count=$OPTARG ;;
	o) out=$OPTARG ;;
	*) die "see the head of $0" ;;
	esac
done
shift $((OPTIND - 1))
(($#)) || die "see the head of $0"
scenario=$1
shift
if (($#)); then systems=("$@"); else systems=(floor ours nchan stock nginx haproxy varnish); fi

work=$(mktemp -d)
chmod 755 "$work" # varnishd and nginx workers have users of their own
trap 'end_all; rm -rf "$work"' EXIT
mkdir -p "$out"
install_packages "${systems[@]}"
build_programs

# round SCENARIO SYSTEM: one measurement.
round() {
	local n
	case $1 in
	cpu) # CPU for a delivery, well below saturation
		for n in ${count:-1000 9800}; do
			measure "cpu-$n" "$2" -n "$n" -steps "$((n > 5000 ? 4 : 40)):10"
		done
		;;
	*) die "unknown scenario $1" ;;
	esac
}

for ((k = 1; k <= rounds; k++)); do
	for system in "${systems[@]}"; do
		round "$scenario" "$system"
	done
done
"$work/ssebench" report "$out/results.jsonl" | tee "$out/report.md"
