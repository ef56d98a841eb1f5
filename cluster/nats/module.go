package natsbus

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddy-sse/caddy-sse" // whose app sse_cluster this module is for
	"github.com/caddy-sse/caddy-sse/internal/cluster"
)

func init() {
	caddy.RegisterModule((*NATS)(nil))
}

// process is this process's bus. Configurations come and go below it.
var process = newBus()

// pool holds the links of the configurations that are loaded, by what they say.
var pool = caddy.NewUsagePool()

// NATS carries what is said between the gateways of a cluster. Either a NATS server runs
// in each Caddy and nothing else is needed, or the gateways are clients of servers that run
// beside them. Placeholders, such as {env.SSE_CLUSTER_SECRET}, may stand in all texts.
//
//	{
//		sse_cluster nats {
//			embedded {
//				listen 10.0.0.1:6222
//				routes 10.0.0.2:6222 10.0.0.3:6222
//			}
//			secret {env.SSE_CLUSTER_SECRET}
//		}
//	}
type NATS struct {
	// A NATS server inside this process. Not together with servers.
	Embedded *Embedded `json:"embedded,omitempty"`

	// The URLs of NATS servers beside this process: nats://host:4222, tls://host:4222. One
	// after the other is tried. Not together with embedded.
	Servers []string `json:"servers,omitempty"`

	// With servers: a file with the credentials of NATS (JWT and seed). A user with a
	// password, or a token, stands in the URL instead.
	Credentials string `json:"credentials,omitempty"`

	// With servers: connect with TLS. The files are optional: without a CA that of the
	// system counts.
	TLS *TLS `json:"tls,omitempty"`

	// What all nodes of the cluster know, and nobody else: at least 32 characters, as
	// `openssl rand -hex 32` prints them. Nodes with different secrets do not share, and an
	// embedded server takes no node without it. Required.
	Secret string `json:"secret,omitempty"`

	// What all NATS subjects of the cluster begin with. Default: sse.
	Prefix string `json:"prefix,omitempty"`

	link *link
	key  string // of link in the pool
}

// Embedded is a NATS server inside this process. It talks with those of the other nodes
// over TLS, with certificates that come from the secret, unless tls or insecure says
// otherwise.
type Embedded struct {
	// The address that other nodes reach this one at: 10.0.0.1:6222.
	Listen string `json:"listen,omitempty"`

	// The addresses of other nodes. One that is up is enough: it knows the rest. This
	// node's own does no harm, so that all nodes may have the same list.
	Routes []string `json:"routes,omitempty"`

	// The address that is told to other nodes, if they cannot reach the one of listen.
	Advertise string `json:"advertise,omitempty"`

	// Certificates of your own, in place of those that come from the secret. All three
	// files are needed: each side shows a certificate of the CA, valid for server and
	// client, and for the names or addresses that stand in routes.
	TLS *TLS `json:"tls,omitempty"`

	// Without TLS: events go over the network in clear. Nodes still show that they know
	// the secret. Default: false.
	Insecure bool `json:"insecure,omitempty"`
}

// TLS names files in PEM format. They are read again for each connection.
type TLS struct {
	// The certificate, with its chain.
	Cert string `json:"cert,omitempty"`

	// The certificate's private key.
	Key string `json:"key,omitempty"`

	// The certificates of the CA that the other side's must be of.
	CA string `json:"ca,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*NATS) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "sse_cluster.buses.nats", New: func() caddy.Module { return new(NATS) }}
}

// Provision implements caddy.Provisioner. It opens nothing: a configuration may be
// provisioned only to be looked at.
func (n *NATS) Provision(ctx caddy.Context) error {
	// Caddy validates after provisioning.
	if err := n.Validate(); err != nil {
		return err
	}
	settings, err := n.settings(caddy.NewReplacer())
	if err != nil {
		return err
	}
	logger := ctx.Logger()
	key := settings.identity()
	value, _, err := pool.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &pooled{link: &link{settings: settings, logger: logger}}, nil
	})
	if err != nil {
		return err
	}
	n.link, n.key = value.(*pooled).link, key
	return nil
}

// pooled is a link in the pool.
type pooled struct{ link *link }

// Destruct implements caddy.Destructor.
func (p *pooled) Destruct() error {
	process.drop(p.link)
	return nil
}

// Validate implements caddy.Validator.
func (n *NATS) Validate() error {
	switch {
	case n.Secret == "":
		return errors.New("secret: expected one, the same on all nodes: secret {env.SSE_CLUSTER_SECRET}")
	case n.Embedded == nil && len(n.Servers) == 0:
		return errors.New("expected embedded, or servers")
	case n.Embedded != nil && len(n.Servers) > 0:
		return errors.New("expected embedded or servers, not both")
	case n.Embedded != nil && (n.Credentials != "" || n.TLS != nil):
		return errors.New("credentials and tls: only with servers (embedded has a tls of its own)")
	case n.TLS != nil && (n.TLS.Cert == "") != (n.TLS.Key == ""):
		return errors.New("tls: expected cert and key, or neither")
	}
	for token := range strings.SplitSeq(n.Prefix, ".") {
		if n.Prefix != "" && (token == "" || strings.ContainsAny(token, "*> \t\r\n") || token[0] == '$') {
			return fmt.Errorf("prefix: expected words joined by dots, such as sse or prod.sse, not %q", n.Prefix)
		}
	}
	if n.Embedded != nil {
		return n.Embedded.validate()
	}
	return nil
}

func (e *Embedded) validate() error {
	switch {
	case e.Listen == "":
		return errors.New("embedded: expected listen with the address that other nodes reach this one at, such as 10.0.0.1:6222")
	case e.TLS != nil && e.Insecure:
		return errors.New("embedded: expected tls or insecure, not both")
	case e.TLS != nil && (e.TLS.Cert == "" || e.TLS.Key == "" || e.TLS.CA == ""):
		return errors.New("embedded: tls: expected cert, key and ca: both sides show a certificate")
	}
	return nil
}

// settings are what the configuration says, placeholders replaced.
func (n *NATS) settings(replacer *caddy.Replacer) (*settings, error) {
	s := &settings{prefix: "sse"}
	var failed error
	text := func(option, value string) string {
		out, err := replacer.ReplaceOrErr(value, true, true)
		if err != nil && failed == nil {
			failed = fmt.Errorf("%s: %w", option, err)
		}
		return out
	}
	files := func(option string, t *TLS) *TLS {
		if t == nil {
			return nil
		}
		return &TLS{Cert: text(option, t.Cert), Key: text(option, t.Key), CA: text(option, t.CA)}
	}
	secret := text("secret", n.Secret)
	if n.Prefix != "" {
		s.prefix = text("prefix", n.Prefix)
	}
	s.credentials, s.tls = text("credentials", n.Credentials), files("tls", n.TLS)
	for _, server := range n.Servers {
		s.urls = append(s.urls, text("servers", server))
	}
	if e := n.Embedded; e != nil {
		s.embedded = &embeddedSettings{
			listen: text("listen", e.Listen), advertise: text("advertise", e.Advertise),
			tls: files("tls", e.TLS), insecure: e.Insecure,
		}
		for _, route := range e.Routes {
			s.embedded.routes = append(s.embedded.routes, strings.Fields(text("routes", route))...)
		}
	}
	if failed != nil {
		return nil, failed
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, s.derive(secret)
}

// check looks at what only shows when placeholders are replaced.
func (s *settings) check() error {
	for _, server := range s.urls {
		u, err := url.Parse(server)
		if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return errors.New("servers: expected URLs such as nats://10.0.0.1:4222 or tls://nats.example.com:4222")
		}
	}
	if s.embedded == nil {
		return nil
	}
	addresses := append([]string{s.embedded.listen}, s.embedded.routes...)
	if s.embedded.advertise != "" {
		addresses = append(addresses, s.embedded.advertise)
	}
	for i, address := range addresses {
		host, port, err := splitAddress(address)
		if err != nil || i > 0 && (host == "" || port == 0) {
			return fmt.Errorf("embedded: expected an address with a port, such as 10.0.0.1:6222, not %q", address)
		}
	}
	return nil
}

// Bus implements cluster.Carrier.
func (n *NATS) Bus() cluster.Bus { return process }

// Start implements cluster.Carrier.
func (n *NATS) Start() error { return process.start(n.link) }

// Cleanup implements caddy.CleanerUpper.
func (n *NATS) Cleanup() error {
	if n.link == nil {
		return nil // not provisioned
	}
	n.link = nil
	_, err := pool.Delete(n.key)
	return err
}

// Interface guards.
var (
	_ caddy.Provisioner  = (*NATS)(nil)
	_ caddy.Validator    = (*NATS)(nil)
	_ caddy.CleanerUpper = (*NATS)(nil)
	_ cluster.Carrier    = (*NATS)(nil)
)
