#!/usr/bin/env bash
# Checks that Caddyfile.example is formatted, adapts, and can be provisioned.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

heading "Caddyfile.example: fmt, adapt, validate"
go run ./cmd/caddy fmt --diff Caddyfile.example >/dev/null || {
	echo "not formatted: go run ./cmd/caddy fmt --overwrite Caddyfile.example" >&2
	exit 1
}
go run ./cmd/caddy adapt --config Caddyfile.example >/dev/null
go run ./cmd/caddy validate --config Caddyfile.example
