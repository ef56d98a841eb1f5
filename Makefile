# What CI runs is in ci/*.sh; these are short names for it.

FUZZTIME ?= 30s

.PHONY: help run test lint fuzz random bench ci release

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

run: ## the gateway and a demo application, on http://localhost:8080
	go run ./cmd/caddy run --config Caddyfile.example

test: ## all tests with the race detector, the end-to-end tests too
	@ci/test.sh

lint: ## gofmt, vet, go fix, golangci-lint
	@ci/lint.sh

fuzz: ## each fuzz test for FUZZTIME (30s)
	@ci/fuzz.sh $(FUZZTIME)

random: ## the random tests with new seeds, for three hours
	@ci/random.sh

bench: ## the Go benchmarks
	go test -run '^$$' -bench . -benchmem ./...

ci: ## everything that CI runs
	@.ci/run

release: ## binaries for each system, checksums and SBOMs, into dist/: make release VERSION=v0.1.0
	@go -C tools run ./release $(VERSION)
