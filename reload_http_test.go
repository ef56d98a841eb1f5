package caddysse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// What a client's request is let in by may be in its query and not in the key.
func TestReloadKeepsQuery(t *testing.T) {
	u1, u2 := startUpstream(t, nil), startUpstream(t, nil)
	config := func(u *upstream) string {
		return site("@no not query token=1\nrespond @no 403\n" +
			"sse {\nkey {http.request.uri.path}\n}\nreverse_proxy " + u.address)
	}
	g := startGateway(t, config(u1))
	a := g.subscribe("/?token=1&lastEventId=0")
	up := u1.accept()
	up.numbered("1")
	a.expect("1")
	g.load(config(u2))
	next := u2.accept()
	if query := next.request.URL.RawQuery; query != "lastEventId=1" {
		t.Errorf("sent upstream: %q", query)
	}
	next.numbered("2")
	up.numbered("2")
	a.expect("2")
	up.expectGone()
}

// The requests that a reload runs again are nobody's: they are not in the access log,
// whether the new configuration lets them through or not.
func TestReloadLeavesNoAccessLog(t *testing.T) {
	u := startUpstream(t, nil)
	dir := t.TempDir()
	config := func(before string) string {
		return site("log {\noutput file " + filepath.Join(dir, "log") + "\n}\n" + before + "\nsse {\ndrain 50ms\n}\nreverse_proxy " + u.address)
	}
	g := startGateway(t, config(""))
	a := g.subscribe("/")
	u.accept().numbered("1")
	a.expect("1")
	for _, before := range []string{
		"header X-Configuration 2",
		"error 401",
		"respond 403",
	} {
		g.load(config(before))
		if before[0] == 'h' {
			next := u.accept()
			next.numbered("2")
			a.expect("2")
		}
	}
	a.expectEnd()
	assertHubEmpty(t)
	log := filepath.Join(dir, "log")
	var text []byte
	eventually(t, "the client's own entry is there", func() bool {
		text, _ = os.ReadFile(log) //nolint:gosec // G304: the test's own
		return bytes.Contains(text, []byte("\n"))
	})
	if n := bytes.Count(text, []byte("\n")); n != 1 || !bytes.Contains(text, []byte(`"status":200`)) {
		t.Errorf("%d entries: %s", n, text)
	}
}

// A configuration that is still being loaded is not asked for its handlers.
func TestReloadWhileLoading(t *testing.T) {
	u1, u2, u3 := startUpstream(t, nil), startUpstream(t, nil), startUpstream(t, nil)
	g := startGateway(t, probed("", u1))
	const streams = 100
	var clients []*testClient
	var ups []*upstreamClient
	for i := range streams {
		clients = append(clients, g.subscribe(fmt.Sprintf("/?%d", i)))
		up := u1.accept()
		up.numbered("1")
		ups = append(ups, up)
	}
	for _, c := range clients {
		c.expect("1")
	}
	loading, load := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(load) })
	defer goOn()
	slow.Store(&slowness{loading: loading, load: load})
	defer slow.Store(nil)
	g.load(probed("", u2))
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.load(site("sse\ntest_slow\nreverse_proxy " + u3.address))
	}()
	<-loading
	for range streams {
		u2.accept().numbered("2")
	}
	for i, c := range clients {
		c.expect("2")
		ups[i].expectGone()
	}
	goOn()
	<-done
	for _, c := range clients {
		c.close()
	}
}

// slow says how long a handler of the directive test_slow is provisioned.
var slow atomic.Pointer[slowness]

type slowness struct{ loading, load chan struct{} }

type slowHandler struct{}

func init() {
	caddy.RegisterModule(slowHandler{})
	httpcaddyfile.RegisterHandlerDirective("test_slow", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return slowHandler{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_slow", httpcaddyfile.After, "reverse_proxy")
}

func (slowHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_slow", New: func() caddy.Module { return new(slowHandler) }}
}

func (slowHandler) Provision(caddy.Context) error {
	if s := slow.Load(); s != nil {
		close(s.loading)
		<-s.load
	}
	return nil
}

func (slowHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

// Early hints of a forward_auth are no answer.
func TestRenewalInformational(t *testing.T) {
	cancelled := false
	w := &discardWriter{header: make(http.Header), cancel: func() { cancelled = true }}
	w.WriteHeader(http.StatusEarlyHints)
	if cancelled {
		t.Error("the renewal was given up")
	}
	w.WriteHeader(http.StatusForbidden)
	if !cancelled {
		t.Error("the renewal was not given up")
	}
}

// askOverReload asks until it is answered: the server before a reload may still
// take a connection, and closes those without a request.
func (g *gateway) askOverReload(method, target string, fields ...string) *http.Response {
	g.t.Helper()
	for {
		resp, err := g.client.Do(g.request(method, target, fields...))
		if err == nil {
			return resp
		}
		if !errors.Is(err, io.EOF) {
			g.t.Fatal(err)
		}
	}
}

// reloadInto reloads, sends the event id over the old and the new upstream
// connection, and returns the new one when the stream has moved to it.
func (g *gateway) reloadInto(caddyfile string, u *upstream, old *upstreamClient, client *testClient, id string) *upstreamClient {
	g.t.Helper()
	g.load(caddyfile)
	next := u.accept()
	old.last(id)
	next.numbered(id)
	client.expect(id)
	old.expectGone()
	return next
}

// Nothing keeps a configuration that no client came through, though its streams
// live on.
func TestReloadReleasesConfigurations(t *testing.T) {
	u := startUpstream(t, nil)
	config := func(n int) string {
		return proxied("heartbeat "+strconv.Itoa(10+n)+"s\nids auto", u)
	}
	g := startGateway(t, config(0))
	a := g.subscribe("/")
	up := u.accept()
	up.numbered("0")
	a.expect("0")
	var kept []weak.Pointer[stream.Instance]
	for i := range 5 {
		up = g.reloadInto(config(i+1), u, up, a, strconv.Itoa(i+1))
		kept = append(kept, weak.Make(stream.Process.NewestInstance()))
	}
	eventually(t, "old configurations are released", func() bool {
		runtime.GC()
		n := 0
		for _, p := range kept[:len(kept)-1] {
			if p.Value() != nil {
				n++
			}
		}
		return n == 0
	})
	if kept[len(kept)-1].Value() == nil {
		t.Error("the newest is gone too")
	}
	a.close()
}

// TestReloadIsNoRequestToCaddy: the request that is run again to find the handlers of a
// new configuration is not among those that Caddy's own metrics count.
func TestReloadIsNoRequestToCaddy(t *testing.T) {
	globals := testGlobals
	testGlobals = strings.Replace(testGlobals, "admin off", "admin off\nmetrics", 1)
	defer func() { testGlobals = globals }()
	u1, u2 := startUpstream(t, nil), startUpstream(t, nil)
	config := func(before string, u *upstream) string { return site(before + "\nsse\nreverse_proxy " + u.address) }
	g := startGateway(t, config("respond /ping 200", u1))
	_ = g.get("/ping").Body.Close()
	eventually(t, "Caddy has counted a request that has ended", func() bool { return countedByCaddy(t) == 1 })
	c := g.subscribe("/")
	u1.accept().numbered("1")
	c.expect("1")
	g.load(config("", u2))
	u2.accept().numbered("2")
	c.expect("2")
	g.load(config("respond 403", u2)) // an error of that, too, is none of a client
	c.expectOver()
	if n := countedByCaddy(t); n != 0 {
		t.Errorf("Caddy has counted %v requests of none", n)
	}
}
