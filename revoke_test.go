package caddysse

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/access"
	"github.com/caddy-sse/caddy-sse/internal/admin"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// revokeOverAPI asks the admin API to let clients go, and returns how many were, or the
// status of the refusal.
func revokeOverAPI(t testing.TB, body string) (n, status int) {
	t.Helper()
	for _, route := range admin.Routes() {
		if route.Pattern != "/sse/revoke" {
			continue
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/sse/revoke", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		if err, ok := errors.AsType[caddy.APIError](route.Handler.ServeHTTP(w, r)); ok {
			return 0, err.HTTPStatus
		}
		var answer admin.RevokeAnswer
		if err := json.NewDecoder(bytes.NewReader(w.Body.Bytes())).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return answer.Subscribers, w.Code
	}
	t.Fatal("no such route")
	return 0, 0
}

// Who has the value is let go, whatever the stream; others stay.
func TestRevokingOverTheAPI(t *testing.T) {
	sum := sha256.Sum256([]byte("bob"))
	for kind, options := range guestKinds {
		for _, body := range []string{`{"value": "bob"}`, `{"by": "{http.request.header.User}", "sha256": "` + hex.EncodeToString(sum[:]) + `", "window": "1ms"}`} {
			t.Run(kind+" "+body, func(t *testing.T) {
				u := startUpstream(t, nil)
				g := startGateway(t, proxied("revoke_by {http.request.header.User}\n"+options, u))
				alice := g.subscribe("/", "User: alice")
				up := u.accept()
				bob, anonymous := g.subscribe("/", "User: bob"), g.subscribe("/")
				if n, status := revokeOverAPI(t, `{"value": "carol"}`); n != 0 || status != http.StatusAccepted {
					t.Errorf("nobody: %d clients, status %d", n, status)
				}
				if n, status := revokeOverAPI(t, body); n != 1 || status != http.StatusAccepted {
					t.Errorf("%d clients, status %d", n, status)
				}
				bob.expectOver()
				up.numbered("1")
				alice.expect("1")
				if kind != "private" {
					anonymous.expect("1")
				}
				anonymous.expectOpen()
				alice.close()
				anonymous.close()
			})
		}
	}
}

func TestWrongRevocations(t *testing.T) {
	if _, status := revokeOverAPI(t, `{"value": "bob"}`); status != http.StatusBadRequest {
		t.Errorf("without a handler that has revoke_by: %d", status)
	}
	u := startUpstream(t, nil)
	startGateway(t, site("route /a {\nsse {\nrevoke_by {http.request.header.User}\n}\nreverse_proxy "+u.address+"\n}\nroute /b {\nsse {\nrevoke_by {http.request.cookie.session}\n}\nreverse_proxy "+u.address+"\n}"))
	for _, body := range []string{
		``, `{}`, `[]`, `{"value": "bob"}`, `{"by": "{http.request.header.Other}", "value": "bob"}`,
		`{"by": "{http.request.header.User}"}`, `{"by": "{http.request.header.User}", "value": "a", "sha256": "b"}`,
		`{"by": "{http.request.header.User}", "sha256": "00"}`, `{"by": "{http.request.header.User}", "sha256": "` + strings.Repeat("x", 64) + `"}`,
		`{"by": "{http.request.header.User}", "value": "bob", "window": "2h"}`, `{"by": "{http.request.header.User}", "value": "bob", "window": "-1s"}`,
		`{"by": "{http.request.header.User}", "value": "bob", "other": 1}`,
	} {
		if _, status := revokeOverAPI(t, body); status != http.StatusBadRequest {
			t.Errorf("%s: %d", body, status)
		}
	}
}

// logoutUpstream is an application that takes back access: a request for /logout says
// whose, in the field Said.
func logoutUpstream(t testing.TB) *upstream {
	t.Helper()
	return startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header()["SSE-Revoke"] = r.Header["Said"]
	})
}

// The application says in any of its answers whose access is over: those clients are let
// go, and what was kept for them goes with them.
func TestApplicationRevokes(t *testing.T) {
	sum := sha256.Sum256([]byte("bob"))
	for kind, options := range guestKinds {
		for _, said := range []string{"bob", "sha256=" + hex.EncodeToString(sum[:])} {
			t.Run(kind+" "+said, func(t *testing.T) {
				u := logoutUpstream(t)
				g := startGateway(t, proxied("revoke_by {cookie.session}\n"+options, u))
				alice, bob := g.subscribe("/", "Cookie: session=alice"), g.subscribe("/", "Cookie: session=bob")
				up := u.accept()
				req := g.request(http.MethodPost, "/logout", "Said: nobody", "Said: sha256=00", "Said: ", "Said: "+said)
				resp, err := g.client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if len(resp.Header["Sse-Revoke"]) > 0 {
					t.Errorf("the client is told %v", resp.Header)
				}
				_ = resp.Body.Close()
				bob.expectOver()
				up.numbered("1") // hers, if each has one
				alice.expect("1")
				alice.expectOpen()
				alice.close()
			})
		}
	}
}

// So many fields are looked at in one answer.
func TestSoManyRevocationsAreTakenOfAnAnswer(t *testing.T) {
	u := logoutUpstream(t)
	g := startGateway(t, proxied("revoke_by {cookie.session}", u))
	within, beyond := g.subscribe("/", "Cookie: session=within"), g.subscribe("/", "Cookie: session=beyond")
	u.accept()
	u.accept()
	fields := slices.Repeat([]string{"Said: nobody"}, maxRevokeFields-1)
	resp, err := g.client.Do(g.request(http.MethodPost, "/logout", append(fields, "Said: within", "Said: beyond")...))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	within.expectOver()
	beyond.expectOpen()
	beyond.close()
}

// A stream that was only for requests that are not to be let in ends, with what it keeps:
// the next request asks the application.
func TestRevokedStreamsAreNotKept(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("revoke_by {cookie.session}\nshare cookies session\nlinger 1h", u))
	bob := g.subscribe("/", "Cookie: session=bob")
	up := u.accept()
	up.numbered("1")
	bob.expect("1")
	bob.close()
	eventually(t, "the gateway knows that he has left", func() bool {
		all := stream.Process.Samples(time.Now())
		return len(all) == 1 && all[0].Subscribers == 0
	})
	alice := g.subscribe("/", "Cookie: session=alice")
	u.accept()
	if n, _ := revokeOverAPI(t, `{"value": "bob"}`); n != 0 {
		t.Errorf("%d clients are there", n)
	}
	up.expectGone()
	again := g.subscribe("/", "Cookie: session=bob", "Last-Event-ID: 1")
	if id := u.accept().request.Header.Get("Last-Event-ID"); id != "1" {
		t.Errorf("the application was asked with %q", id)
	}
	alice.expectOpen()
	alice.close()
	again.close()
}

// The same of an answer that runs on without its client.
func TestRevokedAnswersDoNotRunOn(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site("sse {\nrevoke_by {cookie.session}\ndetach 1h\n}\nreverse_proxy "+u.address))
	ask := func(method string, fields ...string) *http.Response {
		t.Helper()
		resp, err := g.client.Do(g.request(method, "/answer", append(fields, "Cookie: session=bob")...))
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	bob := newTestClient(t, ask(http.MethodPost))
	up := u.accept()
	up.event("1")
	id := bob.expect("1").LastEventID
	bob.close()
	up.event("2")
	revokeOverAPI(t, `{"value": "bob"}`)
	up.expectGone()
	resp := ask(http.MethodGet, "Last-Event-ID: "+id)
	if n := len(u.connections); n != 1 {
		t.Errorf("%d requests to the application, expected one", n)
	}
	_ = resp.Body.Close()
}

// A request that was on its way when access was taken back gets nothing.
func TestRevokedWhileOnItsWay(t *testing.T) {
	for kind, options := range map[string]string{"shared": "share public", "private": "share off", "detached": "share off\ndetach 1h"} {
		t.Run(kind, func(t *testing.T) {
			asked, goOn := make(chan struct{}), make(chan struct{})
			u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				close(asked)
				<-goOn
			})
			g := startGateway(t, proxied("revoke_by {http.request.header.User}\n"+options, u))
			done := make(chan *testClient)
			go func() {
				defer close(done)
				req := g.request(http.MethodGet, "/", "User: bob", "Accept: text/event-stream")
				if resp, err := g.client.Do(req); err == nil {
					t.Cleanup(func() { _ = resp.Body.Close() })
					done <- newTestClient(t, resp)
				}
			}()
			<-asked
			if n, _ := revokeOverAPI(t, `{"value": "bob"}`); n != 0 {
				t.Errorf("%d clients were there", n)
			}
			close(goOn)
			if bob := <-done; bob != nil {
				bob.expectOver()
			}
			u.accept().expectGone()
		})
	}
}

// testFlush is a handler before sse that calls beforeFlush when a response is to be
// flushed for the first time.
type testFlush struct{}

var beforeFlush func() // of the one gateway that there is

func init() {
	caddy.RegisterModule(testFlush{})
	httpcaddyfile.RegisterHandlerDirective("test_flush", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return testFlush{}, nil
	})
}

func (testFlush) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_flush", New: func() caddy.Module { return new(testFlush) }}
}

func (testFlush) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(&flushTeller{&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, sync.OnceFunc(beforeFlush)}, r)
}

type flushTeller struct {
	*caddyhttp.ResponseWriterWrapper
	tell func()
}

func (f *flushTeller) FlushError() error {
	f.tell()
	return http.NewResponseController(f.ResponseWriter).Flush()
}

// Whoever has a response head can be let go, and is counted.
func TestClientsAreKnownBeforeTheirHead(t *testing.T) {
	kinds := maps.Clone(guestKinds)
	kinds["detached"] = "share off\ndetach 1h"
	for kind, options := range kinds {
		t.Run(kind, func(t *testing.T) {
			found := make(chan int, 1)
			beforeFlush = func() {
				n, _ := revokeOverAPI(t, `{"value": "bob"}`)
				found <- n
			}
			u := startUpstream(t, nil)
			g := startGateway(t, site("route {\ntest_flush\nsse {\nrevoke_by {http.request.header.User}\n"+options+"\n}\nreverse_proxy "+u.address+"\n}"))
			g.subscribe("/", "User: bob").expectOver()
			if n := <-found; n != 1 {
				t.Errorf("%d clients were found", n)
			}
			u.accept().expectGone()
		})
	}
}

// Applications behind other handlers have users of the same names.
func TestApplicationsRevokeTheirOwnUsers(t *testing.T) {
	ua, ub := logoutUpstream(t), logoutUpstream(t)
	g := startGateway(t, strings.ReplaceAll(site("sse {\nshare public\nrevoke_by {http.request.header.User}\n}\nreverse_proxy "+ua.address), "http://", "http://a.test")+
		strings.ReplaceAll(site("sse {\nshare public\nrevoke_by {http.request.header.User}\n}\nreverse_proxy "+ub.address), "http://", "http://b.test"))
	a := g.subscribe("/", "User: bob", "Host: a.test")
	ua.accept()
	b := g.subscribe("/", "User: bob", "Host: b.test")
	up := ub.accept()
	resp, err := g.client.Do(g.request(http.MethodPost, "/logout", "Said: bob", "Host: a.test"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	a.expectOver()
	up.numbered("1")
	b.expect("1")
	b.close()
}

// Without the option the field is the application's own, and passes.
func TestRevokeFieldPassesWithoutTheOption(t *testing.T) {
	u := logoutUpstream(t)
	g := startGateway(t, proxied("", u))
	resp, err := g.client.Do(g.request(http.MethodPost, "/logout", "Said: bob"))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("SSE-Revoke") != "bob" {
		t.Errorf("%v", resp.Header)
	}
	_ = resp.Body.Close()
}

// Who is known by nothing cannot be revoked, not even by an empty value.
func TestNothingIsNoHolder(t *testing.T) {
	var zero access.Key
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("revoke_by {http.request.header.User}-{http.request.header.Tenant}", u))
	a := g.subscribe("/")
	u.accept()
	if n, _ := revokeOverAPI(t, `{"value": "-"}`); n != 0 {
		t.Errorf("%d were let go", n)
	}
	if n := access.Process.Revoke(zero, func(*access.Guest) bool { return true }, 0); n != 0 {
		t.Errorf("%d were let go", n)
	}
	a.expectOpen()
	a.close()
}
