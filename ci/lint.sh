#!/usr/bin/env bash
# Checks the form of the code: gofmt, go vet (for other systems too), go fix, golangci-lint.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# quiet runs a command that prints what is wrong, and fails when it printed something.
quiet() {
	local out
	out=$("$@") || { printf '%s\n' "$out"; return 1; }
	if [[ -n $out ]]; then
		printf '%s\n' "$out"
		return 1
	fi
}

heading gofmt
mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.go')
quiet gofmt -l "${files[@]}"

golangci="$PWD/.golangci.yml"
tools="$PWD/tools/go.mod"
for dir in $(modules); do
	heading "go vet: $dir"
	(cd "$dir" && go vet ./...)

	heading "go fix: $dir"
	(cd "$dir" && quiet go fix -diff ./...)

	heading "golangci-lint: $dir"
	(cd "$dir" && go tool -modfile="$tools" golangci-lint run --config "$golangci" ./...)
done

# The module has code per system: connections are watched with epoll on Linux.
for os in darwin windows; do
	heading "go vet: the module for $os"
	GOOS=$os go vet .
done
