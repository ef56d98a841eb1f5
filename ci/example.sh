#!/usr/bin/env bash
# Checks that Caddyfile.example, and those of examples/ and packaging/, are formatted, adapt, and can be provisioned; and
# that nothing is told of them then: a healthy set-up has no hint and no warning.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

dir=$(mktemp -d)
finish() {
	local code=$?
	rm -rf "$dir"
	exit $((code | status))
}
export XDG_DATA_HOME=$dir XDG_CONFIG_HOME=$dir
go build -o "$dir/caddy" ./cmd/caddy

# quietly drops what a command prints to stdout: its errors are on stderr.
quietly() { "$@" >/dev/null; }

# sound validates a configuration, and fails if the gateway has something to say of it: a line above info, or a hint.
sound() {
	local out failed=0
	out=$("$dir/caddy" validate --adapter caddyfile --config "$1" 2>&1) || failed=1
	if grep -E '"logger":"[^"]*sse"' <<<"$out" | grep -qvE '"level":"(debug|info)"' || grep -q '"msg":"hint"' <<<"$out"; then failed=1; fi
	if ((failed)); then printf '%s\n' "$out"; fi
	return "$failed"
}

for file in Caddyfile.example examples/*.Caddyfile examples/*/Caddyfile examples/cluster/balancer.Caddyfile packaging/*Caddyfile; do
	step "$file: fmt" quietly "$dir/caddy" fmt "$file"
	step "$file: validate" sound "$file"
done
