# Sourced by run.sh: what is installed and built, and how each system is started and ended.
# shellcheck shell=bash disable=SC2154

set -euo pipefail

bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$bench")
server_core=${BENCH_SERVER_CORE:-0} load_core=${BENCH_LOAD_CORE:-1}
BENCH_NICE=${BENCH_NICE:-0}
export BENCH_PORT BENCH_ORIGIN BENCH_EXTRA BENCH_SITE BENCH_TLS BENCH_WRAPPER BENCH_CLUSTER BENCH_ADMIN
host= # not empty: what subscribers give as the host
tls= # not empty: subscribers come over TLS

die() {
	printf '%s\n' "$*" >&2
	exit 1
}

# install_packages NAME...: the Debian packages that the systems need.
install_packages() {
	local system wanted=()
	for system in "$@"; do
		case $system in
		nginx) command -v nginx >/dev/null || wanted+=(nginx-light) ;;
		nchan) [[ -e /etc/nginx/modules-enabled/50-mod-nchan.conf ]] || wanted+=(nginx-light libnginx-mod-nchan) ;;
		haproxy) command -v haproxy >/dev/null || wanted+=(haproxy) ;;
		varnish) command -v varnishd >/dev/null || wanted+=(varnish) ;;
		esac
	done
	command -v taskset >/dev/null || wanted+=(util-linux)
	((${#wanted[@]})) || return 0
	if ! command -v apt-get >/dev/null || ((EUID != 0)); then
		die "missing Debian packages: ${wanted[*]}"
	fi
	# The packages would start their services: only the programs are needed.
	local policy=/usr/sbin/policy-rc.d made=
	if [[ ! -e $policy ]]; then
		made=$policy
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
	fi
	local failed=0
	{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${wanted[@]}"; } >&2 || failed=1
	if [[ -n $made ]]; then rm -f "$made"; fi
	((!failed)) || die "could not install ${wanted[*]}"
}

# build_programs: the bench, the gateway, and Caddy as it is in the version that go.mod names.
build_programs() {
	cd "$root"
	go build -buildvcs=false -o "$work/ssebench" ./cmd/ssebench
	go build -buildvcs=false -o "$work/caddy-ours" ./cmd/caddy
	go build -buildvcs=false -o "$work/caddy-stock" github.com/caddyserver/caddy/v2/cmd/caddy
	cd - >/dev/null
	"$work/ssebench" certificate "$work"
}

# build_without: the gateway less what a delivery does for metrics, the admin API and the access log: the calls in these
# lines are taken out of copies of the files, which the compiler is given in their place.
build_without() {
	local file copy replaced=()
	cd "$root"
	for file in internal/delivery/{writer,delivery,response}.go internal/stream/{subscriber,upstream}.go; do
		copy=$work/without-${file//\//-}
		sed -E '/^\t+(Counts\.(Blocks|Bytes|Lag|Heartbeats)\b.*|sub\.(count|hold)\(out\)|w\.count\(c, .*|w\.counted\.(blocks|bytes|heartbeats)(\+\+| \+= .*))$/d' \
			"$file" >"$copy"
		! cmp -s "$file" "$copy" || die "build_without: nothing is left out of $file"
		replaced+=("\"$root/$file\": \"$copy\"")
	done
	printf '{"Replace": {%s}}' "$(IFS=,; printf '%s' "${replaced[*]}")" >"$work/without.json"
	go build -buildvcs=false -overlay "$work/without.json" -o "$work/caddy-without" ./cmd/caddy
	cd - >/dev/null
}

# build_cluster: the gateway with the module for clusters.
build_cluster() { go build -C "$root/cluster/nats" -buildvcs=false -o "$work/caddy-cluster" ./cmd/caddy; }

# start_node NUMBER CORE: one of three nodes, with an admin endpoint at a socket in $work. Sets ${node[NUMBER]} and
# ${node_port[NUMBER]}.
node=() node_port=()
start_node() {
	local number=$1 core=$2 routes="127.0.0.1:${route[1]} 127.0.0.1:${route[2]} 127.0.0.1:${route[3]}"
	BENCH_PORT=$(free_port "$((18080 + number * 100))")
	BENCH_ADMIN=unix/$work/admin$number
	BENCH_EXTRA=$'name bench\nbuffer 100000'
	BENCH_CLUSTER=$'sse_cluster nats {\nembedded {\nlisten 127.0.0.1:'${route[$number]}$'\nroutes '$routes$'\n}\nsecret of-a-benchmark-of-thirty-two-bytes\n}'
	BENCH_SITE=http://:$BENCH_PORT BENCH_TLS='bind 127.0.0.1' host=bench.test
	spawn "$core" "$work/caddy-cluster" run --config "$bench/ours.Caddyfile" --adapter caddyfile
	node[number]=$spawned node_port[number]=$BENCH_PORT
	wait_port "$BENCH_PORT"
}

# start_nodes CORE COUNT: the first on a core, others where the load is. Each reaches all others then.
start_nodes() {
	local core=$1 count=$2 number i
	route=([1]=$(free_port 21000) [2]=$(free_port 21100) [3]=$(free_port 21200))
	for ((number = 1; number <= count; number++)); do
		start_node "$number" "$core"
		core=$load_core
	done
	for ((number = 1; number <= count; number++)); do
		for ((i = 0; ; i++)); do
			if figures "$number" | grep -q "^caddy_sse_cluster_nodes $count$"; then break; fi
			((i < 200)) || die "node $number reaches no other; see $work/log"
			sleep 0.1
		done
	done
	BENCH_CLUSTER='' BENCH_ADMIN=off
}

# figures NUMBER: the metrics of a node.
figures() { curl -s --unix-socket "$work/admin$1" http://127.0.0.1/metrics; }

# hold NUMBER ROLE: a client of a node that stays. The node owns its stream, or follows.
hold() {
	local i
	spawn "$load_core" curl -sN -o /dev/null -H "Host: $host" -H 'Accept: text/event-stream' "http://127.0.0.1:${node_port[$1]}/events"
	for ((i = 0; ; i++)); do
		if figures "$1" | grep -q "^caddy_sse_cluster_streams{role=\"$2\"} 1$"; then return; fi
		((i < 200)) || die "node $1 does not have the stream as it should ($2); see $work/log"
		sleep 0.1
	done
}

# versions: what was measured, and on what.
versions() {
	local model
	model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
	printf 'Machine: %s, %s cores; Linux %s; %s.\n' "$model" "$(nproc)" "$(uname -r)" "$(go env GOVERSION)"
	printf 'Caddy %s' "$(cd "$root" && go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)"
	if command -v nginx >/dev/null; then printf ', nginx %s' "$(nginx -v 2>&1 | cut -d/ -f2)"; fi
	if command -v dpkg-query >/dev/null; then
		dpkg-query -W -f ', ${Package} ${Version}' libnginx-mod-nchan haproxy varnish 2>/dev/null || true
	fi
	printf '.\n\n'
}

# free_port FROM: the first port from there on where nobody listens.
free_port() {
	local port=$1
	while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
	printf '%s' "$port"
}

# spawn CORE COMMAND...: starts a process of ours; its id is in $spawned.
pids=()
spawn() {
	local core=$1
	shift
	nice -n "$BENCH_NICE" taskset -c "$core" "$@" >>"$work/log" 2>&1 9>&- &
	spawned=$!
	pids+=("$spawned")
}

# end_all ends what was started, and waits for it.
end_all() {
	local pid
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	for pid in "${pids[@]}"; do
		wait_gone "$pid"
	done
	pids=()
}

wait_gone() {
	local i
	for ((i = 0; i < 100; i++)); do
		kill -0 "$1" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

# wait_port PORT: until somebody listens there.
wait_port() {
	local i
	for ((i = 0; i < 200; i++)); do
		if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
		sleep 0.05
	done
	die "nothing listens on port $1; see $work/log"
}

config() {
	sed "s|BENCH_PORT|$BENCH_PORT|; s|BENCH_ORIGIN|$BENCH_ORIGIN|; s|BENCH_DIR|$work|; s|BENCH_PUBLISH|$BENCH_PUBLISH|;
		s|BENCH_TLS|${tls:+ssl http2}|" "$bench/$1" >"$work/$1"
}

# site: what the Caddyfiles are to say of the site's address and certificate.
site() {
	BENCH_SITE=http://127.0.0.1:$BENCH_PORT BENCH_TLS=
	if [[ -n $tls ]]; then BENCH_SITE=https://127.0.0.1:$BENCH_PORT BENCH_TLS="tls $work/cert.pem $work/key.pem"; fi
}

# start_system SYSTEM: starts it with its origin. Sets $server (the process to measure), $target and $control (ports).
#
#	without         the gateway less what it counts
#	wrapped         the gateway with its listener wrapper, also with +'…'
#	ours            the gateway; ours+'delivery handler' with a further option; NAME=PROGRAM another build of it, also with +'…'
#	owner           the gateway as one of two nodes: subscribers are at the one that has the upstream connection
#	follower        the same, at the other one
#	fan             three nodes: subscribers are at one that follows, and the one is measured that has the connection
#	floor           the origin without anything between
start_system() {
	local system=$1
	BENCH_PORT=$(free_port 18080) BENCH_ORIGIN=$(free_port 19000) BENCH_PUBLISH=$(free_port 20000)
	BENCH_EXTRA='' BENCH_WRAPPER='' host=
	site
	target=$BENCH_PORT control=$BENCH_ORIGIN
	: >"$work/log"
	case $system in
	floor)
		spawn "$server_core" "$work/ssebench" origin -addr "127.0.0.1:$BENCH_ORIGIN"
		server=$spawned target=$BENCH_ORIGIN
		wait_port "$BENCH_ORIGIN"
		return
		;;
	nchan) spawn "$load_core" "$work/ssebench" origin -addr "127.0.0.1:$BENCH_ORIGIN" -publish "http://127.0.0.1:$BENCH_PUBLISH/publish" ;;
	*) spawn "$load_core" "$work/ssebench" origin -addr "127.0.0.1:$BENCH_ORIGIN" ;;
	esac
	case $system in
	owner | follower | fan)
		wait_port "$BENCH_ORIGIN"
		local first=1 last=2
		if [[ $system == follower ]]; then first=2 last=1; fi
		if [[ $system == fan ]]; then start_nodes "$server_core" 3; else start_nodes "$server_core" 2; fi
		hold "$first" owns # it opens the stream, so it has the connection
		hold "$last" follows
		if [[ $system == fan ]]; then hold 3 follows; fi
		server=${node[1]} target=${node_port[1]}
		if [[ $system == fan ]]; then target=${node_port[2]}; fi
		return
		;;
	ours | ours+* | wrapped | wrapped+* | without | *=*)
		local program=${system%%+*}
		[[ $program != without ]] || program=without=$work/caddy-without
		if [[ $program == wrapped ]]; then program=ours BENCH_WRAPPER=$'listener_wrappers {\nsse\n}'; fi
		if [[ $system == *+* ]]; then BENCH_EXTRA=${system#*+}; fi
		if [[ $program == ours ]]; then program=$work/caddy-ours; else program=${program#*=}; fi
		spawn "$server_core" "$program" run --config "$bench/ours.Caddyfile" --adapter caddyfile
		;;
	stock) spawn "$server_core" "$work/caddy-stock" run --config "$bench/stock.Caddyfile" --adapter caddyfile ;;
	nginx | nchan)
		config "$system.conf"
		spawn "$server_core" nginx -c "$work/$system.conf"
		;;
	haproxy) spawn "$server_core" haproxy -db -f "$bench/haproxy.cfg" ;;
	varnish)
		config varnish.vcl
		spawn "$server_core" varnishd -F -n "$work/varnish" -a "127.0.0.1:$BENCH_PORT" -f "$work/varnish.vcl" -s malloc,64m \
			-p thread_pools=1 -p thread_pool_max=19000 -p thread_pool_min=100 -p timeout_idle=3600 -p idle_send_timeout=3600
		;;
	*) die "unknown system $system" ;;
	esac
	server=$spawned
	wait_port "$BENCH_ORIGIN"
	wait_port "$BENCH_PORT"
}

# label SYSTEM: what the report calls it.
label() {
	local name=${1%%+*}
	printf '%s' "${name%%=*}"
	if [[ $1 == *+* ]]; then printf ' %s' "${1#*+}"; fi
}

# measure SCENARIO SYSTEM FLAG...: one run of the client; its line of JSON goes to the results.
measure() {
	local scenario=$1 system=$2
	shift 2
	exec 9>"${TMPDIR:-/tmp}/ssebench.lock"
	flock 9 # two measurements at once would be worth nothing
	start_system "$system"
	printf '%s ' "$(date +%T)" >&2
	if ! timeout 600 nice -n "$BENCH_NICE" taskset -c "$load_core" "$work/ssebench" client -scenario "$scenario" -label "$(label "$system")" \
		-addr "127.0.0.1:$target" -origin "127.0.0.1:$control" -pid "$server" ${host:+-host "$host"} "$@" >>"$out/results.jsonl" 9>&-; then
		printf '%s: %s failed; log: %s\n' "$scenario" "$system" "$(tail -c 300 "$work/log")" >&2
	fi
	end_all
	exec 9>&-
}
