#!/usr/bin/env bash
# Starts an application, three nodes and a balancer, until Ctrl-C.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$work"' EXIT
trap 'exit 0' INT TERM

go build -C "$here/../../cluster/nats" -o "$work/caddy" ./cmd/caddy
go build -C "$here/../go" -o "$work/app" main.go
export XDG_DATA_HOME=$work/data XDG_CONFIG_HOME=$work/data
SSE_CLUSTER_SECRET=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export SSE_CLUSTER_SECRET

"$work/app" &
for node in 1 2 3; do
	mkdir "$work/$node"
	(cd "$work/$node" && NODE=127.0.0.1:622$node exec "$work/caddy" run --adapter caddyfile --config "$here/node.Caddyfile") >"$work/$node/log" 2>&1 &
done
cd "$work"
"$work/caddy" run --adapter caddyfile --config "$here/balancer.Caddyfile" >"$work/balancer.log" 2>&1 &
echo "http://localhost:8080 leads to three nodes, whose logs are $work/*/log. Ctrl-C ends all."
wait
