package caddysse

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// strangerCase is a configuration, and two clients that ask for the same URL with
// different keys.
type strangerCase struct {
	options         string
	owner, stranger []string // header fields
	target          string
	phase           string // of the owner's stream when the stranger comes
	owners          int
}

func randomStrangerCase(rnd *rand.Rand) strangerCase {
	separators := []struct{ options, field string }{
		{"", "Cookie: session="}, {"", "Authorization: Bearer "}, {"", "X-Api-Key: "}, {"", "Accept-Language: "}, {"", "X-Unknown: "},
		{"share cookies session", "Cookie: other=1; session="}, {"share public", "Origin: https://"}, {"share off", "Cookie: session="},
		{"key {http.request.header.User}", "User: "}, {"share public\nkey_add {http.request.header.User}", "User: "},
	}
	sep := separators[rnd.IntN(len(separators))]
	answer := pick(rnd, "200", "200", "204", "302", "401", "403", "404", "503", "json", "cookie", "private")
	c := strangerCase{
		options:  sep.options,
		owner:    []string{sep.field + "owner.test"},
		stranger: []string{sep.field + "says-" + answer + ".test"},
		target:   pick(rnd, "/", "/events?a=1", "/a%2Fb?lastEventId=x"),
		phase:    pick(rnd, "opening", "live", "lingering", "ended"),
		owners:   1 + rnd.IntN(2),
	}
	if id := pick(rnd, "", "", "7", "unknown"); id != "" {
		c.stranger = append(c.stranger, "Last-Event-ID: "+id)
	}
	if c.phase == "opening" {
		c.owner[0] = sep.field + "slow-owner.test"
	}
	c.options += pick(rnd, "", "\njoin live", "\nids gateway", "\nmax_subscribers 2", "\nlinger 1h")
	return c
}

// strangersView is what a stranger can see, and what it causes.
type strangersView struct {
	status int
	header http.Header
	asked  []string // of the application
}

// strangersApp answers as the request's own header fields say, and remembers requests.
type strangersApp struct {
	mu     sync.Mutex
	asked  []string
	headed chan struct{} // a request came
}

func (a *strangersApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	dump, _ := httputil.DumpRequest(r, false)
	text := string(dump)
	a.mu.Lock()
	a.asked = append(a.asked, text)
	a.mu.Unlock()
	a.headed <- struct{}{}
	says := func(what string) bool { return strings.Contains(text, "says-"+what) }
	for _, status := range []int{204, 302, 401, 403, 404, 503} {
		if says(fmt.Sprint(status)) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			return
		}
	}
	if says("json") {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
		return
	}
	if says("cookie") {
		w.Header().Set("Set-Cookie", "seen=1")
	}
	if says("private") {
		w.Header().Set("Cache-Control", "private")
	}
	if strings.Contains(text, "slow-owner") {
		<-r.Context().Done()
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = w.Write([]byte("id: 7\ndata: of the owner, or of the stranger\n\n"))
	_ = http.NewResponseController(w).Flush()
	if strings.Contains(text, "/ended") {
		return
	}
	<-r.Context().Done()
}

// see lets the stranger come, with a stream of the owner's in its phase or without.
func (c strangerCase) see(t *testing.T, owned bool) (v strangersView) {
	t.Helper()
	app := &strangersApp{headed: make(chan struct{}, 100)}
	server := httptest.NewServer(app)
	defer server.CloseClientConnections()
	g := startGateway(t, site("sse {\n"+c.options+"\n}\nreverse_proxy "+server.Listener.Addr().String()))
	var clients []*http.Response
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	if owned {
		for range c.owners {
			req := g.request(http.MethodGet, c.target, append(c.owner, "Accept: text/event-stream")...).WithContext(ctx)
			if c.phase == "opening" {
				go func() { _, _ = g.client.Do(req) }() //nolint:bodyclose // there is none
				continue
			}
			resp, err := g.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			clients = append(clients, resp)
		}
		<-app.headed
		switch c.phase {
		case "lingering":
			leave()
			eventually(t, "the owner has left", func() bool { return stream.Process.Subscribers() == 0 })
		case "ended":
			server.CloseClientConnections()
		}
	}
	app.mu.Lock()
	before := len(app.asked)
	app.mu.Unlock()
	resp, err := g.client.Transport.RoundTrip(g.request(http.MethodGet, c.target, append(c.stranger, "Accept: text/event-stream")...))
	if err != nil {
		t.Fatal(err)
	}
	v.status, v.header = resp.StatusCode, resp.Header
	v.header.Del("Date")
	_ = resp.Body.Close()
	leave()
	for _, client := range clients {
		_ = client.Body.Close()
	}
	app.mu.Lock()
	defer app.mu.Unlock()
	for _, text := range app.asked[before:] {
		if !strings.Contains(text, "owner.test") { // it may be asked for the owner's stream meanwhile
			v.asked = append(v.asked, strings.ReplaceAll(text, server.Listener.Addr().String(), "APP"))
		}
	}
	return v
}

// A stranger's request gets the same status and header fields, and causes the same
// requests to the application, whether or not a stream of another key exists for the
// same URL.
func TestAStrangerSeesNothingOfOtherStreams(t *testing.T) {
	rnd := rand.New(rand.NewPCG(17, 6))
	for range 60 {
		c := randomStrangerCase(rnd)
		var alone, beside strangersView
		t.Run("alone", func(t *testing.T) { alone = c.see(t, false) })
		t.Run("beside", func(t *testing.T) { beside = c.see(t, true) })
		if alone.status != beside.status || !maps.EqualFunc(alone.header, beside.header, slices.Equal) {
			t.Errorf("%+v: alone %d %v\nbeside a stream %d %v", c, alone.status, alone.header, beside.status, beside.header)
		}
		if !slices.Equal(alone.asked, beside.asked) || len(alone.asked) == 0 {
			t.Errorf("%+v: the application is asked, alone\n%q\nbeside a stream\n%q", c, alone.asked, beside.asked)
		}
		if t.Failed() {
			return
		}
	}
}
