package caddysse

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// panicsNow is a handler, before sse or behind it, that panics while panicking says so.
type panicsNow struct{}

var panicking atomic.Bool

func init() {
	caddy.RegisterModule(panicsNow{})
	httpcaddyfile.RegisterHandlerDirective("test_panics_now", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return panicsNow{}, nil })
}

func (panicsNow) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_panics_now", New: func() caddy.Module { return new(panicsNow) }}
}

func (panicsNow) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if panicking.Load() {
		panic("a bug in a handler")
	}
	return next.ServeHTTP(w, r)
}

// A client's request is run again, by reauthorize, and a handler panics: no net/http is there to recover.
// The client stays, the log says so, with the stack, and it is asked about again.
func TestPanicsInRequestsThatAreRunAgainLetNobodyGo(t *testing.T) {
	for kind, options := range guestKinds {
		for name, directives := range map[string]string{
			"before sse": "test_panics_now\nsse {\nreauthorize 1s\n{options}\n}",
			"behind sse": "sse {\nreauthorize 1s upstream\n{options}\n}\ntest_panics_now",
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Cleanup(func() { panicking.Store(false) })
				u := startUpstream(t, nil)
				caddyfile := site("route {\n" + strings.Replace(directives, "{options}", "name a\njoin live\nlinger 0s\n"+options, 1) + "\nreverse_proxy " + u.address + "\n}")
				g := startLogged(t, caddyfile)
				c := g.subscribe("/")
				up := u.accept()
				up.event("1")
				c.expect("1")
				panicking.Store(true)
				g.expectLine("client stays: it was not found out whether its request is refused now", "a bug in a handler")
				g.expectLine("panic in a handler", "ServeHTTP") // the stack
				panicking.Store(false)
				before := gather(t)["reauthorizations_total result=passed"]
				eventually(t, "it is asked about again, and let in", func() bool { return gather(t)["reauthorizations_total result=passed"] > before })
				select {
				case m, ok := <-c.messages:
					t.Errorf("it is given %v, %v", m, ok)
				default:
				}
				c.close()
				assertNothingLeft(t, u)
			})
		}
	}
}

// The same after a reload: the stream's own request, and each client's.
func TestPanicsAfterAReloadAreContained(t *testing.T) {
	t.Cleanup(func() { panicking.Store(false) })
	u := startUpstream(t, nil)
	caddyfile := site("route {\ntest_panics_now\nsse {\njoin live\nlinger 0s\n}\nreverse_proxy " + u.address + "\n}")
	g := startLogged(t, site("route {\nsse {\njoin live\nlinger 0s\n}\nreverse_proxy "+u.address+"\n}"))
	c := g.subscribe("/")
	u.accept().event("1")
	c.expect("1")
	panicking.Store(true)
	g.loadLogged(caddyfile)
	g.expectLine("request that was run again after a reload failed", "a bug in a handler")
	g.expectLine("panic in a handler", "ServeHTTP") // the stack
	c.expectOver()
	panicking.Store(false)
	again := g.subscribe("/")
	u.accept().event("1")
	again.expect("1")
	again.close()
	assertNothingLeft(t, u)
}
