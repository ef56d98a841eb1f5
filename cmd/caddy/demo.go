package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

//go:embed demo.html
var page []byte

// askTimeout bounds what the demo asks of the application and of Caddy's admin endpoint.
const askTimeout = 10 * time.Second

func init() {
	caddy.RegisterModule(new(demo))
	httpcaddyfile.RegisterHandlerDirective("sse_demo", parseDemo)
	httpcaddyfile.RegisterDirectiveOrder("sse_demo", httpcaddyfile.After, "respond")
}

// demo serves the page of the demo and carries out what its buttons say.
//
//	GET  /              the page: the same stream twice, direct and through the gateway
//	GET  /demo/status   how the application does, as JSON
//	POST /demo/restart  restarts the application
//	POST /demo/reload   loads Caddy's configuration again
//
// The buttons are for the person in front of this machine: see forbidden.
type demo struct {
	// Where the application listens.
	Address string `json:"address,omitempty"`

	// Run starts the application there, in a process of its own that ends with Caddy. Without it the application is
	// somebody else's to start, and to start again when it exits.
	Run bool `json:"run,omitempty"`

	logger *zap.Logger
	runs   *runs
}

// CaddyModule returns the Caddy module information.
func (*demo) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_demo",
		New: func() caddy.Module { return new(demo) },
	}
}

// Provision notes that the application has to run. It starts with the configuration, so that `caddy validate` starts
// none.
func (d *demo) Provision(ctx caddy.Context) error {
	d.logger = ctx.Logger()
	if !d.Run {
		return nil
	}
	app, err := ctx.App(runsID)
	if err != nil {
		return err
	}
	d.runs = app.(*runs)
	d.runs.address = d.Address

	// At exit Caddy waits for running requests before it stops its apps. The direct event stream would keep it waiting.
	if srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		srv.RegisterOnShutdown(func() {
			if caddy.Exiting() {
				d.runs.end()
			}
		})
	}
	return nil
}

// ServeHTTP answers the request; it never calls next.
func (d *demo) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /demo/status", d.serveStatus)
	mux.HandleFunc("POST /demo/restart", d.button(d.restart))
	mux.HandleFunc("POST /demo/reload", d.button(d.reload))
	mux.ServeHTTP(w, r)
	return nil
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	// A page elsewhere cannot show this one in a frame and have its buttons pressed.
	h.Set("Content-Security-Policy", "default-src 'self' 'unsafe-inline' data:; frame-ancestors 'none'")
	_, _ = w.Write(page) // fails when the client has gone
}

// serveStatus passes on what the application says of itself. That it says nothing is an answer, too.
func (d *demo) serveStatus(w http.ResponseWriter, r *http.Request) {
	status, err := ask(r.Context(), http.MethodGet, "http://"+d.Address+"/connections", nil)
	if err != nil {
		status = []byte("null")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(status) // fails when the client has gone
}

// button returns the handler of a button. It answers 204 when what the button does is done.
func (d *demo) button(press func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if reason, status := d.forbidden(r); status != 0 {
			http.Error(w, reason, status)
			return
		}
		if err := press(); err != nil {
			d.logger.Error("a button of the demo failed", zap.String("path", r.URL.Path), zap.Error(err))
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// forbidden says why a request may not press a button, and with which status it is refused: 0 if it may. Only the page
// itself may, opened on this machine:
//   - no form or link of another site sends application/json, and a script of one has to ask first, which is refused;
//   - a browser tells the origin of the page that asks, and it has to be this one;
//   - a foreign name that leads to this machine (DNS rebinding) is not its name;
//   - a proxy or tunnel in front of it makes it public, whatever the name.
func (d *demo) forbidden(r *http.Request) (reason string, status int) {
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType != "application/json" {
		return "the content type has to be application/json", http.StatusUnsupportedMediaType
	}
	if origin := r.Header.Get("Origin"); origin != "http://"+r.Host && origin != "https://"+r.Host {
		return "the buttons are for the demo's own page", http.StatusForbidden
	}
	if !loopback(r.Host) || d.Run && !loopback(r.RemoteAddr) {
		return "the buttons work on the machine of the demo only", http.StatusForbidden
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if r.Header.Get(name) != "" {
			return "the buttons do not work through a proxy", http.StatusForbidden
		}
	}
	return "", 0
}

// loopback reports whether a host, with or without a port, is this machine's own name or address for itself.
func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.IsLoopback()
}

// restart restarts the application: its own process, or one that somebody else starts again when it exits.
func (d *demo) restart() error {
	if d.Run {
		return d.runs.restart()
	}
	_, err := ask(context.Background(), http.MethodPost, "http://"+d.Address+"/exit", []byte("{}"))
	return err
}

// reload gives Caddy the configuration that it has, as an operator would who has changed it.
func (d *demo) reload() error {
	address, err := caddy.ParseNetworkAddress(cmp.Or(caddy.DefaultAdminListen, "localhost:2019"))
	if err != nil {
		return err
	}
	admin := "http://" + address.JoinHostPort(0)
	config, err := ask(context.Background(), http.MethodGet, admin+"/config/", nil)
	if err != nil {
		return err
	}
	// Caddy waits for the requests of the old configuration: this is one.
	go func() {
		if _, err := ask(context.Background(), http.MethodPost, admin+"/load", config); err != nil {
			d.logger.Error("reloading", zap.Error(err))
		}
	}()
	return nil
}

// ask sends a request, with a body of JSON or none, and returns the body of its answer.
func ask(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Cache-Control", "must-revalidate") // for /load: also if nothing has changed
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, answer)
	}
	return answer, err
}

// parseDemo reads the directive:
//
//	sse_demo run|at <address>
//
// run starts the application at the address, at uses one that is there.
func parseDemo(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	d := new(demo)
	return d, d.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile reads the directive. See parseDemo.
func (d *demo) UnmarshalCaddyfile(disp *caddyfile.Dispenser) error {
	disp.Next() // the directive's name
	var how string
	if !disp.Args(&how, &d.Address) || disp.NextArg() || disp.NextBlock(0) {
		return disp.ArgErr()
	}
	if d.Run = how == "run"; !d.Run && how != "at" {
		return disp.Errf("%q is neither run nor at", how)
	}
	return nil
}

// status is what the application says of itself.
type status struct {
	PID      int            `json:"pid"`
	Open     map[string]int `json:"open"`     // event streams by path
	Accepted int            `json:"accepted"` // event streams since it started
}

func writeJSON(w http.ResponseWriter, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // fails when the client has gone
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*demo)(nil)
	_ caddyhttp.MiddlewareHandler = (*demo)(nil)
	_ caddyfile.Unmarshaler       = (*demo)(nil)
)
