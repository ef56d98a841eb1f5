package caddysse

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	caddy.RegisterModule(Global{})
	httpcaddyfile.RegisterGlobalOption("sse", parseGlobal)
}

// Global is what all sse handlers of the process have in common. In a Caddyfile
// it is the global option sse:
//
//	{
//		sse {
//			memory 1GiB
//		}
//	}
type Global struct {
	// How many bytes the replay buffers of all streams may have together, as the
	// option memory of a handler. Default: 512 MiB.
	Memory int64 `json:"memory,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Global) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "sse", New: func() caddy.Module { return new(Global) }}
}

// Start and Stop implement caddy.App. Handlers read what is in it.
func (Global) Start() error { return nil }

// Stop does nothing.
func (Global) Stop() error { return nil }

// Validate implements caddy.Validator.
func (g Global) Validate() error {
	if g.Memory < 0 {
		return fmt.Errorf("memory: expected a size above 0, not %d", g.Memory)
	}
	return nil
}

// globalOf returns what is common to all handlers of the configuration that is
// being loaded.
func globalOf(ctx caddy.Context) (Global, error) {
	app, err := ctx.AppIfConfigured("sse")
	switch {
	case errors.Is(err, caddy.ErrNotConfigured):
		return Global{}, nil
	case err != nil:
		return Global{}, err
	}
	return *app.(*Global), nil
}

// least is the smaller of two sizes, or the one that is stated.
func least(a, b int64) int64 {
	if a == 0 || (b > 0 && b < a) {
		return b
	}
	return a
}

// parseGlobal reads the global option sse.
func parseGlobal(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		return nil, d.Err("sse: given twice")
	}
	d.Next() // the option's name
	if d.NextArg() {
		return nil, d.Errf("expected a block of options, not the argument %q", d.Val())
	}
	var h Handler
	for d.NextBlock(0) {
		option := d.Val()
		if option != "memory" {
			return nil, d.Errf("unknown global option %q of sse: expected memory", option)
		}
		if h.Memory != 0 {
			return nil, d.Errf("%s: given twice", option)
		}
		if err := subdirectives[option](&h, d); err != nil {
			return nil, err
		}
		if d.NextArg() {
			return nil, d.Errf("%s: unexpected argument %q", option, d.Val())
		}
	}
	return httpcaddyfile.App{Name: "sse", Value: caddyconfig.JSON(Global{Memory: h.Memory}, nil)}, nil
}

// Interface guards.
var (
	_ caddy.App       = Global{}
	_ caddy.Validator = Global{}
)
