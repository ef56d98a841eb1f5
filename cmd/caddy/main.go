// Command caddy is a ready-to-run Caddy server with the sse handler compiled in.
//
// It also has a demo for Caddyfile.example: the handler sse_demo, which serves a page with buttons, and the command
// sse-demo-app, a small application that sends event streams the way many do. Both live in this package alone: a Caddy
// built with xcaddy has neither.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddy-sse/caddy-sse"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() { caddycmd.Main() }
