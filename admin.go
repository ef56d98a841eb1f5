package caddysse

import (
	"context"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/admin"
)

func init() {
	caddy.RegisterModule(adminAPI{})
	caddy.OnExit(func(context.Context) { admin.Exit() })
}

// adminAPI adds the routes below /sse/ to Caddy's admin endpoint. Each load of
// a configuration makes another one, and none is cleaned up.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.sse",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (adminAPI) Routes() []caddy.AdminRoute { return admin.Routes() }

// Interface guards.
var (
	_ caddy.Module      = adminAPI{}
	_ caddy.AdminRouter = adminAPI{}
)
