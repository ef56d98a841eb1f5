module github.com/caddy-sse/caddy-sse/integration

go 1.26.0

replace github.com/caddy-sse/caddy-sse => ../

require github.com/caddy-sse/caddy-sse v0.0.0-00010101000000-000000000000
