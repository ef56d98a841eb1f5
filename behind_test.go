package caddysse

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/key"
)

// believeUnix makes the gateways of a test take the client's address from
// X-Forwarded-For, because that of a unix socket is none.
func believeUnix(t *testing.T) {
	t.Helper()
	before := testGlobals
	t.Cleanup(func() { testGlobals = before })
	testGlobals = strings.Replace(testGlobals, "admin off", "admin off\nservers {\ntrusted_proxies_unix\n}", 1)
}

const (
	insider      = "X-Forwarded-For: 10.1.2.3"
	otherInsider = "X-Forwarded-For: 10.9.9.9"
	outsider     = "X-Forwarded-For: 203.0.113.9"
)

// TestMatchersBehindAreDecidedForEachClient: what a matcher behind sse would
// answer for a client by itself is what it gets.
func TestMatchersBehindAreDecidedForEachClient(t *testing.T) {
	believeUnix(t)
	inside := startUpstream(t, nil)
	outside := startUpstream(t, nil)
	for name, matcher := range map[string]string{
		"address":        "client_ip 10.0.0.0/8",
		"not an address": "not client_ip 203.0.113.0/24",
		"expression":     "expression `client_ip('10.0.0.0/8')`",
		"placeholder":    `expression {client_ip}.startsWith("10.")`,
		"variable":       "vars {http.vars.client_ip} 10.1.2.3 10.9.9.9",
	} {
		for place, site := range map[string]string{
			"site":   "{sse}\n{proxies}",
			"handle": "handle /in* {\n{sse}\n{proxies}\n}\nhandle {\nrespond no\n}",
			"route":  "route {\n{sse}\nroute {\n{proxies}\n}\n}",
		} {
			t.Run(name+" in a "+place, func(t *testing.T) {
				directives := strings.NewReplacer(
					"{sse}", "@inside "+matcher+"\nsse {\njoin live\n}",
					"{proxies}", "reverse_proxy @inside "+inside.address+"\nreverse_proxy "+outside.address,
				).Replace(site)
				g := startGateway(t, "http:// {\nbind {socket}\n"+directives+"\n}\n")
				a := g.subscribe("/in", insider)
				defer a.close()
				secret := inside.accept()
				b := g.subscribe("/in", outsider)
				defer b.close()
				public := outside.accept()
				c := g.subscribe("/in", insider)
				defer c.close()
				d := g.subscribe("/in", otherInsider)
				defer d.close()
				other := inside.accept()
				secret.event("secret")
				other.event("secret of another")
				public.event("public")
				a.expect("secret")
				b.expect("public")
				c.expect("secret")
				d.expect("secret of another")
			})
		}
	}
}

// TestOperatorsKeyHidesTheAddressFromMatchers: where the operator says what
// counts, a matcher behind sse sees nobody's address, and nobody is inside.
func TestOperatorsKeyHidesTheAddressFromMatchers(t *testing.T) {
	believeUnix(t)
	inside := startUpstream(t, nil)
	outside := startUpstream(t, nil)
	for _, options := range []string{"share public", "key {path}", "share cookies sid"} {
		t.Run(options, func(t *testing.T) {
			g := startGateway(t, site(`
				@inside client_ip private_ranges
				sse {
					join live
					`+options+`
				}
				reverse_proxy @inside `+inside.address+`
				reverse_proxy `+outside.address))
			a := g.subscribe("/", insider)
			defer a.close()
			public := outside.accept()
			b := g.subscribe("/", outsider)
			defer b.close()
			public.event("public")
			a.expect("public")
			b.expect("public")
		})
	}
	t.Run("named", func(t *testing.T) {
		g := startGateway(t, site(`
			@inside client_ip private_ranges
			sse {
				join live
				share public
				key_add {client_ip}
			}
			reverse_proxy @inside `+inside.address+`
			reverse_proxy `+outside.address))
		a := g.subscribe("/", insider)
		defer a.close()
		inside.accept().event("secret")
		b := g.subscribe("/", outsider)
		defer b.close()
		outside.accept().event("public")
		a.expect("secret")
		b.expect("public")
	})
}

// TestAddressIsWithheld: no field of a shared upstream request tells where a
// client is, unless the key names it.
func TestAddressIsWithheld(t *testing.T) {
	believeUnix(t)
	u := startUpstream(t, nil)
	fields := []string{
		"X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9", "Forwarded: for=203.0.113.9;proto=https", "True-Client-IP: 203.0.113.9",
		"CF-Connecting-IP: 203.0.113.9", "Fastly-Client-IP: 203.0.113.9", "X-Azure-SocketIP: 203.0.113.9", "Fly-Client-IP: 203.0.113.9",
		"CloudFront-Viewer-Address: 203.0.113.9:1234", "User-Agent: 203.0.113.9", "Referer: http://203.0.113.9/", "Baggage: ip=203.0.113.9",
	}
	for _, options := range []string{"", "share public", "key {path}", "share cookies sid", "key_add {remote_host}"} {
		t.Run(options, func(t *testing.T) {
			g := startGateway(t, site(`
				sse {
					join live
					`+options+`
				}
				reverse_proxy `+u.address+` {
					header_up X-Remote {remote_host}
					header_up X-Client {client_ip}
				}`))
			up := opens(t, g, u, "/", fields...)
			for name, values := range up.request.Header {
				if strings.Contains(strings.Join(values, " "), "203.0.113.9") {
					t.Errorf("sent upstream: %s: %q", name, values)
				}
			}
			if options == "key_add {remote_host}" {
				return // the client's, as far as Caddy's server has one: of a unix socket
			}
			want := "X-Forwarded-For: " + key.Nobody + "\nX-Real-IP: " + key.Nobody + "\nX-Remote: " + key.Nobody + "\nX-Client: " + key.Nobody
			if got := sent(up, "X-Forwarded-For", "X-Real-IP", "X-Remote", "X-Client"); got != want {
				t.Errorf("sent upstream:\n%s", got)
			}
		})
	}
	t.Run("named", func(t *testing.T) {
		g := startGateway(t, proxied("key_add {client_ip}", u))
		up := opens(t, g, u, "/", fields...)
		if got := sent(up, "X-Forwarded-For", "X-Real-IP"); got != "X-Forwarded-For: 203.0.113.9\nX-Real-IP: 203.0.113.9" {
			t.Errorf("sent upstream:\n%s", got)
		}
		a := g.subscribe("/two", insider)
		defer a.close()
		b := g.subscribe("/two", outsider)
		defer b.close()
		u.accept()
		u.accept()
	})
}

// TestTrustInAProxyIsKept: what a front proxy says of scheme and host reaches
// the application if it is trusted, by the server or by reverse_proxy, though
// its address does not.
func TestTrustInAProxyIsKept(t *testing.T) {
	overHTTP1(t) // where a stranger that says https does not say what is so
	u := startUpstream(t, nil)
	fields := []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: example.com"}
	g := startGateway(t, proxied("", u))
	if got := sent(opens(t, g, u, "/", fields...), "X-Forwarded-Proto"); got != "X-Forwarded-Proto: http" {
		t.Errorf("of a stranger: %s", got)
	}
	believeUnix(t)
	g.load(proxied("", u))
	if got := sent(opens(t, g, u, "/", fields...), "X-Forwarded-Proto", "X-Forwarded-Host"); got != strings.Join(fields, "\n") {
		t.Errorf("of a trusted proxy: %s", got)
	}
}

// handlersOf returns the sse handlers of the running configuration.
func handlersOf(t *testing.T) (found []*Handler) {
	t.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(routes caddyhttp.RouteList)
	walk = func(routes caddyhttp.RouteList) {
		for _, route := range routes {
			for _, handler := range route.Handlers {
				switch handler := handler.(type) {
				case *Handler:
					found = append(found, handler)
				case *caddyhttp.Subroute:
					walk(handler.Routes)
				}
			}
		}
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		walk(server.Routes)
	}
	return found
}

// TestWhatIsBehindIsRead checks what is found in a configuration.
func TestWhatIsBehindIsRead(t *testing.T) {
	for _, test := range []struct {
		name, site string
		added      string // placeholders that were added to the key
	}{
		{"nothing", "sse\nreverse_proxy localhost:1", ""},
		{"before sse", "@a remote_ip 10.0.0.0/8\nrespond @a no 403\nsse\nreverse_proxy localhost:1", ""},
		{"its own matcher", "@a remote_ip 10.0.0.0/8\nsse @a\nreverse_proxy localhost:1", ""},
		{"address", "sse\n@a remote_ip 10.0.0.0/8\nreverse_proxy @a localhost:1", "http.request.remote.host"},
		{"field in the key", "sse\n@a header X-A 1\nreverse_proxy @a localhost:1", ""},
		{"field", "sse\n@a header user-agent *Mobile*\nreverse_proxy @a localhost:1", "http.request.header.User-Agent"},
		{"regexp of a field", "sse\n@a header_regexp Referer a\nreverse_proxy @a localhost:1", "http.request.header.Referer"},
		{"upgrade", "sse\n@a {\nheader Connection *Upgrade*\nheader Upgrade websocket\n}\nreverse_proxy @a localhost:1", ""},
		{"accept", "@a header Accept text/event-stream\nsse @a\nreverse_proxy @a localhost:1", ""},
		{"protocol", "sse\n@a protocol http/2+\nreverse_proxy @a localhost:1", "http.request.proto"},
		{"scheme", "sse\n@a protocol https\nreverse_proxy @a localhost:1", ""},
		{"ignored query", "sse {\nkey_ignore query x\n}\n@a query x=1\nreverse_proxy @a localhost:1", "http.request.uri.query.x"},
		{"a handler's address", "sse\nreverse_proxy localhost:1 {\nheader_up X-Real-IP {remote_host}\n}", ""},
		{"captured before", "@a path_regexp a /(.*)\nheader @a X-A 1\nsse\nreverse_proxy localhost:1 {\nheader_up X-B {re.a.1}\n}", "http.regexp.a.1"},
		{"mapped before", "map {remote_host} {net} {\n127.0.0.1 in\ndefault out\n}\nsse\nreverse_proxy {net}:1", "net"},
		{"another site's part", "handle /a {\nsse\nreverse_proxy localhost:1\n}\nhandle {\n@a remote_ip 10.0.0.0/8\nreverse_proxy @a localhost:2\n}", ""},
		{"named route", "route {\nsse\ninvoke inner\nreverse_proxy localhost:1\n}", "http.request.remote.host"},
		{"environment", "sse\nreverse_proxy {$UPSTREAM:localhost}:1 {\nheader_up X-A {env.HOME}\nheader_up X-B {time.now}\n}", ""},
		{"php", "sse\nphp_fastcgi localhost:1", "http.matchers.file.relative"},
		{"operator's key", "sse {\nshare public\n}\n@a remote_ip 10.0.0.0/8\nreverse_proxy @a localhost:1", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			startGateway(t, "&(inner) {\n@a remote_ip 10.0.0.0/8\nrespond @a no\n}\n"+site(test.site))
			handlers := handlersOf(t)
			if len(handlers) != 1 {
				t.Fatalf("%d handlers", len(handlers))
			}
			r := (&http.Request{URL: new(url.URL)}).WithContext(context.WithValue(t.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
			var added []string
			for _, part := range handlers[0].policy.Parts(r, "") {
				if part.Name == "template" {
					added = append(added, key.Placeholders(part.Value)...)
				}
			}
			slices.Sort(added)
			if got := strings.Join(added, " "); got != test.added {
				t.Errorf("in the key: %q, expected %q", got, test.added)
			}
		})
	}
}

// TestVariablesSeparate: what handlers before sse have made of a request in
// variables and placeholders counts, and reaches handlers behind.
func TestVariablesSeparate(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site(`
		vars tenant {header.X-Forwarded-Port}
		map {header.X-Request-Id} {net} {
			~^(.) "${1}"
		}
		sse {
			join live
		}
		reverse_proxy `+u.address+` {
			header_up X-Tenant {vars.tenant}
			header_up X-Net {net}
		}`))
	checkSharing(t, g, u, []sharing{
		{a: []string{"X-Forwarded-Port: 1"}, b: []string{"X-Forwarded-Port: 2"}},
		{a: []string{"X-Request-Id: 1"}, b: []string{"X-Request-Id: 2"}},
		{name: "the same", a: []string{"X-Request-Id: 1", "X-Forwarded-Port: 1"}, b: []string{"X-Request-Id: 11", "X-Forwarded-Port: 1"}, shared: true},
	})
	up := opens(t, g, u, "/", "X-Request-Id: 12", "X-Forwarded-Port: 3")
	if got := sent(up, "X-Tenant", "X-Net"); got != "X-Tenant: 3\nX-Net: 1" {
		t.Errorf("sent upstream:\n%s", got)
	}
}

// What the directives root and fs say is the site's, whoever asks: handlers behind sse are given it, and nobody is warned
// of php_fastcgi, which asks for both.
func TestVariablesOfTheSiteReachHandlersBehind(t *testing.T) {
	var given atomic.Value
	address := answers(t, func(_ http.ResponseWriter, r *http.Request) int {
		given.Store(r.Header.Get("X-Root") + " " + r.Header.Get("X-Fs"))
		return http.StatusOK
	})
	l := startUnloaded(t)
	l.reloadWith("", site("root /srv\nvars fs disk\nsse {\nshare public\njoin live\n}\n@php path *.php\nphp_fastcgi @php 127.0.0.1:1\n"+
		"reverse_proxy "+address+" {\nheader_up X-Root {vars.root}\nheader_up X-Fs {vars.fs}\n}"))
	l.subscribe("/events").expect("1")
	if got := given.Load(); got != "/srv disk" {
		t.Errorf("the handler behind was given %q", got)
	}
	for _, line := range l.lines() {
		if line["level"] != "info" && line["level"] != "debug" {
			t.Errorf("log line %v", line)
		}
	}
}
