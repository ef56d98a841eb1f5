#!/usr/bin/env bash
# Checks the form of the code: gofmt, go vet (for other systems too), go fix, golangci-lint, knots of files.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.go')
step gofmt quiet gofmt -l "${files[@]}"

root=$PWD
golangci() { go tool -modfile="$root/tools/go.mod" golangci-lint run --config "$root/.golangci.yml" ./...; }
# Users of cluster/nats are given what its go.mod says.
step "go mod tidy: cluster/nats" go -C cluster/nats mod tidy -diff
step "go mod verify: cluster/nats" go -C cluster/nats mod verify

for dir in $(modules); do
	cd "$root/$dir"
	step "go vet: $dir" go vet ./...
	step "go fix: $dir" quiet go fix -diff ./...
	step "golangci-lint: $dir" golangci
done
cd "$root"

# A file names only what files below it declare (docs/adr/0010-layers-of-the-core.md).
step "go vet: tools" go -C tools vet ./...
step "knots" go -C tools run ./knot -check ..

# The module has code per system.
for os in darwin windows; do
	step "go vet: the module and its commands for $os" env GOOS=$os go vet . ./internal/... ./cmd/caddy ./cmd/ssebench
done
