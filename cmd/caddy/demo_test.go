package main

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"go.uber.org/zap"
)

// serve has a demo answer a request.
func serve(t *testing.T, d *demo, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	if err := d.ServeHTTP(w, r, nil); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestButtonsAreForThePageOnThisMachine: what restarts and reloads is out of reach of other sites, of foreign names for this
// machine, and of everybody when the page is published.
func TestButtonsAreForThePageOnThisMachine(t *testing.T) {
	application := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the application is asked to exit")
	}))
	defer application.Close()
	// What the page sends; each case changes something of it.
	fields := map[string]string{"Content-Type": "application/json", "Origin": "http://localhost:8080"}
	for _, test := range []struct {
		name, method, host, remote, field, value string
		run                                      bool
		want                                     int
	}{
		{name: "a form", field: "Content-Type", value: "application/x-www-form-urlencoded", want: http.StatusUnsupportedMediaType},
		{name: "plain text", field: "Content-Type", value: "text/plain", want: http.StatusUnsupportedMediaType},
		{name: "no content type", field: "Content-Type", want: http.StatusUnsupportedMediaType},
		{name: "another site", field: "Origin", value: "https://example.com", want: http.StatusForbidden},
		{name: "another port", field: "Origin", value: "http://localhost:8082", want: http.StatusForbidden},
		{name: "a sandboxed page", field: "Origin", value: "null", want: http.StatusForbidden},
		{name: "no origin", field: "Origin", want: http.StatusForbidden},
		{name: "a foreign name", host: "example.com:8080", field: "Origin", value: "http://example.com:8080", want: http.StatusForbidden},
		{name: "another machine", remote: "192.0.2.1:1234", run: true, want: http.StatusForbidden},
		{name: "a proxy", field: "X-Forwarded-For", value: "127.0.0.1", want: http.StatusForbidden},
		{name: "a proxy that says little", field: "Via", value: "1.1 tunnel", want: http.StatusForbidden},
		{name: "a link", method: http.MethodGet, want: http.StatusMethodNotAllowed},
	} {
		for _, path := range []string{"/demo/restart", "/demo/reload"} {
			t.Run(test.name+path, func(t *testing.T) {
				d := &demo{Address: application.Listener.Addr().String(), Run: test.run, logger: zap.NewNop()}
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader("{}"))
				r.Host, r.RemoteAddr = "localhost:8080", "127.0.0.1:1234"
				if test.method != "" {
					r.Method = test.method
				}
				if test.host != "" {
					r.Host = test.host
				}
				if test.remote != "" {
					r.RemoteAddr = test.remote
				}
				all := maps.Clone(fields)
				if test.field != "" {
					all[test.field] = test.value
				}
				for name, value := range all {
					r.Header.Set(name, value)
				}
				if w := serve(t, d, r); w.Code != test.want {
					t.Errorf("status %d, want %d", w.Code, test.want)
				}
			})
		}
	}
}

// TestRestartAsksTheApplication is for an application that somebody else starts again: a service of compose.yaml.
func TestRestartAsksTheApplication(t *testing.T) {
	a := startApp(t, "")
	exits := make(chan struct{}, 1)
	a.exit = func() { exits <- struct{}{} }
	application := httptest.NewServer(a.mux)
	defer application.Close()
	d := &demo{Address: application.Listener.Addr().String(), logger: zap.NewNop()}

	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/demo/restart", strings.NewReader("{}"))
	r.Host, r.RemoteAddr = "localhost:8080", "172.18.0.1:1234"
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Origin", "http://localhost:8080")
	if w := serve(t, d, r); w.Code != http.StatusNoContent {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	<-exits // it answers first
	if len(exits) != 0 {
		t.Error("it exits more than once")
	}
	if w := serve(t, d, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/demo/status", nil)); !strings.Contains(w.Body.String(), `"accepted":0`) {
		t.Errorf("status %s", w.Body)
	}
	application.Close()
	if w := serve(t, d, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/demo/status", nil)); w.Code != http.StatusOK || w.Body.String() != "null" {
		t.Errorf("status %d %s of an application that is away, want null", w.Code, w.Body)
	}
}

// TestPageAsksNobodyElse keeps the page working on a machine without a network. It links to the live page.
func TestPageAsksNobodyElse(t *testing.T) {
	text := strings.Replace(string(page), `<a id="live" href="http://localhost:8082/sse/">`, "", 1)
	for _, mark := range []string{"http:", "https:", "src=\"", "//cdn", "@import"} {
		if strings.Contains(text, mark) {
			t.Errorf("the page has %q in it", mark)
		}
	}
	w := serve(t, new(demo), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	if policy := w.Header().Get("Content-Security-Policy"); w.Code != http.StatusOK || w.Body.String() != string(page) || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("status %d, policy %q; want the page, not in a frame", w.Code, policy)
	}
}

func TestDirective(t *testing.T) {
	for input, want := range map[string]demo{
		"sse_demo run 127.0.0.1:8081": {Address: "127.0.0.1:8081", Run: true},
		"sse_demo at app:8081":        {Address: "app:8081"},
		"sse_demo":                    {}, "sse_demo run": {}, "sse_demo near app:8081": {}, "sse_demo run a b": {}, "sse_demo run a {\n x\n}": {},
	} {
		handler, err := parseDemo(httpcaddyfile.Helper{Dispenser: caddyfile.NewTestDispenser(input)})
		if got := *handler.(*demo); (err == nil) != (want.Address != "") || err == nil && got != want {
			t.Errorf("%q: %+v, %v", input, got, err)
		}
	}
}
