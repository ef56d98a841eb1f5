package key

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// keyRequest is a request as it reaches sse.
func keyRequest(method, host string, u *url.URL, header http.Header) *http.Request {
	orig, target := *u, u.RequestURI()
	r := &http.Request{Method: method, Host: host, URL: u, RequestURI: target, Header: header, ContentLength: 0}
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, http.Request{Method: method, URL: &orig, RequestURI: target})
	return r.WithContext(ctx)
}

func TestKeyParts(t *testing.T) {
	p := New(Config{})
	h := stream.NewHub()
	key := func(place string, change func(r *http.Request)) stream.Key {
		r := keyRequest(http.MethodGet, "a.test", &url.URL{Path: "/x", RawQuery: "y=1"}, http.Header{"Cookie": {"a=1"}})
		change(r)
		return h.Key(p.Parts(r, place))
	}
	seen := map[stream.Key]string{}
	for name, change := range map[string]func(r *http.Request){
		"nothing":     func(*http.Request) {},
		"method":      func(r *http.Request) { r.Method = http.MethodPost },
		"host":        func(r *http.Request) { r.Host = "b.test" },
		"port":        func(r *http.Request) { r.Host = "a.test:81" },
		"path":        func(r *http.Request) { r.URL.Path = "/z" },
		"query":       func(r *http.Request) { r.URL.RawQuery = "y=2" },
		"scheme":      func(r *http.Request) { r.TLS = new(tls.ConnectionState) },
		"server name": func(r *http.Request) { r.TLS = &tls.ConnectionState{ServerName: "a.test"} },
		"certificate": func(r *http.Request) {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte("a")}}}
		},
		"certificate2": func(r *http.Request) {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte("b")}}}
		},
		"user":         func(r *http.Request) { replacer(r).Set("http.auth.user.id", "a") },
		"user2":        func(r *http.Request) { replacer(r).Set("http.auth.user.id", "b") },
		"header":       func(r *http.Request) { r.Header.Set("X-A", "1") },
		"header value": func(r *http.Request) { r.Header.Set("X-A", "1header X-B1") },
		"no header":    func(r *http.Request) { r.Header.Del("Cookie") },
		"original":     func(r *http.Request) { original(r).Path = "/o" },
		"original query": func(r *http.Request) {
			original(r).RawQuery = "o=1"
		},
	} {
		k := key("place", change)
		if other, ok := seen[k]; ok {
			t.Errorf("%s and %s have the same key", name, other)
		}
		seen[k] = name
		if key("place", change) != k {
			t.Errorf("%s: not the same key twice", name)
		}
		if key("other place", change) == k {
			t.Errorf("%s: the place is not in the key", name)
		}
	}
	r := keyRequest(http.MethodGet, "a.test", &url.URL{Path: "/x"}, nil)
	if h.Key(p.Parts(r, "")) == stream.NewHub().Key(p.Parts(r, "")) {
		t.Error("the hash of two processes is the same: it is not keyed")
	}
}

func replacer(r *http.Request) *caddy.Replacer {
	return r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
}

func original(r *http.Request) *url.URL {
	return r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request).URL
}

// sentUpstream returns the key of a request with a header field, and what would be sent
// upstream of it that counts.
func sentUpstream(h *stream.Hub, p *Policy, host string, target *url.URL, name string, values ...string) (stream.Key, string) {
	header := http.Header{}
	for _, value := range values {
		if value != "" {
			header.Add(name, value)
		}
	}
	u := *target
	r := keyRequest(http.MethodGet, host, &u, header)
	key := h.Key(p.Parts(r, ""))
	p.clean(r)
	for name := range r.Header {
		if Insignificant(name) {
			r.Header.Del(name)
		}
	}
	return key, fmt.Sprintf("%q %q %q", strings.ToLower(r.Host), r.RequestURI, r.Header)
}

// FuzzTemplates checks the principle for keys that the operator writes: whatever the
// template, requests that differ in what is sent upstream have different keys.
func FuzzTemplates(f *testing.F) {
	f.Add("{http.request.header.X-A}", "/x?a=1", "1", "", "/x?a=2", "2", "")
	f.Add("{http.request.header.X-A}{http.request.cookie.c}", "/x", "1", "2", "/x", "12", "")
	f.Add("{http.request.uri}", "/x?a=1&a=2", "", "", "/x?a=1", "", "")
	f.Add("{http.request.uri.query.a:b}", "/x?a=b", "", "", "/x", "", "")
	f.Add(`\{http.request.header.X-A} {x{http.request.header.X-A}}`, "/x", "}", "{", "/x", "}{", "")
	f.Add("{http.request.cookie.c}", "/x", "a", "c=1", "/x", "a", "c=1; d=2")
	h := stream.NewHub()
	f.Fuzz(func(t *testing.T, template, target1, field1, cookie1, target2, field2, cookie2 string) {
		if template == "" || len(template) > 1<<10 {
			return
		}
		u1, err1 := url.ParseRequestURI(target1)
		u2, err2 := url.ParseRequestURI(target2)
		if err1 != nil || err2 != nil {
			return
		}
		p := New(Config{Template: template})
		for name, values := range map[string][2]string{"X-A": {field1, field2}, "Cookie": {cookie1, cookie2}} {
			k1, sent1 := sentUpstream(h, p, "a.test", u1, name, values[0])
			k2, sent2 := sentUpstream(h, p, "a.test", u2, name, values[1])
			if k1 == k2 && sent1 != sent2 {
				t.Errorf("key %q: the same, but sent upstream are\n%s\n%s", template, sent1, sent2)
			}
		}
	})
}

// FuzzAnswers checks that an answer which may be for one client only is private, whatever
// else its fields say.
func FuzzAnswers(f *testing.F) {
	f.Add("Vary", "accept, *", "Set-Cookie", "a=1")
	f.Add("Vary", "Cookie ,Origin", "Cache-Control", `max-age=1, no-cache="a,b", PRIVATE`)
	f.Add("Access-Control-Allow-Origin", "https://a.test", "Cache-Control", `private="a"`)
	f.Add("Set-Cookie", "", "Cache-Control", ",,=,")
	p := New(Config{})
	r := keyRequest(http.MethodGet, "a.test", &url.URL{Path: "/x"}, http.Header{})
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string) {
		answer := http.Header{}
		answer.Add(name1, value1)
		answer.Add(name2, value2)
		shared := p.WhyPrivate(answer, r).Reason == ""
		says := func(field, token string) bool {
			return slices.ContainsFunc(strings.Split(strings.Join(answer[field], ","), ","), func(element string) bool {
				return strings.EqualFold(strings.TrimSpace(element), token)
			})
		}
		switch {
		case !shared:
		case len(answer["Set-Cookie"]) > 0:
			t.Error("an answer that sets a cookie is shared")
		case says("Vary", "*"), says("Vary", "Accept-Charset") && p.Varies(http.Header{"Vary": {"Accept-Charset"}}):
			t.Error("an answer that varies is shared")
		case says("Cache-Control", "private"):
			t.Error("an answer that says it is private is shared")
		}
	})
}

// FuzzKeyOfRequests checks the principle: requests with the same key are the
// same to the upstream, but for the fields that do not count.
func FuzzKeyOfRequests(f *testing.F) {
	f.Add("a.test", "/x?a=1", "X-A", "1", "2", "a.test", "/x?a=1", "X-A", "1, 2", "", uint8(0))
	f.Add("a.test", "/x", "X-A", "1", "2", "A.TEST", "/x?lastEventId=7", "x-a", "1", "2", uint8(0))
	f.Add("a.test", "/x", "Cookie", "a=1; b=2", "c=3", "a.test", "/x", "Cookie", "a=1", "b=2; c=3", uint8(2))
	f.Add("a.test", "/x?a=1&_=2", "Cookie", "sid=1", "", "a.test", "/x?_=3&a=1", "User-Agent", "u", "", uint8(1))
	f.Add("a.test", "/x?a=%26", "X-A", "1", "", "a.test", "/x?a=&", "X-A", "1", "", uint8(3))
	policies := []*Policy{
		New(Config{IDParameters: idParameters}),
		New(Config{Public: true, IgnoreQuery: []string{"_"}, IgnoreHeaders: []string{"Origin"}}),
		New(Config{Cookies: []string{"a", "sid"}}),
		New(Config{Template: "{http.request.uri.query.a}{http.request.header.X-A}"}),
	}
	h := stream.NewHub()
	f.Fuzz(func(t *testing.T, host1, target1, name1, v1, w1, host2, target2, name2, v2, w2 string, which uint8) {
		p := policies[int(which)%len(policies)]
		u1, err1 := url.ParseRequestURI(target1)
		u2, err2 := url.ParseRequestURI(target2)
		if err1 != nil || err2 != nil {
			return
		}
		k1, sent1 := sentUpstream(h, p, host1, u1, name1, v1, w1)
		k2, sent2 := sentUpstream(h, p, host2, u2, name2, v2, w2)
		if k1 == k2 && sent1 != sent2 {
			t.Errorf("the same key, but sent upstream are\n%s\n%s", sent1, sent2)
		}
		if k1 != k2 && sent1 == sent2 && target1 == target2 {
			t.Errorf("different keys, but sent upstream is\n%s", sent1)
		}
	})
}

// Nodes compare all that the operator says about keys.
func TestConfigsThatDifferReadDifferently(t *testing.T) {
	seen := map[string]string{Config{}.String(): "none"}
	for i := range reflect.TypeFor[Config]().NumField() {
		var c Config
		name := reflect.TypeFor[Config]().Field(i).Name
		switch f := reflect.ValueOf(&c).Elem().Field(i); f.Kind() {
		case reflect.Bool:
			f.SetBool(true)
		case reflect.String:
			f.SetString("a")
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"a"}))
		default:
			t.Fatalf("what is %s?", name)
		}
		if other, ok := seen[c.String()]; ok {
			t.Errorf("%s reads as %s", name, other)
		}
		seen[c.String()] = name
	}
	if (Config{Add: []string{"a", "b"}}).String() == (Config{Add: []string{"a b"}}).String() {
		t.Error("two templates read as one")
	}
}
