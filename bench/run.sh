#!/usr/bin/env bash
# Measures the gateway beside others: bench/run.sh [flags] SCENARIO|all [SYSTEM...]
#
#	-k ROUNDS   of each system, alternating (5)
#	-n COUNT    subscribers, in place of the scenario's own
#	-o DIR      where results.jsonl and report.md go; results are added (bench/out)
#
# Systems: floor ours wrapped (ours with its listener wrapper) stock nchan nginx haproxy varnish, without (ours less what a delivery does for metrics and the admin
# API), owner follower fan (nodes of a cluster; see lib.sh), ours+'OPTION' (a further option of sse), NAME=PROGRAM (another build of the gateway), NAME=PROGRAM+'OPTION'. The
# server runs on core 0 (BENCH_SERVER_CORE), the load on core 1 (BENCH_LOAD_CORE), both with priority BENCH_NICE (0).
# Without root, packages that are missing are named, not installed.
#
# Scenarios:
#	cpu         CPU for a delivery, far below saturation: 1,000 and 9,800 subscribers
#	cpu-h2      CPU for a delivery and memory for a subscriber over TLS and HTTP/2, as browsers come: 1 and 50 streams on a connection
#	saturation-h2, storm-h2, idle-h2-1  the same over TLS and HTTP/2 as saturation and storm, and as idle with a connection each
#	saturation  deliveries/s on one core: more events/s until the p99 is over a second
#	pileup      the same with events that come 20 at a time
#	big         the same with events of 10 KiB: MB/s
#	latency     1,000 subscribers, 10 events/s
#	single      one subscriber, 50 events/s
#	pipe        one subscriber, from 5,000 events/s on, 50 at a time
#	storm       9,800 subscribers connect, 500 at a time
#	idle        memory for an idle subscriber
#	idle-h2     the same over HTTP/2, 50 streams on a connection
#	crowd       100,000 subscribers over HTTP/2
#	streams     one stream of 9,800 subscribers, and 9,800 streams of one
#	resume      a subscriber leaves and comes back; the upstream connection is cut
#	stuck       9,800 subscribers, alone and with 100 more that never read

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

rounds=5 count='' out=$bench/out

# round SCENARIO SYSTEM: its measurements, once.
round() {
	local n name=$1 system=$2 tls=
	case $name in
	cpu-h2)
		tls=1
		for n in 1 50; do
			measure "cpu-h2-$n" "$system" -tls -h2 -per-conn "$n" -n "${count:-1000}" -settle 5s -steps 10:8
		done
		;;
	saturation-h2)
		tls=1
		for n in 1 50; do
			measure "saturation-h2-$n" "$system" -tls -h2 -per-conn "$n" -n "${count:-1000}" -steps 20:2,30:2,40:2,50:2,60:2,70:2,80:2,100:2,120:2,150:2,200:2,300:2,500:2,800:2,1200:2
		done
		;;
	storm-h2)
		tls=1
		measure storm-h2 "$system" -tls -h2 -per-conn 1 -n "${count:-2000}" -settle 1s -steps 2:2
		;;
	idle-h2-1)
		tls=1
		measure idle-h2-1 "$system" -tls -h2 -per-conn 1 -n "${count:-5000}" -settle 10s -steps 1:2
		;;
	cpu)
		for n in ${count:-1000 9800}; do
			[[ $system != varnish || $n -le 5000 ]] || continue # threads for each subscriber: too many here
			measure "cpu-$n" "$system" -n "$n" -saturated 20s -steps "$((n > 5000 ? 4 : 40)):8"
		done
		;;
	saturation) measure saturation "$system" -n "${count:-1000}" -steps 25:2,50:2,75:2,100:2,125:2,150:2,175:2,200:2,250:2,300:2,350:2,400:2,500:2,600:2,800:2,1000:2 ;;
	pileup) measure pileup "$system" -n "${count:-1000}" -burst 20 -steps 20:2,50:2,100:2,200:2,300:2,400:2,600:2,800:2,1000:2,1500:2,2000:2,3000:2 ;;
	big) measure big "$system" -n "${count:-1000}" -size 10240 -steps 5:2,10:2,20:2,30:2,40:2,50:2,60:2,80:2,100:2,120:2 ;;
	latency) measure latency "$system" -n "${count:-1000}" -steps 10:15 ;;
	pipe) measure pipe "$system" -n 1 -burst 50 -steps 5000:2,10000:2,20000:2,30000:2,40000:2,50000:2,60000:2,80000:2,100000:2 ;;
	single) measure single "$system" -n "${count:-1}" -steps 50:15 ;;
	storm) measure storm "$system" -n "${count:-9800}" -conc 500 -settle 1s -steps 2:2 ;;
	idle) measure idle "$system" -n "${count:-9800}" -settle 10s -steps 1:2 ;;
	idle-h2) measure idle-h2 "$system" -h2 -n "${count:-9800}" -settle 10s -steps 1:2 ;;
	crowd) measure crowd "$system" -h2 -n "${count:-100000}" -conc 1000 -settle 10s -saturated 1m -steps 0.25:20 ;;
	streams)
		for n in 1 "${count:-9800}"; do
			measure "streams-$n" "$system" -n "${count:-9800}" -streams "$n" -path '/events/{s}' -steps 4:8
		done
		;;
	resume) measure resume "$system" -resume ;;
	stuck)
		for n in 0 100; do
			measure "stuck-$n" "$system" -n "${count:-9800}" -stuck "$n" -size 1000 -steps 4:30
		done
		;;
	*) die "unknown scenario $name" ;;
	esac
}

# systems_of SCENARIO: those for which it makes sense. nginx, HAProxy and Varnish need a set-up of their own for HTTP/2
# without TLS; one process cannot hold 100,000 connections to an origin beside; a hub has the streams that are posted
# to, one event at a time; Varnish has threads for each subscriber.
systems_of() {
	case $1 in
	idle | storm) echo ours stock nchan nginx haproxy ;;
	idle-h2 | streams) echo ours stock ;;
	*-h2 | idle-h2-1) echo wrapped ours nchan stock ;;
	crowd) echo ours ;;
	resume) echo ours nchan stock nginx haproxy varnish ;;
	stuck) echo floor ours nchan ;;
	pileup) echo floor ours stock nginx haproxy ;;
	*) echo floor ours nchan stock nginx haproxy varnish ;;
	esac
}

main() {
	local flag name system scenario scenarios systems k

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

	work=$(mktemp -d)
	chmod 755 "$work" # varnishd and nginx workers have users of their own
	trap 'end_all; rm -rf "$work"' EXIT
	mkdir -p "$out"
	if (($#)); then install_packages "$@"; else install_packages nginx nchan haproxy varnish; fi
	build_programs
	if [[ " $* " == *" without "* ]]; then build_without; fi
	if [[ " $* " =~ \ (owner|follower|fan)\  ]]; then build_cluster; fi

	if [[ $scenario == all ]]; then
		scenarios=(cpu-h2 saturation-h2 storm-h2 idle-h2-1 cpu saturation pileup big latency single storm idle idle-h2 crowd streams stuck resume)
	else
		scenarios=("$scenario")
	fi
	for name in "${scenarios[@]}"; do
		if (($#)); then systems=("$@"); else read -ra systems <<<"$(systems_of "$name")"; fi
		for ((k = 1; k <= rounds; k++)); do
			for system in "${systems[@]}"; do
				round "$name" "$system"
			done
		done
	done
	{
		versions
		"$work/ssebench" report "$out/results.jsonl"
	} | tee "$out/report.md"
}

main "$@"
exit
