# Sourced by the scripts beside it: strict mode, the repository's root as working directory, and what they share.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The revision is not needed in what is built here, and git may refuse to tell it (a clone that somebody else owns).
export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"

heading() { printf '\n== %s\n' "$*"; }

# step runs a command under a heading. When it fails the script goes on and ends with a failure: one run tells all.
status=0
finish() { exit $(($? | status)); }
trap finish EXIT
step() {
	heading "$1"
	"${@:2}" || {
		status=1
		printf '** failed: %s\n' "$1"
	}
}

# quiet runs a command that prints what is wrong, and fails when it printed something.
quiet() {
	local out failed=0
	out=$("$@") || failed=1
	if [[ -n $out ]]; then
		printf '%s\n' "$out"
		failed=1
	fi
	return "$failed"
}

# modules lists the folders of the Go modules that are checked and tested. tools/ has no code of its own.
modules() {
	local dir
	for dir in . integration cluster/nats; do
		if [[ -f $dir/go.mod ]]; then printf '%s\n' "$dir"; fi
	done
}
