package caddysse

import (
	"net"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
)

func init() {
	caddy.RegisterModule((*ListenerWrapper)(nil))
}

// ListenerWrapper lets sse handlers take over streams of HTTP/2 over TLS, as they
// take over connections of HTTP/1.1: clients are written to without a goroutine
// each. It stands between TLS and the server, and sees the frames of all
// connections of HTTP/2; what is not a stream that was taken over passes as it
// is. Other connections are not touched. It has to come after the wrapper tls, if
// that is named, and last.
type ListenerWrapper struct {
	server *caddyhttp.Server // nil: not known
}

// CaddyModule returns the Caddy module information.
func (*ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.sse",
		New: func() caddy.Module { return new(ListenerWrapper) },
	}
}

// Provision implements caddy.Provisioner.
func (l *ListenerWrapper) Provision(ctx caddy.Context) error {
	var ok bool
	if l.server, ok = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		wrappedServers.Store(l.server, nil)
	}
	return nil
}

// Cleanup implements caddy.CleanerUpper.
func (l *ListenerWrapper) Cleanup() error {
	wrappedServers.Delete(l.server)
	return nil
}

// wrappedServers are the servers that have the wrapper: Caddy does not tell.
var wrappedServers sync.Map // of *caddyhttp.Server

// UnmarshalCaddyfile sets up the wrapper from Caddyfile tokens. Syntax:
//
//	sse
func (*ListenerWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // its name
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(0) {
		return d.Errf("unknown option %q", d.Val())
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper.
func (l *ListenerWrapper) WrapListener(ln net.Listener) net.Listener {
	return delivery.Handshakes(ln, l.handshakeTimeout)
}

// handshakeTimeout is how long a TLS handshake may take: as long as net/http
// gives it.
func (l *ListenerWrapper) handshakeTimeout() (least time.Duration) {
	if l.server == nil {
		return 0
	}
	for _, d := range []caddy.Duration{l.server.ReadHeaderTimeout, l.server.ReadTimeout, l.server.WriteTimeout} {
		if d := time.Duration(d); d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// Interface guards.
var (
	_ caddy.Module          = (*ListenerWrapper)(nil)
	_ caddy.Provisioner     = (*ListenerWrapper)(nil)
	_ caddy.CleanerUpper    = (*ListenerWrapper)(nil)
	_ caddy.ListenerWrapper = (*ListenerWrapper)(nil)
	_ caddyfile.Unmarshaler = (*ListenerWrapper)(nil)
)
