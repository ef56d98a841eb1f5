package key

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// choices decide what a random request is made of. Two requests whose choices
// differ in a few places often have the same key.
type choices [64]byte

// maker makes a request of choices, one after the other.
type maker struct {
	choices *choices
	next    int
}

func choose[T any](m *maker, among ...T) T {
	c := m.choices[m.next]
	m.next++
	return among[int(c)%len(among)]
}

// possibleFields are request header fields with values that may differ.
var possibleFields = map[string][]string{
	"Authorization":         {"Bearer a", "Bearer b"},
	"Cookie":                {"sid=1; _ga=1", "sid=1; _ga=2", "sid=2"},
	"X-A":                   {"1", "2"},
	"Origin":                {"https://a.test", "https://b.test"},
	"User-Agent":            {"a", "b"},
	"Referer":               {"https://a.test/", "https://a.test/b"},
	"Accept":                {"text/event-stream", "text/event-stream, */*;q=0.1"},
	"Accept-Encoding":       {"gzip", "br"},
	"Cache-Control":         {"no-cache", "no-store"},
	"Forwarded":             {"for=192.0.2.1", "for=192.0.2.2;host=a.test", `for="[2001:db8::1]";host=b.test;proto=https`, "for=1;host=a.test;by=3", `a=";`, "by=2, for=3"},
	"X-Forwarded-For":       {"192.0.2.1", "192.0.2.2, 10.0.0.1"},
	"X-Forwarded-Host":      {"a.test", "b.test"},
	"X-Forwarded-Proto":     {"http", "https"},
	"X-Forwarded-Port":      {"80", "443"},
	"X-Real-Ip":             {"192.0.2.1", "192.0.2.2"},
	"Cf-Connecting-Ip":      {"192.0.2.1", "192.0.2.2"},
	"X-Azure-Clientip":      {"192.0.2.1", "192.0.2.2"},
	"X-Request-Id":          {"1", "2"},
	"Baggage":               {"user=1", "user=2"},
	"X-B3-Traceid":          {"1", "2"},
	"Sec-Fetch-Site":        {"same-origin", "cross-site"},
	"Last-Event-Id":         {"1", "2"},
	"If-None-Match":         {`"1"`, `"2"`},
	"Connection":            {"X-A", "keep-alive"},
	"Http2-Settings":        {"1", "2"},
	"Upgrade":               {"h2c", "h2c, foo"},
	"Mcp-Protocol-Version":  {"1", "2"},
	"X-Forwarded-User":      {"a", "b"},
	"Traceparent":           {"1", "2"},
	"X-Cloud-Trace-Context": {"1", "2"},
}

// request makes a request as it reaches sse.
func (c *choices) request() *http.Request {
	m := &maker{choices: c}
	query := choose(m, "", "a=1", "a=2", "a=1&_=1", "a=1&_=2", "b=1", "a=1&lastEventId=7")
	r := &http.Request{
		Method:     http.MethodGet,
		Host:       choose(m, "a.test", "A.Test", "b.test"),
		URL:        &url.URL{Path: choose(m, "/x", "/x", "/y"), RawQuery: query, ForceQuery: choose(m, false, true)},
		Proto:      choose(m, "HTTP/1.1", "HTTP/2.0"),
		Header:     http.Header{},
		RemoteAddr: choose(m, "192.0.2.1:1000", "192.0.2.1:2000", "192.0.2.9:1", "10.0.0.1:1", "[2001:db8::1]:1", "@"),
		Close:      choose(m, false, true),
	}
	if choose(m, false, true) {
		r.URL.Scheme, r.URL.Host, r.URL.User = "http", r.Host, url.User("me")
	}
	r.RequestURI = r.URL.RequestURI()
	r.ProtoMajor = int(r.Proto[5] - '0')
	for _, name := range slices.Sorted(maps.Keys(possibleFields)) {
		if value := choose(m, append([]string{"", ""}, possibleFields[name]...)...); value != "" {
			r.Header[name] = []string{value}
		}
	}
	r.TLS = choose(m, nil,
		&tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, CipherSuite: 1},
		&tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS12, CipherSuite: 2, DidResume: true},
		&tls.ConnectionState{HandshakeComplete: false, Version: tls.VersionTLS13},
		&tls.ConnectionState{HandshakeComplete: true, ServerName: "a.test", PeerCertificates: []*x509.Certificate{{Raw: []byte("a")}}},
		&tls.ConnectionState{HandshakeComplete: true, ServerName: "a.test", PeerCertificates: []*x509.Certificate{{Raw: []byte("b")}}})
	local := choose[net.Addr](m, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 50), Port: 80}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 51), Port: 80})
	ctx := context.WithValue(context.Background(), http.LocalAddrContextKey, local)

	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r.WithContext(ctx), repl, httptest.NewRecorder(), new(caddyhttp.Server))
	set := func(set func(name, value string), name string) {
		if value := choose(m, "", "1", "2"); value != "" {
			set(name, value)
		}
	}
	asVar := func(name, value string) { caddyhttp.SetVar(r.Context(), name, value) }
	asPlaceholder := func(name, value string) { repl.Set(name, value) }
	set(asVar, "tenant")
	set(asVar, "trace_id")
	set(asPlaceholder, "who")
	set(asPlaceholder, "http.regexp.x.1")
	set(asPlaceholder, "http.auth.user.id")
	set(asPlaceholder, "http.auth.user.email")
	if choose(m, false, true) {
		caddyhttp.SetVar(r.Context(), "thing", m) // cannot be compared
	}
	caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, choose(m, false, true))
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, choose(m, "192.0.2.1", "192.0.2.2"))
	groups := r.Context().Value(RouteGroupCtxKey).(map[string]struct{})
	for _, group := range []string{"g1", "g2"} {
		if choose(m, false, true) {
			groups[group] = struct{}{}
		}
	}
	r.URL.Path = choose(m, r.URL.Path, "/rewritten")
	r.Method = choose(m, r.Method, http.MethodPost)
	return r
}

// askable are placeholders for which handlers behind sse may ask.
var askable = []string{
	"http.request.method", "http.request.scheme", "http.request.proto", "http.request.proto_name", "http.request.host", "http.request.port",
	"http.request.hostport", "http.request.local", "http.request.local.host", "http.request.local.port", "http.request.remote",
	"http.request.remote.host", "http.request.remote.port", "http.request.remote.host/24", "http.request.uri", "http.request.uri.path",
	"http.request.uri.query", "http.request.uri.prefixed_query", "http.request.uri.query.a", "http.request.uri.query._", "http.request.body",
	"http.request.orig_method", "http.request.orig_uri", "http.request.orig_uri.path", "http.request.orig_uri.query", "http.request.cookie._ga",
	"http.request.cookie.sid", "http.request.tls.version", "http.request.tls.cipher_suite", "http.request.tls.resumed", "http.request.tls.server_name",
	"http.request.tls.client.fingerprint", "http.request.header.User-Agent", "http.request.header.X-Real-IP", "http.request.header.Forwarded",
	"http.vars.client_ip", "http.vars.trusted_proxy", "http.vars.tenant", "http.vars.trace_id", "http.vars.thing", "who", "http.regexp.x.1",
	"http.auth.user.id", "http.auth.user.email", "unknown",
}

// seen tells all that handlers behind sse can see of a request.
func (p *Policy) seen(r *http.Request) string {
	clean := p.Clean(r)
	up := clean.Instantiate(clean.Template.Context(), httptest.NewRecorder(), "", "")
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %#v %s %s %s %d.%d %v %v\n", up.Method, up.Host, *up.URL, up.RequestURI, up.RemoteAddr, up.Proto, up.ProtoMajor, up.ProtoMinor, up.Close, up.Trailer)
	for _, name := range slices.Sorted(maps.Keys(up.Header)) {
		fmt.Fprintf(&b, "%s: %q\n", name, up.Header[name])
	}
	if t := up.TLS; t != nil {
		fmt.Fprintf(&b, "TLS %v %v %v %v %q %d\n", t.HandshakeComplete, t.Version, t.CipherSuite, t.DidResume, t.ServerName, len(t.PeerCertificates))
		for _, c := range t.PeerCertificates {
			fmt.Fprintf(&b, "certificate %s\n", c.Raw)
		}
	}
	vars := up.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if name != "start_time" {
			fmt.Fprintf(&b, "var %s: %v\n", name, vars[name])
		}
	}
	for group := range p.groups {
		_, entered := up.Context().Value(RouteGroupCtxKey).(map[string]struct{})[group]
		fmt.Fprintf(&b, "group %s: %v\n", group, entered)
	}
	orig := up.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	fmt.Fprintf(&b, "original %s %v %s %s\n", orig.Method, *orig.URL, orig.RequestURI, orig.RemoteAddr)
	repl := up.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for _, name := range askable {
		value, known := repl.Get(name)
		fmt.Fprintf(&b, "{%s}: %v %s\n", name, known, caddy.ToString(value))
	}
	return b.String()
}

// idParameters are those that the option last_event_id_query has by default.
var idParameters = []string{"lastEventId", "last-event-id", "last_event_id", "Last-Event-ID", "evs_last_event_id"}

// everyPolicy are policies of all kinds of keys.
func everyPolicy() map[string]*Policy {
	policies := make(map[string]*Policy)
	for name, c := range map[string]Config{
		"default":             {},
		"client_ip":           {Add: []string{"{http.vars.client_ip}"}},
		"remote host":         {Add: []string{"{http.request.remote.host}"}},
		"remote":              {Add: []string{"{http.request.remote}"}},
		"remote port":         {Add: []string{"{http.request.remote.port}"}},
		"remote prefix":       {Add: []string{"{http.request.remote.host/24}"}},
		"both":                {Add: []string{"{http.vars.client_ip}{http.request.remote.host}"}},
		"fields":              {Add: []string{"{http.request.header.User-Agent}", "{http.request.header.X-Real-IP}", "{http.request.header.Forwarded}"}},
		"connection":          {Add: []string{"{http.request.proto}", "{http.request.tls.version}", "{http.request.local}"}},
		"tenant":              {Add: []string{"{http.vars.tenant}", "{http.vars.trace_id}", "{who}"}},
		"ignore":              {IgnoreQuery: []string{"_"}, IgnoreHeaders: []string{"X-A", "X-Real-IP", "Forwarded", "Accept"}},
		"public":              {Public: true},
		"public, client_ip":   {Public: true, Add: []string{"{http.vars.client_ip}"}},
		"public, user":        {Public: true, Add: []string{"{http.auth.user.id}"}},
		"cookies":             {Cookies: []string{"sid"}},
		"key":                 {Template: "{http.request.uri.path}{http.request.uri.query.a}"},
		"key of the URI":      {Template: "{http.request.uri}{http.request.header.X-Forwarded-Host}"},
		"key of the address":  {Template: "{http.request.remote.host}-{http.regexp.x.1}"},
		"what is behind asks": {},
	} {
		c.IDParameters = idParameters
		policies[name] = New(c)
	}
	asked := map[string]struct{}{}
	for _, name := range askable {
		asked[name] = struct{}{}
	}
	behind := &behind{
		matched: map[string]struct{}{remoteHostPlaceholder: {}, headerPrefix + "User-Agent": {}}, used: asked,
		groups: map[string]struct{}{"g1": {}}, trusted: [][]string{{"10.0.0.0/8"}},
	}
	policies["what is behind asks"].heed(behind)
	policies["key"].heed(behind)
	return policies
}

// TestWhatIsNotInTheKeyIsNotSentUpstream: whatever differs between two requests
// with the same key does not differ in the upstream requests that are made of
// them. Nothing that the application or a handler behind sse decides by it can
// then be decided for another client.
func TestWhatIsNotInTheKeyIsNotSentUpstream(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	hub := stream.NewHub()
	for name, p := range everyPolicy() {
		t.Run(name, func(t *testing.T) {
			same := 0
			for range 500 {
				var one choices
				for i := range one {
					one[i] = byte(random.Uint32())
				}
				other := one
				for range 1 + random.IntN(3) {
					other[random.IntN(len(other))] = byte(random.Uint32())
				}
				r1, r2 := one.request(), other.request()
				if hub.Key(p.Parts(r1, "")) != hub.Key(p.Parts(r2, "")) {
					continue
				}
				same++
				if s1, s2 := p.seen(r1), p.seen(r2); s1 != s2 {
					t.Fatalf("the same key, but behind sse there is\n%s", difference(s1, s2))
				}
			}
			if same < 30 {
				t.Errorf("only %d pairs of requests had the same key: nothing was tested", same)
			}
		})
	}
}

// difference shows the lines in which two texts differ.
func difference(a, b string) string {
	var out strings.Builder
	one, other := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, line := range one {
		if !slices.Contains(other, line) {
			out.WriteString("< " + line + "\n")
		}
	}
	for _, line := range other {
		if !slices.Contains(one, line) {
			out.WriteString("> " + line + "\n")
		}
	}
	return out.String()
}
