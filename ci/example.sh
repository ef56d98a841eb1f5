#!/usr/bin/env bash
# Checks that Caddyfile.example is formatted, adapts, and can be provisioned.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# quietly drops what a command prints to stdout: its errors are on stderr.
quietly() { "$@" >/dev/null; }

caddy=(go run ./cmd/caddy)
step "Caddyfile.example: fmt" quietly "${caddy[@]}" fmt Caddyfile.example
step "Caddyfile.example: adapt" quietly "${caddy[@]}" adapt --config Caddyfile.example
step "Caddyfile.example: validate" "${caddy[@]}" validate --config Caddyfile.example
