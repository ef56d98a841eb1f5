package caddysse

import (
	"crypto/tls"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/key"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// sharing is one question to a gateway: do these two requests share a stream?
type sharing struct {
	name   string
	path   string // of both; the second's is path2, if that is given
	path2  string
	a, b   []string // header fields
	shared bool
}

// check asks. When a client has its head, its upstream connection has been counted.
func (s sharing) check(t *testing.T, g *gateway, u *upstream) {
	t.Helper()
	if s.path2 == "" {
		s.path2 = s.path
	}
	_, before := u.counts()
	a := g.subscribeTo(t, s.path, s.a...)
	upA := u.accept()
	b := g.subscribeTo(t, s.path2, s.b...)
	_, after := u.counts()
	if shared := after-before == 1; shared != s.shared {
		t.Errorf("%d upstream connections for %v and %v, expected shared: %v", after-before, s.a, s.b, s.shared)
		a.close()
		b.close()
		return
	}
	if s.shared {
		upA.event("for both")
		a.expect("for both")
		b.expect("for both")
	} else {
		upB := u.accept()
		upA.event("for a")
		upB.event("for b")
		a.expect("for a")
		b.expect("for b")
		upB.end()
		b.expectEnd()
	}
	upA.end()
	a.expectEnd()
	if s.shared {
		b.expectEnd()
	}
}

// subscribeTo is subscribe for a subtest.
func (g *gateway) subscribeTo(t *testing.T, target string, fields ...string) *testClient {
	t.Helper()
	sub := *g
	sub.t = t
	return sub.subscribe(target, fields...)
}

// checkSharing checks cases on one gateway. Each has a path of its own.
func checkSharing(t *testing.T, g *gateway, u *upstream, cases []sharing) {
	t.Helper()
	for i, s := range cases {
		name := s.name
		if name == "" {
			name = strings.Join(slices.Concat(s.a, []string{"and"}, s.b), " ")
		}
		prefix := fmt.Sprintf("/%d", i)
		s.path = prefix + s.path
		if s.path2 != "" {
			s.path2 = prefix + s.path2
		}
		t.Run(name, func(t *testing.T) { s.check(t, g, u) })
	}
}

func TestDifferentRequestsDoNotShare(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	checkSharing(t, g, u, []sharing{
		{a: []string{"Authorization: Bearer a"}, b: []string{"Authorization: Bearer b"}},
		{a: []string{"Authorization: Bearer a"}},
		{b: []string{"Authorization: Bearer b"}},
		{a: []string{"Cookie: sid=a"}, b: []string{"Cookie: sid=b"}},
		{a: []string{"Cookie: sid=a"}},
		{a: []string{"Cookie: sid=a"}, b: []string{"Cookie: sid=a; theme=dark"}},
		{a: []string{"X-Api-Key: a"}, b: []string{"X-Api-Key: b"}},
		{a: []string{"Api-Key: a"}, b: []string{"Api-Key: b"}},
		{a: []string{"Origin: https://a.test"}, b: []string{"Origin: https://b.test"}},
		{a: []string{"X-Forwarded-User: a"}, b: []string{"X-Forwarded-User: b"}},
		{a: []string{"X-Forwarded-Host: a.test"}, b: []string{"X-Forwarded-Host: b.test"}},
		{a: []string{"X-Forwarded-Proto: http"}, b: []string{"X-Forwarded-Proto: https"}},
		{a: []string{"Accept-Language: de"}, b: []string{"Accept-Language: fr"}},
		{a: []string{"X-Unheard-Of: a"}, b: []string{"X-Unheard-Of: b"}},
		{a: []string{"X-Unheard-Of: a"}},
		{a: []string{"X-Unheard-Of: a"}, b: []string{"X-Unheard-Of: a", "X-Unheard-Of: b"}},
		{a: []string{"X-Unheard-Of: a, b"}, b: []string{"X-Unheard-Of: a", "X-Unheard-Of: b"}},
		{a: []string{"Sec-Fetch: a"}, b: []string{"Sec-Fetch: b"}},
		{a: []string{"Host: a.test"}, b: []string{"Host: b.test"}},
		{name: "query", path: "/q?room=1", path2: "/q?room=2"},
		{name: "a parameter more", path: "/q?room=1", path2: "/q?room=1&full"},
		{name: "the order of parameters", path: "/q?a=1&b=2", path2: "/q?b=2&a=1"},
		{name: "path", path: "/p", path2: "/P"},
		{name: "escaped path", path: "/p/a%2Fb", path2: "/p/a/b"},
	})
}

// exemptHeaders are header fields that do not tell streams apart, as lines. The tests
// of internal/key hold them to the whole list.
func exemptHeaders(t *testing.T) (lines []string) {
	t.Helper()
	for _, name := range []string{"exempt.txt", "exempt_families.txt"} {
		text, err := fs.ReadFile(os.DirFS("internal/key/testdata"), name)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Split(strings.TrimSpace(string(text)), "\n")...)
	}
	return lines
}

func TestExemptHeadersShare(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("ids gateway", u))
	var cases []sharing
	for _, field := range exemptHeaders(t) {
		cases = append(cases, sharing{a: []string{field}, shared: true}, sharing{b: []string{field}, shared: true})
	}
	cases = append(cases,
		sharing{name: "Accept", b: []string{"Accept: text/event-stream;q=0.5"}, shared: true},
		sharing{name: "Host's case", a: []string{"Host: EXAMPLE.test"}, b: []string{"Host: example.TEST"}, shared: true},
		sharing{
			name: "the same user", shared: true,
			a: []string{"Authorization: Bearer a", "Cookie: sid=a", "X-Unheard-Of: a"},
			b: []string{"Authorization: Bearer a", "Cookie: sid=a", "X-Unheard-Of: a"},
		})
	for _, name := range []string{"lastEventId", "last-event-id", "last_event_id", "Last-Event-ID", "evs_last_event_id"} {
		cases = append(cases, sharing{name: name, path: "/q?a=1&" + name + "=&b=2", path2: "/q?a=1&b=2", shared: true})
		cases = append(cases, sharing{name: name + " escaped", path: "/q?" + strings.Replace(name, "e", "%65", 1) + "=&b=2", path2: "/q?b=2", shared: true})
	}
	checkSharing(t, g, u, cases)
}

// sent returns the named header fields that the upstream was sent, as lines.
func sent(c *upstreamClient, names ...string) string {
	var lines []string
	for _, name := range names {
		for _, value := range c.request.Header.Values(name) {
			lines = append(lines, name+": "+value)
		}
	}
	return strings.Join(lines, "\n")
}

// opens makes a request, and returns what reached the upstream of it.
func opens(t *testing.T, g *gateway, u *upstream, target string, fields ...string) *upstreamClient {
	t.Helper()
	c := g.subscribeTo(t, target, fields...)
	up := u.accept()
	up.end()
	c.expectEnd()
	return up
}

var personal = []string{
	"Authorization: Bearer a", "Cookie: sid=a; theme=dark", "X-Api-Key: a", "Accept-Language: de", "X-Unheard-Of: a",
	"X-Forwarded-User: a", "Origin: https://a.test", "User-Agent: a",
}

var personalNames = []string{
	"Authorization", "Cookie", "X-Api-Key", "Accept-Language", "X-Unheard-Of", "X-Forwarded-User", "Origin", "User-Agent",
}

func TestSharePublic(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("share public", u))
	checkSharing(t, g, u, []sharing{
		{name: "two users", a: personal[:6], b: []string{"Cookie: sid=b", "User-Agent: b"}, shared: true},
		{name: "one user, one anonymous", a: personal[:6], shared: true},
		{a: []string{"Origin: https://a.test"}, b: []string{"Origin: https://b.test"}},
		{a: []string{"X-Forwarded-Host: a.test"}, b: []string{"X-Forwarded-Host: b.test"}},
		{a: []string{"X-Forwarded-Proto: http"}, b: []string{"X-Forwarded-Proto: https"}},
		{a: []string{"Host: a.test"}, b: []string{"Host: b.test"}},
		{name: "query", path: "/?a=1", path2: "/?a=2"},
	})
	up := opens(t, g, u, "/sent?a=1&lastEventId=", personal...)
	if got := sent(up, personalNames...); got != "Origin: https://a.test\nUser-Agent: "+key.UserAgent {
		t.Errorf("sent upstream:\n%s", got)
	}
	if got := up.request.RequestURI; got != "/sent?a=1" {
		t.Errorf("sent upstream: %s", got)
	}
	if got := sent(up, "Accept-Encoding", "Last-Event-ID", "Accept"); got != "Accept-Encoding: identity\nAccept: text/event-stream" {
		t.Errorf("sent upstream:\n%s", got)
	}
}

func TestShareCookies(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("share cookies tenant lang", u))
	checkSharing(t, g, u, []sharing{
		{a: []string{"Cookie: tenant=1; _ga=a"}, b: []string{"Cookie: _ga=b; tenant=1"}, shared: true},
		{a: []string{"Cookie: tenant=1"}, b: []string{"Cookie: tenant=2"}},
		{a: []string{"Cookie: tenant=1"}, b: []string{"Cookie: tenant=1; lang=de"}},
		{a: []string{"Cookie: tenant=1"}},
		{a: []string{"Cookie: xtenant=1"}, b: []string{"Cookie: tenantx=1"}, shared: true},
		{a: []string{"Authorization: Bearer a"}, b: []string{"Authorization: Bearer b"}, shared: true},
		{a: []string{"Origin: https://a.test"}, b: []string{"Origin: https://b.test"}},
	})
	up := opens(t, g, u, "/sent", "Cookie: a=1; tenant=1;b=2 ; lang=de;tenant2=x", "Authorization: Bearer a")
	if got := sent(up, "Cookie", "Authorization"); got != "Cookie: tenant=1; lang=de" {
		t.Errorf("sent upstream:\n%s", got)
	}
	up = opens(t, g, u, "/sent2", "Cookie: a=1")
	if got := sent(up, "Cookie"); got != "" {
		t.Errorf("sent upstream:\n%s", got)
	}
}

func TestShareOff(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("share off", u))
	checkSharing(t, g, u, []sharing{{name: "the same"}})
	a := g.subscribe("/private", "Last-Event-ID: sse1.00000000000000000000000000000000.1")
	up := u.accept()
	if got := sent(up, "Last-Event-ID"); got != "Last-Event-ID: sse1.00000000000000000000000000000000.1" {
		t.Errorf("sent upstream: %q", got)
	}
	if got := a.outcome(); got != "gap" { // nobody knows it
		t.Errorf("SSE-Resume: %q", got)
	}
	a.close()
	up.expectGone() // at once: nothing lingers
}

func TestKeyTemplate(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site(`
		@header path */header
		sse @header {
			key {header.X-Tenant}
		}
		@uri path */uri
		sse @uri {
			key {http.request.uri}
		}
		@query path */query
		sse @query {
			key "{query.room}-{cookie.tenant}"
		}
		@raw path */raw
		sse @raw {
			key "{http.request.uri.query}"
		}
		reverse_proxy `+u.address+` {
			header_up X-Orig-Uri {http.request.orig_uri}
		}`))
	checkSharing(t, g, u, []sharing{
		{
			name: "header", path: "/header?a=1", path2: "/header?a=2", shared: true,
			a: []string{"X-Tenant: 1", "Cookie: a"}, b: []string{"X-Tenant: 1", "Cookie: b", "Origin: https://b.test"},
		},
		{name: "other header", path: "/header", a: []string{"X-Tenant: 1"}, b: []string{"X-Tenant: 2"}},
		{name: "without header", path: "/header", a: []string{"X-Tenant: 1"}},
		{name: "uri", path: "/uri?a=1", a: personal, shared: true},
		{name: "other query", path: "/uri?a=1", path2: "/uri?a=2"},
		{name: "query", path: "/query?room=1&x=1", path2: "/query?room=1&x=2", shared: true},
		{name: "other room", path: "/query?room=1", path2: "/query?room=2"},
		{name: "other cookie", path: "/query?room=1", a: []string{"Cookie: tenant=1"}, b: []string{"Cookie: tenant=2"}},
		{name: "no confusion", path: "/query?room=1-2", path2: "/query?room=1", a: []string{"Cookie: tenant=3"}, b: []string{"Cookie: tenant=2-3"}},
		{name: "raw query", path: "/raw?a=1", path2: "/raw?a=2"},
	})

	for _, test := range []struct{ target, uri, fields string }{
		{"/s/header?a=1", "/s/header", "X-Tenant: 1"},
		{"/s/uri?a=1&lastEventId=", "/s/uri?a=1", ""},
		{"/s/query?a=1&room=2&b=3", "/s/query?room=2", "Cookie: tenant=3"},
		{"/s/raw?a=1&b=2", "/s/raw?a=1&b=2", ""},
	} {
		up := opens(t, g, u, test.target, "X-Tenant: 1", "Cookie: tenant=3; sid=4", "Authorization: a", "X-Unheard-Of: a", "Origin: https://a.test")
		if up.request.RequestURI != test.uri || up.request.Header.Get("X-Orig-Uri") != test.uri {
			t.Errorf("%s: sent upstream: %s, original URI %s", test.target, up.request.RequestURI, up.request.Header.Get("X-Orig-Uri"))
		}
		if got := sent(up, "X-Tenant", "Cookie", "Authorization", "X-Unheard-Of", "Origin"); got != test.fields {
			t.Errorf("%s: sent upstream:\n%s", test.target, got)
		}
	}
}

func TestKeyAddAndIgnore(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site(`
		vars tenant {header.User-Agent}
		sse {
			key_add {vars.tenant} {header.Referer}
			key_ignore query _ ts
			key_ignore header X-Noise accept-language
			join live
		}
		reverse_proxy `+u.address+` {
			header_up X-Tenant {vars.tenant}
			header_up X-Orig-Uri {http.request.orig_uri}
		}`))
	checkSharing(t, g, u, []sharing{
		{a: []string{"User-Agent: a"}, b: []string{"User-Agent: b"}},
		{a: []string{"Referer: http://a.test/"}, b: []string{"Referer: http://b.test/"}},
		{name: "no confusion", a: []string{"User-Agent: a", "Referer: bc"}, b: []string{"User-Agent: ab", "Referer: c"}},
		{name: "the same", a: []string{"User-Agent: a", "Referer: b"}, b: []string{"User-Agent: a", "Referer: b"}, shared: true},
		{a: []string{"X-Noise: a"}, b: []string{"X-Noise: b"}, shared: true},
		{a: []string{"Accept-Language: de"}, b: []string{"Accept-Language: fr"}, shared: true},
		{a: []string{"Cookie: a"}, b: []string{"Cookie: b"}},
		{name: "_", path: "/?a=1&_=1", path2: "/?_=2&a=1", shared: true},
		{name: "escaped _", path: "/?%5F=1", path2: "/?_=2", shared: true},
		{name: "another parameter", path: "/?a=1&_=1", path2: "/?a=2&_=1"},
	})
	up := opens(t, g, u, "/sent?_=1&a=%32&ts&b=&%5f=3", "X-Noise: a", "Accept-Language: de", "User-Agent: me", "Cookie: a")
	if got := sent(up, "X-Noise", "Accept-Language", "X-Tenant", "Cookie", "X-Orig-Uri"); got != "X-Tenant: me\nCookie: a\nX-Orig-Uri: /sent?a=%32&b=" {
		t.Errorf("sent upstream:\n%s", got)
	}
	if got := up.request.RequestURI; got != "/sent?a=%32&b=" {
		t.Errorf("sent upstream: %s", got)
	}
}

func TestRewrittenURIs(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site(`
		@fixed path */fixed
		rewrite @fixed /fixed
		sse {
			join live
		}
		reverse_proxy `+u.address+` {
			header_up X-Orig-Uri {http.request.orig_uri}
		}`))
	checkSharing(t, g, u, []sharing{
		{name: "path as received", path: "/fixed", path2: "/b/fixed"},
		{name: "query as received", path: "/fixed?a=1", path2: "/fixed?a=2"},
		{name: "the same", path: "/fixed?a=1&lastEventId=", path2: "/fixed?a=1", shared: true},
	})
}

// basicAuth is the directive for users a and b with the password "secret".
const basicAuth = `basic_auth {
	a $2a$04$ejETZ251pXH.9s.3fTOjA.FHREk3qDML/FHld4IUNSkzjROKpJfYW
	b $2a$04$ejETZ251pXH.9s.3fTOjA.FHREk3qDML/FHld4IUNSkzjROKpJfYW
}
`

func credentials(user string) string {
	r := &http.Request{Header: make(http.Header)}
	r.SetBasicAuth(user, "secret")
	return "Authorization: " + r.Header.Get("Authorization")
}

func TestAuthenticatedUsers(t *testing.T) {
	u := startUpstream(t, nil)
	for _, test := range []struct {
		options string
		shared  bool
		sent    string
	}{
		{"", false, credentials("a") + "\nX-User: a"},
		{"share public", true, ""},
		{"share cookies sid", true, ""},
		{"key {path}", true, ""},
		{"key {http.auth.user.id}", false, "X-User: a"},
		{"share public\nkey_add {http.auth.user.id}", false, "X-User: a"},
		{"key_ignore header Authorization", false, "X-User: a"},
	} {
		t.Run(test.options, func(t *testing.T) {
			g := startGateway(t, site(basicAuth+"sse {\n"+test.options+"\n}\nreverse_proxy "+u.address+` {
				header_up X-User {http.auth.user.id}
			}`))
			sharing{path: "/", a: []string{credentials("a")}, b: []string{credentials("b")}, shared: test.shared}.check(t, g, u)
			up := opens(t, g, u, "/sent", credentials("a"))
			if got := sent(up, "Authorization", "X-User"); strings.TrimSuffix(got, "X-User: ") != test.sent {
				t.Errorf("sent upstream:\n%s", got)
			}
			resp := g.get("/") // a stream is running there
			if text := body(t, resp); resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("without credentials: %s %q", resp.Status, text)
			}
		})
	}
}

func TestClientCertificates(t *testing.T) {
	u := startUpstream(t, nil)
	files := newCertificate(t, "server")
	alice, bob := newCertificate(t, "alice"), newCertificate(t, "bob")
	for _, test := range []struct {
		options string
		shared  bool
		sent    string
	}{
		{"", false, "X-Subject: CN=alice"},
		{"share public", true, ""},
		{"key {path}", true, ""},
		{"share public\nkey_add {tls_client_subject}", false, "X-Subject: CN=alice"},
	} {
		t.Run(test.options, func(t *testing.T) {
			g := startGateway(t, "https:// {\nbind {socket}\ntls "+files.cert+" "+files.key+` {
				client_auth {
					mode request
				}
			}
			sse {
				`+test.options+`
			}
			reverse_proxy `+u.address+` {
				header_up X-Subject {http.request.tls.client.subject}
			}
			}`)
			as := func(c certificate) *gateway {
				other := *g
				other.t = t
				other.client = tlsClient(t, g.socket, files, func(config *tls.Config) {
					config.Certificates = []tls.Certificate{c.pair}
				})
				return &other
			}
			a := as(alice).subscribe("/")
			up := u.accept()
			if got := sent(up, "X-Subject"); strings.TrimSuffix(got, "X-Subject: ") != test.sent {
				t.Errorf("sent upstream: %s", got)
			}
			b := as(bob).subscribe("/")
			open, _ := u.counts()
			if shared := open == 1; shared != test.shared {
				t.Fatalf("%d upstream connections, expected shared: %v", open, test.shared)
			}
			if !test.shared {
				up2 := u.accept()
				if got := sent(up2, "X-Subject"); got != "X-Subject: CN=bob" {
					t.Errorf("sent upstream: %s", got)
				}
				up2.end()
				b.expectEnd()
			}
			up.event("1")
			a.expect("1")
			up.end()
			a.expectEnd()
		})
	}
}

// headFor makes an upstream's head from the part of the path after the test's
// number.
func headFor(heads map[string]http.Header) func(w http.ResponseWriter, r *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		parts := strings.Split(r.URL.Path, "/")
		maps.Copy(w.Header(), heads[parts[len(parts)-1]])
	}
}

func TestAnswersThatForbidSharing(t *testing.T) {
	u := startUpstream(t, headFor(map[string]http.Header{
		"star":    {"Vary": {"Origin, *"}},
		"accept":  {"Vary": {"Accept, Accept-Encoding, Last-Event-ID"}},
		"known":   {"Vary": {"Cookie, X-Unheard-Of", "X-Forwarded-Proto"}},
		"ae":      {"Vary": {"Accept-Encoding"}},
		"unsent":  {"Vary": {"If-None-Match, Range"}},
		"cookie":  {"Set-Cookie": {"sid=1"}},
		"private": {"Cache-Control": {"No-Cache, Private"}},
		"field":   {"Cache-Control": {`private="X-A"`}},
		"cors":    {"Access-Control-Allow-Origin": {"https://a.test"}},
		"anyone":  {"Access-Control-Allow-Origin": {"*"}},
	}))
	g := startGateway(t, proxied("", u))
	for _, s := range []sharing{
		{path: "/accept", a: []string{"Accept-Encoding: gzip"}, shared: true},
		{path: "/known", a: []string{"Cookie: a"}, b: []string{"Cookie: a"}, shared: true},
		{path: "/star"},
		{path: "/ae", a: []string{"Accept-Encoding: gzip"}, shared: true},
		{path: "/unsent", a: []string{"Range: bytes=0-"}, shared: true},
		{path: "/1/cookie"},
		{path: "/2/cookie", a: []string{"Cookie: sid=1"}, b: []string{"Cookie: sid=1"}},
		{path: "/1/private"},
		{path: "/2/private", a: []string{"Authorization: a"}, b: []string{"Authorization: a"}, shared: true},
		{path: "/3/private", a: []string{"Cookie: a=1"}, b: []string{"Cookie: a=1"}, shared: true},
		{path: "/4/private", a: []string{"X-Api-Key: a"}, b: []string{"X-Api-Key: a"}, shared: true},
		{path: "/5/private", a: []string{"X-Unheard-Of: a"}, b: []string{"X-Unheard-Of: a"}},
		{path: "/field"},
		{path: "/1/cors", a: []string{"Origin: https://a.test"}, b: []string{"Origin: https://b.test"}},
		{path: "/2/cors", a: []string{"Origin: https://a.test"}, b: []string{"Origin: https://a.test"}, shared: true},
		{path: "/anyone", shared: true},
	} {
		t.Run(s.path, func(t *testing.T) { s.check(t, g, u) })
	}
}

// TestVaryOnWhatIsWithheld: an answer that depends on what is not in the key, or
// on what a handler behind sse sets, is private, and made for who gets it.
func TestVaryOnWhatIsWithheld(t *testing.T) {
	believeUnix(t)
	u := startUpstream(t, headFor(map[string]http.Header{
		"ua":        {"Vary": {"user-agent"}},
		"many":      {"Vary": {"Accept, Accept-Encoding", "Referer"}},
		"forwarded": {"Vary": {"x-forwarded-for"}},
		"set":       {"Vary": {"X-Real-IP"}},
	}))
	g := startGateway(t, site("sse {\njoin live\n}\nreverse_proxy "+u.address+" {\nheader_up X-Real-IP {client_ip}\n}"))
	for path, name := range map[string]string{"/ua": "User-Agent", "/many": "Referer", "/forwarded": "X-Forwarded-For", "/set": "X-Real-IP"} {
		fields := func(n string) []string {
			return []string{"User-Agent: " + n, "Referer: " + n, "X-Forwarded-For: " + n}
		}
		a := g.subscribe(path, fields("192.0.2.1")...)
		shared, upA := u.accept(), u.accept() // in no certain order
		if upA.request.UserAgent() == key.UserAgent {
			shared, upA = upA, shared
		}
		shared.expectGone() // it was for nobody
		b := g.subscribe(path, fields("192.0.2.2")...)
		upB := u.accept()
		upA.event("for " + upA.request.Header.Get(name))
		upB.event("for " + upB.request.Header.Get(name))
		a.expect("for 192.0.2.1")
		b.expect("for 192.0.2.2")
		a.close()
		b.close()
		upA.expectGone()
		upB.expectGone()
	}
}

// TestRefusalsAreForWhoIsRefused: an application that lets only some addresses
// in lets them in.
func TestRefusalsAreForWhoIsRefused(t *testing.T) {
	believeUnix(t)
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-For") != "10.1.2.3" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
	})
	g := startGateway(t, proxied("", u))
	a := g.subscribe("/", insider)
	for up := u.accept(); ; up = u.accept() {
		if up.request.Header.Get("X-Forwarded-For") == "10.1.2.3" {
			up.event("secret")
			break
		}
	}
	a.expect("secret")
	if resp := g.get("/", outsider); resp.StatusCode != http.StatusForbidden {
		t.Errorf("an outsider was answered %s", resp.Status)
	}
	a.close()
}

// TestVaryOfWaitingClients: those who have waited for an answer that depends on
// what is not in the key each get their own.
func TestVaryOfWaitingClients(t *testing.T) {
	release := make(chan struct{})
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Vary", "User-Agent")
	})
	g := startGateway(t, proxied("", u))
	answers := make(chan *http.Response, 4)
	for i := range cap(answers) {
		go func() {
			req := g.request(http.MethodGet, "/", "Accept: text/event-stream", fmt.Sprint("User-Agent: ", i))
			resp, err := g.client.Do(req)
			if err != nil {
				t.Error(err)
			}
			answers <- resp
		}()
	}
	eventually(t, "all wait for the one stream", func() bool { return subscribers() == cap(answers) })
	close(release)
	ups := map[string]*upstreamClient{}
	for range cap(answers) + 1 {
		up := u.accept()
		ups[up.request.UserAgent()] = up
	}
	ups[key.UserAgent].expectGone()
	delete(ups, key.UserAgent)
	for agent, up := range ups {
		up.event(agent)
	}
	for range cap(answers) {
		if resp := <-answers; resp != nil {
			c := newTestClient(t, resp)
			c.expect(resp.Request.UserAgent())
			c.close()
		}
	}
}

// subscribers counts those of all streams that may be joined.
func subscribers() int { return stream.Process.Joinable() }

// TestSetCookieOfEachClient: on a path whose answers set cookies, each client
// gets its own, on time.
func TestSetCookieOfEachClient(t *testing.T) {
	cookies := make(chan string, 1)
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Set-Cookie", "sid="+<-cookies)
	})
	g := startGateway(t, proxied("", u))
	for _, want := range numbers(1, 3) {
		cookies <- want
		c := g.subscribe("/")
		u.accept()
		if got := c.resp.Header.Values("Set-Cookie"); !slices.Equal(got, []string{"sid=" + want}) {
			t.Errorf("client %s was given %q", want, got)
		}
		defer c.close()
	}
}

func TestSharePublicGivesNoCookies(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Add("Set-Cookie", "sid=1")
		w.Header().Add("Set-Cookie", "theme=dark")
		w.Header().Set("X-Other", "kept")
	})
	g := startGateway(t, proxied("share public", u))
	for range 2 {
		c := g.subscribe("/")
		if got := c.resp.Header.Values("Set-Cookie"); got != nil {
			t.Errorf("a subscriber was given %q", got)
		}
		if got := c.resp.Header.Get("X-Other"); got != "kept" {
			t.Errorf("X-Other: %q", got)
		}
		defer c.close()
	}
	if _, all := u.counts(); all != 1 {
		t.Errorf("%d upstream connections", all)
	}
}

// TestSetCookieOfAReconnect: the cookie of a later connection is nobody's.
func TestSetCookieOfAReconnect(t *testing.T) {
	connections := make(chan bool, 2)
	connections <- false
	connections <- true
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if <-connections {
			w.Header().Set("Set-Cookie", "sid=1")
		}
	})
	g := startGateway(t, proxied("join live", u))
	a := g.subscribe("/")
	up := u.accept()
	up.write("retry: 1\nid: 1\ndata: 1\n\n")
	a.expect("1")
	up.breakOff()
	up = u.accept()
	up.write("id: 2\ndata: 2\n\n")
	a.expect("2")
	connections <- false
	b := g.subscribe("/")
	if got := b.resp.Header.Values("Set-Cookie"); got != nil {
		t.Errorf("a newcomer was given %q", got)
	}
	b.close()
	a.close()
}

func TestMcpSessionIsPrivate(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("share public", u))
	session := []string{"Mcp-Session-Id: 1"}
	sharing{path: "/", a: session, b: session}.check(t, g, u)
	without := []string{"Mcp-Protocol-Version: 2025-06-18"} // a session
	sharing{path: "/without", a: without, b: without}.check(t, g, u)
	for _, id := range []string{"abc", "sse1.00000000000000000000000000000000.1"} {
		c := g.subscribe("/?lastEventId=q", "Mcp-Session-Id: 1", "Last-Event-ID: "+id)
		up := u.accept()
		if got := sent(up, "Last-Event-ID", "Mcp-Session-Id"); got != "Last-Event-ID: "+id+"\nMcp-Session-Id: 1" {
			t.Errorf("sent upstream:\n%s", got)
		}
		if got := up.request.RequestURI; got != "/?lastEventId=q" {
			t.Errorf("sent upstream: %s", got)
		}
		up.write("data: 1\n\n")
		if m := c.next(); m.LastEventID != "" {
			t.Errorf("an event of a private stream was given the ID %q", m.LastEventID)
		}
		c.close()
		up.expectGone()
	}
}

func TestEndpointEventIsPrivate(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	a := g.subscribe("/sse")
	up := u.accept()
	b := g.subscribe("/sse")
	c := g.subscribe("/sse")
	if _, all := u.counts(); all != 1 {
		t.Fatalf("%d upstream connections before the first event", all)
	}
	up.write(": welcome\n\nevent: endpoint\ndata: /messages?session=a\n\n")
	upB, upC := u.accept(), u.accept()
	upB.write("event: endpoint\ndata: /messages?session=b\n\n")
	upC.write("event: endpoint\ndata: /messages?session=c\n\n")
	if m := a.expect("/messages?session=a"); m.Type != "endpoint" {
		t.Errorf("event %+v", m)
	}
	sessions := []string{b.next().Data, c.next().Data}
	slices.Sort(sessions)
	if !slices.Equal(sessions, []string{"/messages?session=b", "/messages?session=c"}) {
		t.Errorf("sessions %q", sessions)
	}

	d := g.subscribe("/sse")
	upD := u.accept()
	upD.write("event: endpoint\ndata: /messages?session=d\n\n")
	d.expect("/messages?session=d")
	if _, all := u.counts(); all != 4 {
		t.Errorf("%d upstream connections for 4 clients", all)
	}

	a.close()
	up.expectGone() // at once, without linger: closing is cancelling
	upD.event("only d")
	d.expect("only d")
	upD.end()
	d.expectEnd()
	upB.end()
	upC.end()
	b.expectEnd()
	c.expectEnd()
}

// TestEndpointEventComesFirst: there are clients of the old MCP transport that
// take every block for an event, and endpoint has to be the first.
func TestEndpointEventComesFirst(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("retry 1s", u))
	resp := g.get("/sse")
	defer resp.Body.Close()
	up := u.accept()
	const endpoint = "event: endpoint\ndata: /messages?session=a\n\n"
	up.write(endpoint)
	got := make([]byte, len(endpoint))
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != endpoint {
		t.Errorf("%q, %v", got, err)
	}
}

// TestEndpointEventLater: only the first event of a stream is the old MCP
// transport's.
func TestEndpointEventLater(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	a, b := g.subscribe("/"), g.subscribe("/")
	up := u.accept()
	up.write("data: 1\n\nevent: endpoint\ndata: 2\n\n")
	a.expect("1", "2")
	b.expect("1", "2")
	a.close()
	b.close()
	if _, all := u.counts(); all != 1 {
		t.Errorf("%d upstream connections", all)
	}
}

// TestForeignHost: who reaches one site and names another one's host does not
// get to that one's stream.
func TestForeignHost(t *testing.T) {
	internal, public := startUpstream(t, nil), startUpstream(t, nil)
	g := startGateway(t, `
		http://internal.test {
			bind {socket}
			sse {
				share public
			}
			reverse_proxy `+internal.address+`
		}
		http:// {
			bind {socket}2
			sse {
				share public
			}
			reverse_proxy `+public.address+`
		}`)
	inside := g.subscribe("/events", "Host: internal.test")
	upInternal := internal.accept()
	outside := *g
	outside.client = gatewayClient(g.socket + "2")
	stranger := outside.subscribe("/events", "Host: internal.test")
	upPublic := public.accept()
	expectApart(inside, upInternal, stranger, upPublic)
	outside.client.CloseIdleConnections()
}

// TestForeignHostAfterReload: nor does a reload that exchanges the listeners
// help.
func TestForeignHostAfterReload(t *testing.T) {
	internal, public := startUpstream(t, nil), startUpstream(t, nil)
	config := func(inside, outside string) string {
		return "http://internal.test {\nbind " + inside + "\nsse\nreverse_proxy " + internal.address + "\n}\n" +
			"http:// {\nbind " + outside + "\nsse\nreverse_proxy " + public.address + "\n}\n"
	}
	g := startGateway(t, config("{socket}", "{socket}2"))
	inside := g.subscribe("/events", "Host: internal.test")
	upInternal := internal.accept()
	g.load(config("{socket}3", "{socket}2"))
	for _, socket := range []string{"2", "3"} {
		other := *g
		other.client = gatewayClient(g.socket + socket)
		c := other.subscribe("/events", "Host: internal.test")
		u := public
		if socket == "3" {
			u = internal // the listener is another: so is the place
		}
		up := u.accept()
		up.event("own")
		c.expect("own")
		up.end()
		c.expectEnd()
		other.client.CloseIdleConnections()
	}
	inside.expectEnd() // the place is gone
	upInternal.expectGone()
}

// TestRefusedClientsDoNotJoin: what stands before sse keeps clients out, also
// of a stream that runs.
func TestRefusedClientsDoNotJoin(t *testing.T) {
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Referer") == "blocked" {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer auth.Close()
	u := startUpstream(t, nil)
	for _, test := range []struct {
		name, directives string
		admitted         []string
		refused          []string
		status           int
	}{
		{
			"client address", "@blocked client_ip 192.0.2.0/24\nrespond @blocked 403",
			[]string{"X-Forwarded-For: 198.51.100.1"},
			[]string{"X-Forwarded-For: 192.0.2.1"}, http.StatusForbidden,
		},
		{
			"header that is not in the key", "@blocked header User-Agent evil*\nrespond @blocked 403",
			[]string{"User-Agent: good"},
			[]string{"User-Agent: evil/1"}, http.StatusForbidden,
		},
		{
			"error", "@blocked header User-Agent evil*\nerror @blocked 410",
			[]string{"User-Agent: good"},
			[]string{"User-Agent: evil/1"}, http.StatusGone,
		},
		{
			"basic_auth", basicAuth,
			[]string{credentials("a")},
			[]string{"Authorization: Basic YTp3cm9uZw=="}, http.StatusUnauthorized,
		},
		{
			"forward_auth", "forward_auth " + auth.Listener.Addr().String() + " {\nuri /\n}",
			nil, []string{"Referer: blocked"}, http.StatusForbidden,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := startGatewayWith(t, "servers {\ntrusted_proxies static private_ranges\ntrusted_proxies_unix\n}",
				site(test.directives+"\nsse {\nshare public\njoin live\n}\nreverse_proxy "+u.address))
			stay := g.subscribe("/", test.admitted...)
			up := u.accept()
			up.event("before")
			stay.expect("before")
			for _, id := range []string{"", "sse1.00000000000000000000000000000000.1"} {
				resp := g.get("/", append(test.refused, "Last-Event-ID: "+id)...)
				if text := body(t, resp); resp.StatusCode != test.status || strings.Contains(text, "before") {
					t.Errorf("%s %q, expected %d", resp.Status, text, test.status)
				}
			}
			sub := g.subscribe("/", test.admitted...)
			up.event("after")
			stay.expect("after")
			sub.expect("after")
			up.end()
			stay.expectEnd()
			sub.expectEnd()
		})
	}
}

// twoHandlers is a site in which two sse handlers get requests with the same
// key, because User-Agent is not in it.
func twoHandlers(one, two string, u1, u2 *upstream) string {
	return site(`
		@one header User-Agent one
		handle @one {
			sse {
				` + one + `
				join live
			}
			reverse_proxy ` + u1.address + `
		}
		handle {
			sse {
				` + two + `
				join live
			}
			reverse_proxy ` + u2.address + `
		}`)
}

func TestTwoHandlersDoNotShare(t *testing.T) {
	for _, names := range [][2]string{{"", ""}, {"name a", "name b"}, {"name a", "name a"}} {
		t.Run(strings.Join(names[:], ","), func(t *testing.T) {
			u1, u2 := startUpstream(t, nil), startUpstream(t, nil)
			g := startGateway(t, twoHandlers(names[0], names[1], u1, u2))
			a := g.subscribe("/", "User-Agent: one")
			up1 := u1.accept()
			b := g.subscribe("/", "User-Agent: two")
			up2 := u2.accept()
			expectApart(a, up1, b, up2)
		})
	}
}

// expectApart checks that two clients are each given what their own upstream
// connection sends, and no more.
func expectApart(a *testClient, upA *upstreamClient, b *testClient, upB *upstreamClient) {
	a.t.Helper()
	upA.event("for a")
	upB.event("for b")
	a.expect("for a")
	b.expect("for b")
	upA.end()
	upB.end()
	a.expectEnd()
	b.expectEnd()
}

func TestReloadAdoptsStreams(t *testing.T) {
	for _, test := range []struct {
		name          string
		before, after [2]string
		adopted       bool // newcomers join it
		moved         bool // those who have it keep it
	}{
		{"the same names", [2]string{"name a", "name b"}, [2]string{"name a", "name b"}, true, true},
		{"one has a name", [2]string{"", "name b"}, [2]string{"", "name b"}, true, true},
		{"two qualify after", [2]string{"name a", "name b"}, [2]string{"name a", "name a"}, false, true},
		{"two qualified before", [2]string{"name a", "name a"}, [2]string{"name a", "name b"}, false, true},
		{"another name", [2]string{"name a", "name b"}, [2]string{"name c", "name b"}, false, false},
		{"no names", [2]string{"", ""}, [2]string{"", ""}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			u1, u2 := startUpstream(t, nil), startUpstream(t, nil)
			g := startGateway(t, twoHandlers(test.before[0], test.before[1], u1, u2))
			a := g.subscribe("/", "User-Agent: one")
			up := u1.accept()
			up.numbered("1")
			last := a.expect("1")
			g.load(twoHandlers(test.after[0], test.after[1], u1, u2))
			if !test.moved {
				a.expectEnd()
				b := g.subscribe("/", "User-Agent: one", "Last-Event-ID: "+last.LastEventID)
				if got := b.outcome(); got != "spliced" {
					t.Errorf("SSE-Resume: %s, expected spliced", got)
				}
				b.close()
				return
			}
			next := u1.accept()
			b := g.subscribe("/", "User-Agent: one", "Last-Event-ID: "+last.LastEventID)
			want := "replayed; events=0"
			if !test.adopted {
				want = "spliced"
			}
			if got := b.outcome(); got != want {
				t.Errorf("SSE-Resume: %s, expected %s", got, want)
			}
			up.last("2")
			next.numbered("2")
			a.expect("2")
			up.expectGone()
			next.numbered("3")
			a.expect("3")
			if test.adopted {
				b.expect("2", "3")
			} else {
				u1.accept().numbered("own")
				b.expect("own")
			}
			other := g.subscribe("/", "User-Agent: two", "Last-Event-ID: "+last.LastEventID)
			if got := other.outcome(); got != "spliced" {
				t.Errorf("SSE-Resume at the other handler: %s", got)
			}
			u2.accept()
			a.close()
			b.close()
			other.close()
		})
	}
}

func probed(options string, u *upstream) string {
	return site("sse {\n" + options + "\n}\nreverse_proxy " + u.address)
}

// TestReloadKeepsTheOnlyHandler: without a name, as most sites are.
func TestReloadKeepsTheOnlyHandler(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, probed("join live", u))
	a := g.subscribe("/")
	up := u.accept()
	up.numbered("0")
	a.expect("0")
	for i := range 3 {
		g.load(probed(fmt.Sprintf("join live\nheartbeat %ds", 20+i), u))
		b := g.subscribe("/")
		n := strconv.Itoa(i + 1)
		up.last(n)
		next := u.accept()
		if id := next.request.Header.Get("Last-Event-ID"); id != strconv.Itoa(i) && id != n {
			t.Errorf("Last-Event-ID %q", id)
		}
		next.numbered(n)
		a.expect(n)
		b.expect(n)
		up.expectGone()
		up = next
		defer b.close()
	}
	a.close()
}

// TestLastEventIDOfAnotherStream: an ID is looked up only in the stream that
// the request's own key leads to (GHSA-84j6-jc92-77jm).
func TestLastEventIDOfAnotherStream(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	a := g.subscribe("/", "Cookie: sid=a")
	up := u.accept()
	up.event("secret of a", "another")
	first := a.expect("secret of a")
	a.expect("another")
	b := g.subscribe("/", "Cookie: sid=b", "Last-Event-ID: "+first.LastEventID)
	if got := b.outcome(); got != "gap" {
		t.Errorf("SSE-Resume: %s", got)
	}
	upB := u.accept()
	if got := sent(upB, "Last-Event-ID"); got != "" {
		t.Errorf("the gateway's ID was sent upstream: %s", got)
	}
	upB.event("of b")
	b.expect("of b")
	a.close()
	b.close()
}

// TestWhatWasMadeOfWithheldFieldsIsEmpty: what handlers before sse have made of a
// header field that is not in the key does not reach the upstream either.
func TestWhatWasMadeOfWithheldFieldsIsEmpty(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site(`
		@tok header_regexp tok Authorization "Bearer (.*)"
		header @tok X-Nothing 1
		vars tenant {http.request.header.X-Tenant}
		map {http.request.header.X-User} {who} {
			~(.*) "${1}"
		}
		sse {
			share public
			join live
		}
		reverse_proxy `+u.address+` {
			header_up A {re.tok.1}
			header_up B {vars.tenant}
			header_up C {who}
		}`))
	g.subscribe("/", "Authorization: Bearer alice", "X-Tenant: alice", "X-User: alice")
	r := u.accept().request
	for _, name := range []string{"A", "B", "C"} {
		if v := r.Header.Get(name); v != "" {
			t.Errorf("%s: %s", name, v)
		}
	}
}

// A client of a path of whose answers not all have a Vary is answered.
func TestVaryThatNotAllAnswersHave(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if r.UserAgent() == "a" {
			w.Header().Set("Vary", "User-Agent")
		}
	})
	g := startGateway(t, proxied("", u))
	g.subscribe("/", "User-Agent: a")
	g.subscribe("/", "User-Agent: b")
	done := make(chan struct{})
	go func() {
		defer close(done)
		req := g.request("GET", "/", "User-Agent: c", "Accept: text/event-stream")
		resp, err := g.client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		buf := make([]byte, 1<<20)
		s := string(buf[:runtime.Stack(buf, true)])
		t.Errorf("no answer; serveSubscriber/join on %d stacks", strings.Count(s, "serveShared"))
		// let it go: end the streams
		stream.Process.Stop()
		<-done
	}
}

// What handlers before sse have put into the header of the opener's response is not
// given to others, also where the application has the same field.
func TestHeaderFieldsOfTheOpenerAreItsOwn(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("X-Info", "app")
	})
	g := startGateway(t, site("header X-Info {http.request.header.User-Agent}\nsse {\njoin live\n}\nreverse_proxy "+u.address))
	a := g.subscribe("/", "User-Agent: alice")
	b := g.subscribe("/", "User-Agent: bob")
	_ = a
	if v := b.resp.Header.Values("X-Info"); strings.Contains(fmt.Sprint(v), "alice") {
		t.Errorf("bob was given %q", v)
	}
}

// A field without a value is sent upstream, so it is in the key.
func TestEmptyHeaderFieldIsInKey(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	sharing{path: "/", a: []string{"X-Debug: "}}.check(t, g, u)
}

// An application that was down is shared again as soon as it answers: a failure
// that comes at once keeps nobody from it.
func TestFailureKeepsNobodyFromSharing(t *testing.T) {
	u := startUpstream(t, nil)
	var down atomic.Bool
	down.Store(true)
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		u.server.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(failing.Close)
	g := startGateway(t, proxied("", &upstream{address: failing.Listener.Addr().String()}))
	for range 3 {
		if resp := g.get("/"); resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("%s", resp.Status)
		}
	}
	down.Store(false)
	eventually(t, "a moment is over, not a minute", func() bool {
		_, inForce := stream.Process.Remembered()
		return inForce == 0
	})
	a, b := g.subscribe("/"), g.subscribe("/")
	conn := u.accept()
	conn.event("1")
	a.expect("1")
	b.expect("1")
	if _, all := u.counts(); all != 1 {
		t.Errorf("%d upstream connections", all)
	}
}

// Other nodes are told all that the operator says about keys, with the defaults in it.
func TestNodesAreToldWhatIsSaidAboutKeys(t *testing.T) {
	keys := func(h *Handler) string {
		t.Helper()
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		defer cancel()
		if err := h.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := h.Cleanup(); err != nil {
				t.Error(err)
			}
		}()
		return h.options.Keys
	}
	byDefault := keys(new(Handler))
	if got := keys(&Handler{LastEventIDQuery: defaultLastEventIDQuery}); got != byDefault {
		t.Errorf("%s, where the default is stated, and %s where it is not", got, byDefault)
	}
	if got := keys(&Handler{SetCookie: setCookieStrip}); got == byDefault || byDefault == "" {
		t.Errorf("%q, and %q with set_cookie strip", byDefault, got)
	}
}
