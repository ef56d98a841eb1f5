#!/usr/bin/env bash
# Runs every command of README and "getting started" as printed, in a fresh clone. The words after ```sh say how:
# "background until <url>" starts what runs until it is stopped, and waits for the address; "published" is not run,
# because it needs a published version of the module.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pages=(README.md docs/getting-started/quickstart.md docs/getting-started/install.md)

clone=$(mktemp -d)
running=()
stop() {
	for pid in ${running[@]+"${running[@]}"}; do kill -- "-$pid" 2>/dev/null || true; done
	for pid in ${running[@]+"${running[@]}"}; do wait "$pid" 2>/dev/null || true; done
	running=()
}
trap 'stop; rm -rf "$clone"' EXIT

git clone --quiet . "$clone/caddy-sse"
cd "$clone/caddy-sse"

# answers waits until an address does.
answers() {
	for _ in $(seq 600); do
		if curl --silent --fail --output /dev/null --max-time 2 "$1"; then return; fi
		sleep 0.5
	done
	echo "no answer of $1" >&2
	return 1
}

for page in "${pages[@]}"; do
	echo "==== $page"
	# Each fence becomes a file: its first line is what stands after ```sh.
	fences=$(mktemp -d -p "$clone")
	awk -v dir="$fences" '
		/^```sh/ { n++; file = sprintf("%s/%02d", dir, n); sub(/^```sh */, ""); print > file; next }
		/^```/   { file = "" }
		file     { print > file }' "$page"
	for fence in "$fences"/*; do
		how=$(head -1 "$fence")
		tail -n +2 "$fence" >"$fence.sh"
		sed 's/^/$ /' "$fence.sh"
		case $how in
		published*)
			echo "(not run: needs a published version)"
			;;
		background*)
			setsid bash -eu "$fence.sh" >"$fence.log" 2>&1 &
			running+=($!)
			answers "${how##* }" || { cat "$fence.log"; exit 1; }
			;;
		*)
			timeout 600 bash -eu "$fence.sh" || { echo "failed: exit code $?" >&2; exit 1; }
			;;
		esac
	done
	stop
done
echo "every command did what it should"
