// Command caddy is Caddy with caddy-sse and its cluster over NATS.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-sse/caddy-sse/cluster/nats"
)

func main() { caddycmd.Main() }
