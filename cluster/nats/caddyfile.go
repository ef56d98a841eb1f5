package natsbus

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile implements caddyfile.Unmarshaler:
//
//	sse_cluster nats {
//		embedded {
//			listen    <address>
//			routes    <addresses...>
//			advertise <address>
//			tls {
//				cert <file>
//				key  <file>
//				ca   <file>
//			}
//			insecure
//		}
//		servers     <URLs...>
//		credentials <file>
//		tls { ... }
//		secret <text>
//		prefix <text>
//	}
func (n *NATS) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // nats
	if d.NextArg() {
		return d.Errf("nats: expected a block of options, not the argument %q", d.Val())
	}
	err := block(d, map[string]func() error{
		"embedded": func() error {
			n.Embedded = new(Embedded)
			return n.Embedded.unmarshal(d)
		},
		"servers":     func() error { return texts(d, &n.Servers, "URLs, such as nats://10.0.0.1:4222") },
		"credentials": func() error { return text(d, &n.Credentials, "a file") },
		"tls": func() error {
			n.TLS = new(TLS)
			return n.TLS.unmarshal(d)
		},
		"secret": func() error { return text(d, &n.Secret, "a placeholder, such as {env.SSE_CLUSTER_SECRET}") },
		"prefix": func() error { return text(d, &n.Prefix, "a word, such as sse") },
	})
	if err != nil {
		return err
	}
	if err := n.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (e *Embedded) unmarshal(d *caddyfile.Dispenser) error {
	return block(d, map[string]func() error{
		"listen":    func() error { return text(d, &e.Listen, "an address, such as 10.0.0.1:6222") },
		"routes":    func() error { return texts(d, &e.Routes, "addresses, such as 10.0.0.2:6222") },
		"advertise": func() error { return text(d, &e.Advertise, "an address, such as 203.0.113.1:6222") },
		"tls": func() error {
			e.TLS = new(TLS)
			return e.TLS.unmarshal(d)
		},
		"insecure": func() error {
			e.Insecure = true
			return nil
		},
	})
}

func (t *TLS) unmarshal(d *caddyfile.Dispenser) error {
	return block(d, map[string]func() error{
		"cert": func() error { return text(d, &t.Cert, "a file") },
		"key":  func() error { return text(d, &t.Key, "a file") },
		"ca":   func() error { return text(d, &t.CA, "a file") },
	})
}

// block reads the options of a block, each at most once. Each parses its arguments, which
// the dispenser is before, and its own block.
func block(d *caddyfile.Dispenser, options map[string]func() error) error {
	owner := d.Val()
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		parse, ok := options[name]
		if !ok {
			return d.Errf("unknown option %q of %s", name, owner)
		}
		if seen[name] {
			return d.Errf("%s: given twice", name)
		}
		seen[name] = true
		if err := parse(); err != nil {
			return err
		}
		if d.NextArg() {
			return d.Errf("%s: unexpected argument %q", name, d.Val())
		}
	}
	return nil
}

func text(d *caddyfile.Dispenser, to *string, expected string) error {
	name := d.Val()
	if !d.AllArgs(to) || *to == "" {
		return d.Errf("%s: expected %s", name, expected)
	}
	return nil
}

func texts(d *caddyfile.Dispenser, to *[]string, expected string) error {
	name := d.Val()
	if *to = d.RemainingArgs(); len(*to) == 0 {
		return d.Errf("%s: expected %s", name, expected)
	}
	return nil
}

// Interface guard.
var _ caddyfile.Unmarshaler = (*NATS)(nil)
