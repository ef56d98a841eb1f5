// Command caddy is a ready-to-run Caddy server with the sse handler compiled in.
//
// It also has sse_demo, a small application that serves event streams the way many do, for Caddyfile.example and for
// trying things out. That module lives in this package alone: a Caddy built with xcaddy does not have it.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddy-sse/caddy-sse"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() { caddycmd.Main() }
