package main

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(demo))
	httpcaddyfile.RegisterHandlerDirective("sse_demo", parseDemo)
	httpcaddyfile.RegisterDirectiveOrder("sse_demo", httpcaddyfile.After, "respond")
}

// demo answers every request as a legacy application would that knows nothing of a gateway: no heartbeats, ids on one
// stream only, state in memory. It has no options.
//
//	GET  /             a page that shows the streams
//	GET  /ticks        broadcast, an event each second with ids 1, 2, 3…; resumes from the last 100
//	GET  /plain        broadcast, an event each second without ids
//	GET  /log          broadcast without ids; each connection is first sent the last 10 lines
//	GET  /chat         broadcast of what was posted
//	POST /chat         from and text, as a form or as JSON
//	GET  /progress     0 to 100 %, for each connection its own, then a clean end
//	GET  /connections  how many event streams are open, by path, and how many were ever accepted
type demo struct {
	app *app
}

// demoApps holds the one application of the process, so that a reload neither restarts its counters nor ends its
// connections: to a gateway it is then the separate process that it plays.
var demoApps = caddy.NewUsagePool()

// CaddyModule returns the Caddy module information.
func (*demo) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_demo",
		New: func() caddy.Module { return new(demo) },
	}
}

// Provision starts the application, or takes a share in the running one.
func (d *demo) Provision(ctx caddy.Context) error {
	val, _, err := demoApps.LoadOrNew("demo", func() (caddy.Destructor, error) { return newApp(), nil })
	if err != nil {
		return err
	}
	d.app = val.(*app)

	// At exit Caddy waits for running requests before it cleans up: an event stream would keep it waiting for ever.
	if srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		srv.RegisterOnShutdown(func() {
			if caddy.Exiting() {
				d.app.cancel()
			}
		})
	}
	return nil
}

// Cleanup gives up the share; the last one stops the application.
func (d *demo) Cleanup() error {
	if d.app == nil {
		return nil
	}
	d.app = nil
	_, err := demoApps.Delete("demo")
	return err
}

// ServeHTTP answers the request; it never calls next.
func (d *demo) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	d.app.mux.ServeHTTP(w, r)
	return nil
}

// parseDemo reads the directive, which stands alone:
//
//	sse_demo
func parseDemo(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	d := new(demo)
	return d, d.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile checks that the directive stands alone.
func (*demo) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() || d.NextBlock(0) {
		return d.ArgErr()
	}
	return nil
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*demo)(nil)
	_ caddy.CleanerUpper          = (*demo)(nil)
	_ caddyhttp.MiddlewareHandler = (*demo)(nil)
	_ caddyfile.Unmarshaler       = (*demo)(nil)
)
