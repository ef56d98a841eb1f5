# Sourced by the scripts beside it: strict mode, the repository's root as working directory, and what they share.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The revision is not needed in what is built here, and git may refuse to tell it (a clone that somebody else owns).
export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"

heading() { printf '\n== %s\n' "$*"; }

# modules lists the folders of the Go modules that are checked and tested. tools/ has no code of its own.
modules() {
	local dir
	for dir in . integration; do
		if [[ -f $dir/go.mod ]]; then printf '%s\n' "$dir"; fi
	done
}
