package caddysse

import (
	"net/http"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/admin"
)

func init() {
	caddy.RegisterModule((*AdminSite)(nil))
	httpcaddyfile.RegisterHandlerDirective("sse_admin", parseAdminSite)
	httpcaddyfile.RegisterDirectiveOrder("sse_admin", httpcaddyfile.Before, "metrics") // before sse, which would share the feed
}

// AdminSite serves the live page and the admin API of event streams below /sse/ on a site, for whoever that site lets in:
// who may open the page may see what passes in each stream, and drain and end it. Put it behind the site's authentication.
// Pages of other sites are refused.
type AdminSite struct {
	site http.Handler
}

// CaddyModule returns the Caddy module information.
func (*AdminSite) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_admin",
		New: func() caddy.Module { return new(AdminSite) },
	}
}

// Provision implements caddy.Provisioner.
func (s *AdminSite) Provision(ctx caddy.Context) error {
	end := make(chan struct{})
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(sync.OnceFunc(func() { close(end) }))
	}
	s.site = admin.Site(end)
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (s *AdminSite) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.URL.Path != "/sse" && !strings.HasPrefix(r.URL.Path, "/sse/") {
		return next.ServeHTTP(w, r)
	}
	s.site.ServeHTTP(w, r)
	return nil
}

// UnmarshalCaddyfile parses the directive. It has no arguments but a matcher:
//
//	sse_admin [<matcher>]
func (*AdminSite) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.NextArg() || d.NextBlock(0) {
			return d.Errf("sse_admin: expected nothing, not %s", d.Val())
		}
	}
	return nil
}

// parseAdminSite makes a handler of the directive sse_admin.
func parseAdminSite(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	s := new(AdminSite)
	return s, s.UnmarshalCaddyfile(helper.Dispenser)
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*AdminSite)(nil)
	_ caddyfile.Unmarshaler       = (*AdminSite)(nil)
	_ caddyhttp.MiddlewareHandler = (*AdminSite)(nil)
)
