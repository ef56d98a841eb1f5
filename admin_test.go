package caddysse

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/admin"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// adminEndpoint is that of a gateway in this process.
type adminEndpoint struct {
	t      testing.TB
	g      *gateway
	socket string
	client *http.Client
}

// startAdmin starts a gateway with an admin endpoint.
func startAdmin(t testing.TB, caddyfile string) (*gateway, *adminEndpoint) {
	t.Helper()
	g := startGateway(t, "") // so that each socket is opened once
	a := &adminEndpoint{t: t, g: g, socket: filepath.Join(filepath.Dir(g.socket), "a")}
	a.client = unixClient(a.socket)
	a.load(caddyfile)
	t.Cleanup(func() {
		a.client.CloseIdleConnections()
		g.load("")
		eventually(t, "the endpoint has let its viewers go", func() bool {
			return !strings.Contains(strings.Join(ownGoroutines(), "\n"), "/internal/admin.")
		})
	})
	return g, a
}

// load replaces the configuration, with its admin endpoint.
func (a *adminEndpoint) load(caddyfile string) {
	a.t.Helper()
	globals := strings.Replace(testGlobals, "admin off", "admin unix/"+a.socket, 1)
	caddyfile = strings.ReplaceAll(caddyfile, "{socket}", "unix/"+a.g.socket)
	body, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(globals+caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		a.t.Fatal(err)
	}
	if err := loadConfig(a.t, body); err != nil {
		a.t.Fatal(err)
	}
}

// do makes a request of an operator. Header fields follow as "Name: value".
func (a *adminEndpoint) do(method, target, text string, fields ...string) *http.Response {
	a.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://admin.test"+target, strings.NewReader(text))
	if err != nil {
		a.t.Fatal(err)
	}
	if text == "" {
		req.Body = http.NoBody
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		req.Header.Set(name, value)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// json asks for something, which has to have a status, and returns its text.
func (a *adminEndpoint) json(status int, method, target, text string, into any) string {
	a.t.Helper()
	resp := a.do(method, target, text, "Content-Type: application/json")
	answer := body(a.t, resp)
	if resp.StatusCode != status || resp.Header.Get("Content-Type") != "application/json" {
		a.t.Fatalf("%s %s: %s %q", method, target, resp.Status, answer)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(answer), into); err != nil {
			a.t.Fatalf("%s %s: %v in %s", method, target, err, answer)
		}
	}
	return answer
}

// untilWritten waits until no client is behind: that what it has got was written
// is known a moment later.
func (a *adminEndpoint) untilWritten() {
	a.t.Helper()
	eventually(a.t, "no client is behind", func() bool {
		return !slices.ContainsFunc(a.list().Streams, func(s stream.Info) bool { return s.Lag.Blocks > 0 })
	})
}

// list returns all streams.
func (a *adminEndpoint) list() (l admin.StreamList) {
	a.t.Helper()
	a.json(http.StatusOK, http.MethodGet, "/sse/streams", "", &l)
	return l
}

// detail returns a stream.
func (a *adminEndpoint) detail(id string) (d admin.StreamDetail) {
	a.t.Helper()
	a.json(http.StatusOK, http.MethodGet, "/sse/streams/"+id, "", &d)
	return d
}

// view reads an event stream of the endpoint.
func (a *adminEndpoint) view(target string, fields ...string) *testClient {
	a.t.Helper()
	return newTestClient(a.t, a.do(http.MethodGet, target, "", fields...))
}

// NextOf waits for the next event of a type.
func nextOf(c *testClient, kind string, into any) eventstream.Message {
	c.t.Helper()
	for {
		m := c.next()
		if m.Type != kind {
			continue
		}
		if err := json.Unmarshal([]byte(m.Data), into); err != nil {
			c.t.Fatalf("%v in %s", err, m.Data)
		}
		return m
	}
}

func TestAdminTellsStreams(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("name feed", u))
	if l := a.list(); l.Total != 0 || l.Streams == nil {
		t.Errorf("before any: %+v", l)
	}
	alice := g.subscribe("/events?token=SECRET1&BARESECRET", "Cookie: session=SECRET2", "Authorization: Bearer SECRET3", "X-Tenant: SECRET4")
	up := u.accept()
	bob := g.subscribe("/other", "Host: other.test")
	u.accept()
	up.numbered("1", "2")
	alice.expect("1", "2")
	a.untilWritten()

	l := a.list()
	if l.Total != 2 || len(l.Streams) != 2 || l.Limit != 100 {
		t.Fatalf("%+v", l)
	}
	s := l.Streams[0]
	wire := int64(len("id: 1\ndata: 1\n\n") * 2)
	if s.Kind != stream.KindShared || s.Host != "gateway.test" || s.Path != "/events" || s.Handler != "feed" ||
		s.Subscribers != 1 || s.EventsReceived != 2 || s.BytesReceived != wire || s.EventsSent != 2 || s.BytesSent != uint64(wire) {
		t.Errorf("%+v", s)
	}
	if want := []string{"header Authorization", "header Cookie", "header X-Tenant", "query", "query token"}; !slices.Equal(s.SeparatedBy, want) {
		t.Errorf("separated by %q", s.SeparatedBy)
	}
	if s.Upstream.State != stream.StateOpen || s.Upstream.Connections != 1 || s.Upstream.LastError != nil || s.Draining {
		t.Errorf("upstream %+v", s.Upstream)
	}
	if s.Buffer.Blocks != 2 || s.Buffer.Bytes != wire || s.Buffer.Newest != 2 || s.Buffer.Oldest == nil || s.Buffer.MaxBlocks != defaultBufferEvents {
		t.Errorf("buffer %+v", s.Buffer)
	}
	if s.LastIDs.Upstream != "2" || s.LastIDs.Gateway != "" {
		t.Errorf("last ids %+v", s.LastIDs)
	}
	if other := l.Streams[1]; other.Path != "/other" || other.Host != "other.test" || len(other.SeparatedBy) != 0 || other.ID == s.ID {
		t.Errorf("the other one: %+v", other)
	}

	d := a.detail(s.ID)
	if d.ID != s.ID || len(d.List) != 1 {
		t.Fatalf("%+v", d)
	}
	c := d.List[0]
	if c.Protocol != "1.1" || (c.Delivery != delivery.ByHandler && c.Delivery != delivery.ByConnection) || c.Resume != stream.ResumeLive || c.Events != 2 || c.Bytes != uint64(wire) || c.Spliced ||
		time.Since(c.JoinedAt) > testTimeout || c.Lag != (stream.LagInfo{}) {
		t.Errorf("subscriber %+v", c)
	}
	for _, target := range []string{"/sse/streams", "/sse/streams/" + s.ID} {
		if text := a.json(http.StatusOK, http.MethodGet, target, "", nil); strings.Contains(text, "SECRET") {
			t.Errorf("%s has a secret: %s", target, text)
		}
	}
	alice.close()
	bob.close()
}

// Of a gateway's ID only as much is told as the log has.
func TestAdminKeepsEpochs(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("", u))
	c := g.subscribe("/")
	u.accept().event("1")
	id := c.expect("1").LastEventID
	epoch, _, ok := replay.ParseID(id)
	if !ok {
		t.Fatalf("ID %q", id)
	}
	s := a.list().Streams[0]
	if want := "sse1." + epoch[:8] + "….1"; s.LastIDs.Gateway != want || s.Epoch != epoch[:8] {
		t.Errorf("last ID %q, epoch %q", s.LastIDs.Gateway, s.Epoch)
	}
	tail := a.view("/sse/streams/" + s.ID + "/tail")
	m := tail.next()
	all := a.json(http.StatusOK, http.MethodGet, "/sse/streams/"+s.ID, "", nil) + m.Data + m.LastEventID
	if strings.Contains(all, epoch) {
		t.Errorf("the epoch %s is in %s", epoch, all)
	}
}

// startAdminStream starts a gateway with an admin endpoint, and a stream that has
// had the event 1.
func startAdminStream(t *testing.T) (u *upstream, a *adminEndpoint, c *testClient, up *upstreamClient) {
	t.Helper()
	u = startUpstream(t, nil)
	g, a := startAdmin(t, proxied("", u))
	c = g.subscribe("/")
	up = u.accept()
	up.numbered("1")
	c.expect("1")
	return u, a, c, up
}

// What an upstream connection does is told: lost, why, and opened again.
func TestAdminTellsUpstream(t *testing.T) {
	u, a, c, up := startAdminStream(t)
	began := a.list().Streams[0].Upstream.Since
	up.breakOff()
	var s stream.Info
	eventually(t, "it is told that the connection is lost", func() bool {
		s = a.list().Streams[0]
		return s.Upstream.LastError != nil
	})
	if s.Upstream.LastError.Text == "" || s.Upstream.LastError.At.Before(began) {
		t.Errorf("%+v", s.Upstream.LastError)
	}
	up = u.accept()
	up.numbered("2")
	c.expect("2")
	s = a.list().Streams[0]
	if s.Upstream.State != stream.StateOpen || s.Upstream.Reconnects != 1 || s.Upstream.Connections != 2 || s.Upstream.LastError == nil ||
		!s.Upstream.Since.After(began) {
		t.Errorf("after it was opened again: %+v", s.Upstream)
	}
}

// While an upstream cannot be reached, its state says so, and since when.
func TestAdminTellsFailedAttempts(t *testing.T) {
	u, a, _, up := startAdminStream(t)
	_ = u.server.Listener.Close()
	up.breakOff()
	var first time.Time
	eventually(t, "attempts have failed", func() bool {
		s := a.list().Streams[0].Upstream
		if first.IsZero() && s.State != stream.StateOpen {
			first = s.Since
		}
		return s.Attempts > 1 && s.LastError != nil && strings.HasPrefix(s.LastError.Text, "dial ")
	})
	if s := a.list().Streams[0].Upstream; !s.Since.Equal(first) || (s.State != stream.StateWaiting && s.State != stream.StateOpening) || s.Reconnects != 0 {
		t.Errorf("%+v, lost at %v", s, first)
	}
}

// manyStreams puts streams into the hub that have no upstream.
func manyStreams(t testing.TB, n int) {
	t.Helper()
	inst := stream.Process.Register("many\x00", "server")
	options := testSettings()
	remove := stream.Process.Fill(n, func(i int) (*stream.Request, uint64) {
		return &stream.Request{
			Key: stream.Key{byte(i >> 8), byte(i)}, Instance: inst, Options: options, Logger: zap.NewNop(),
			Parts: []stream.Part{
				{Name: "place", Value: "many\x00"}, {Name: "host", Value: "many.test"}, {Name: "path", Value: fmt.Sprintf("/%05d", (i*7919)%n)},
			},
			Source: func(bool) stream.Source { return nil },
		}, uint64(i % 17)
	})
	t.Cleanup(func() {
		remove()
		stream.Process.Retire(inst)
	})
}

func TestAdminPages(t *testing.T) {
	const streams, maxPage = 10_000, 1000
	_, a := startAdmin(t, site("respond ok"))
	manyStreams(t, streams)
	for _, query := range []string{"sort=path", "sort=received&order=desc", ""} {
		seen := map[string]bool{}
		var all []stream.Info
		for offset := 0; offset < streams; offset += maxPage {
			var l admin.StreamList
			a.json(http.StatusOK, http.MethodGet, fmt.Sprintf("/sse/streams?%s&limit=%d&offset=%d", query, maxPage, offset), "", &l)
			if l.Total != streams || len(l.Streams) != maxPage || l.Offset != offset {
				t.Fatalf("%s from %d: %d of %d", query, offset, len(l.Streams), l.Total)
			}
			for _, s := range l.Streams {
				seen[s.ID] = true
			}
			all = append(all, l.Streams...)
		}
		if len(seen) != streams {
			t.Errorf("%s: %d different streams", query, len(seen))
		}
		sorted := slices.IsSortedFunc(all, func(x, y stream.Info) int {
			switch query {
			case "sort=path":
				return strings.Compare(x.Path, y.Path)
			case "":
				return x.BeganAt.Compare(y.BeganAt)
			}
			return cmp.Compare(y.EventsReceived, x.EventsReceived)
		})
		if !sorted {
			t.Errorf("%s: not sorted", query)
		}
	}
	var l admin.StreamList
	a.json(http.StatusOK, http.MethodGet, fmt.Sprintf("/sse/streams?offset=%d", streams+5), "", &l)
	if l.Total != streams || len(l.Streams) != 0 {
		t.Errorf("after the end: %d of %d", len(l.Streams), l.Total)
	}
	feed := a.view("/sse/feed?limit=7&sort=path&order=desc")
	var e admin.StreamsEvent
	nextOf(feed, "streams", &e)
	if len(e.Streams) != 7 || e.Totals.Streams != streams || e.Streams[0].Path != "/09999" {
		t.Errorf("the feed tells %d streams of %d", len(e.Streams), e.Totals.Streams)
	}
}

func TestAdminRefuses(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("", u))
	g.subscribe("/")
	u.accept()
	id := a.list().Streams[0].ID
	one := "/sse/streams/" + id
	for _, test := range []struct {
		method, target, body string
		status               int
		want                 string
	}{
		{"GET", "/sse/streams?limit=-1", "", 400, `limit: expected a number from 1 to 1000, not "-1"`},
		{"GET", "/sse/streams?limit=0", "", 400, `limit: expected a number`},
		{"GET", "/sse/streams?limit=1001", "", 400, `limit: expected a number`},
		{"GET", "/sse/streams?limit=99999999999999999999", "", 400, `limit: expected a number`},
		{"GET", "/sse/streams?limit=", "", 400, `limit: expected a number`},
		{"GET", "/sse/streams?limit=1e3", "", 400, `limit: expected a number`},
		{"GET", "/sse/streams?offset=-1", "", 400, `offset: expected a number from 0`},
		{"GET", "/sse/streams?offset=9223372036854775807", "", 400, `offset: expected a number from 0`},
		{"GET", "/sse/streams?sort=id", "", 400, `sort: expected one of began, bytes, `},
		{"GET", "/sse/streams?sort=sent_rate", "", 400, `sort: expected one of began, bytes, lag, path, received, reconnects, sent, state, subscribers, not "sent_rate"`},
		{"GET", "/sse/streams?order=up", "", 400, `order: expected one of asc, desc, not "up"`},
		{"GET", "/sse/streams?page=2", "", 400, `"page": expected one of the parameters sort, order, limit, offset`},
		{"GET", "/sse/streams?limit=1&limit=2", "", 400, `limit: given twice`},
		{"GET", "/sse/streams?limit=%zz", "", 400, `parsing the query: `},
		{"GET", "/sse/?a=b", "", 400, `"a": no parameter is expected here`},
		{"GET", one + "?sort=path", "", 400, `sort: expected one of address, bytes, events, joined, lag, not "path"`},
		{"GET", one + "/tail?last=-1", "", 400, `last: expected a number from 0 to 1000, not "-1"`},
		{"GET", "/sse/feed?limit=201", "", 400, `limit: expected a number from 1 to 200`},
		{"GET", "/sse/feed?stream=" + id + "0", "", 404, `there is no stream`},
		{"GET", one + "0", "", 404, `there is no stream "` + id + `0" (any more)`},
		{"GET", "/sse/streams/" + strings.Replace(id, "-", "-0", 1), "", 404, `there is no stream`},
		{"GET", "/sse/streams/-1", "", 404, `there is no stream`},
		{"GET", "/sse/streams/x", "", 404, `there is no stream`},
		{"GET", "/sse/streams/" + strings.Repeat("x", 2000), "", 404, `there is no stream`},
		{"GET", "/sse/streams/x/tail", "", 404, `there is no stream`},
		{"DELETE", "/sse/streams/x", "", 404, `there is no stream`},
		{"POST", "/sse/streams/x/drain", "", 404, `there is no stream`},
		{"GET", "/sse/nothing", "", 404, `there is nothing at /sse/nothing`},
		{"GET", one + "/nothing", "", 404, `there is nothing at`},
		{"POST", "/sse/streams", "", 405, `expected method GET`},
		{"PUT", one, "", 405, `expected method DELETE, GET`},
		{"GET", one + "/drain", "", 405, `expected method POST`},
		{"POST", one + "/tail", "", 405, `expected method GET`},
		{"HEAD", one + "/tail", "", 405, ``},
		{"OPTIONS", one, "", 405, `expected method DELETE, GET`},
		{"POST", one + "/drain", `{"window": "-1s"}`, 400, `window: expected a duration from 0s to 1h0m0s, not -1s`},
		{"POST", one + "/drain", `{"window": "2h"}`, 400, `window: expected a duration`},
		{"POST", one + "/drain", `{"window": "soon"}`, 400, `expected no body or {"window": "<duration>"}`},
		{"POST", one + "/drain", `{"windows": "1s"}`, 400, `expected no body or`},
		{"POST", one + "/drain", `{"window": "` + strings.Repeat("1", 4<<10) + `"}`, 400, `expected no body or`},
	} {
		resp := a.do(test.method, test.target, test.body, "Content-Type: application/json")
		text := body(t, resp)
		var e struct{ Error string }
		err := json.Unmarshal([]byte(text), &e)
		if resp.StatusCode != test.status || (test.method != "HEAD" && err != nil) || !strings.Contains(e.Error, test.want) {
			t.Errorf("%s %.100s %.100s: %s %s", test.method, test.target, test.body, resp.Status, text)
		}
		if test.status == 405 && !strings.HasSuffix("expected method "+resp.Header.Get("Allow"), test.want) {
			t.Errorf("%s %s: Allow %q", test.method, test.target, resp.Header.Get("Allow"))
		}
	}
	// Nothing of that has changed anything.
	if s := a.list().Streams; len(s) != 1 || s[0].Draining || s[0].Subscribers != 1 {
		t.Errorf("left: %+v", s)
	}
}

// What a form of another site can send changes nothing.
func TestAdminIsNotForged(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("", u))
	g.subscribe("/")
	u.accept()
	one := "/sse/streams/" + a.list().Streams[0].ID
	for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain; application/json", "application/jsonx"} {
		for method, target := range map[string]string{http.MethodPost: one + "/drain", http.MethodDelete: one} {
			resp := a.do(method, target, "{}", "Content-Type: "+contentType)
			if text := body(t, resp); resp.StatusCode != http.StatusUnsupportedMediaType || !strings.Contains(text, "Content-Type: application/json") {
				t.Errorf("%s %q: %s %s", method, contentType, resp.Status, text)
			}
		}
	}
	if s := a.list().Streams; len(s) != 1 || s[0].Draining {
		t.Errorf("left: %+v", s)
	}
}

func TestAdminDrains(t *testing.T) {
	for _, test := range []struct {
		name, method, path, body string
		window                   float64
	}{
		{"drain", http.MethodPost, "/drain", "", .02},
		{"drain with a window", http.MethodPost, "/drain", `{"window": "10ms"}`, .01},
		{"end", http.MethodDelete, "", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			const clients = 20
			u := startUpstream(t, nil)
			g, a := startAdmin(t, proxied("drain 20ms\nretry 7s", u))
			before := gather(t)
			var all []*testClient
			for range clients {
				all = append(all, g.subscribe("/"))
			}
			up := u.accept()
			up.event("1")
			up.write("data: not whole\n")
			for _, c := range all {
				c.expect("1")
			}
			id := a.list().Streams[0].ID
			var answer admin.DrainAnswer
			a.json(http.StatusAccepted, test.method, "/sse/streams/"+id+test.path, test.body, &answer)
			if want := (admin.DrainAnswer{ID: id, Subscribers: clients, Window: test.window}); answer != want {
				t.Errorf("%+v", answer)
			}
			for _, c := range all {
				c.expectEnd()
				if retry, _ := c.reader.Retry(); retry != 7*time.Second {
					t.Errorf("reconnection time %v", retry)
				}
			}
			up.expectGone()
			eventually(t, "the stream is gone", func() bool {
				return a.do(http.MethodGet, "/sse/streams/"+id, "").StatusCode == http.StatusNotFound
			})
			if n := gather(t).since(before)["subscribers_ended_total reason=admin"]; n != clients {
				t.Errorf("%v ended by an operator", n)
			}
			g.subscribe("/")
			u.accept() // another stream
		})
	}
}

// A stream that is being drained is told as such until its last subscriber has
// left, and newcomers have another.
func TestAdminTellsDraining(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("", u))
	c := g.subscribe("/")
	u.accept()
	id := a.list().Streams[0].ID
	a.json(http.StatusAccepted, http.MethodPost, "/sse/streams/"+id+"/drain", `{"window": "1h"}`, nil)
	if d := a.detail(id); !d.Draining || d.Subscribers != 1 {
		t.Errorf("%+v", d)
	}
	g.subscribe("/")
	u.accept()
	if l := a.list(); l.Total != 2 || l.Streams[1].Draining {
		t.Errorf("%+v", l)
	}
	c.close()
}

func TestAdminTellsDetachedStreams(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("detach 1m\ndrain 1ms", u))
	resp, err := g.client.Do(g.request(http.MethodPost, "/chat", "Authorization: Bearer SECRET"))
	if err != nil {
		t.Fatal(err)
	}
	c := newTestClient(t, resp)
	u.accept().event("1")
	c.expect("1")
	l := a.list()
	if l.Total != 1 || l.Streams[0].Kind != stream.KindDetached || l.Streams[0].Path != "/chat" || l.Streams[0].Host != "gateway.test" ||
		!slices.Equal(l.Streams[0].SeparatedBy, []string{"header Authorization"}) {
		t.Errorf("%+v", l)
	}
	c.close()
	eventually(t, "nobody is there", func() bool { return a.list().Streams[0].Subscribers == 0 })
	a.json(http.StatusAccepted, http.MethodDelete, "/sse/streams/"+l.Streams[0].ID, "", nil)
	eventually(t, "the stream is gone", func() bool { return a.list().Total == 0 })

}

// A splice is told with its stream. One that could not be merged is a stream of
// its own.
func TestAdminTellsSplices(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("join auto\nsplice_timeout 1h", u))
	first := g.subscribe("/")
	up := u.accept()
	up.event("one")
	first.expect("one")
	second := g.subscribe("/")
	splice := u.accept()
	splice.event("other")
	second.expect("other")
	l := a.list()
	if l.Total != 1 || l.Streams[0].Splices != 1 || l.Streams[0].Subscribers != 2 {
		t.Errorf("%+v", l)
	}
	spliced := 0
	for _, c := range a.detail(l.Streams[0].ID).List {
		if c.Spliced {
			spliced++
		}
	}
	if spliced != 1 {
		t.Errorf("%d of the subscribers are spliced", spliced)
	}
	for _, id := range stream.Process.SpliceIDs() {
		a.json(http.StatusNotFound, http.MethodGet, "/sse/streams/"+id, "", nil)
		l.Streams[0].ID = id
	}
	stream.Process.GiveUpSplices()
	if d := a.detail(l.Streams[0].ID); d.Kind != stream.KindSplice || d.Path != "/" || d.Host != "gateway.test" || d.Subscribers != 1 || d.List[0].Spliced || d.Draining {
		t.Errorf("on its own: %+v", d)
	}
	if l := a.list(); l.Total != 2 || l.Streams[0].Kind != stream.KindShared || l.Streams[0].Subscribers != 1 || l.Streams[0].Splices != 0 {
		t.Errorf("%+v", l)
	}
	a.json(http.StatusAccepted, http.MethodDelete, "/sse/streams/"+l.Streams[0].ID, "", nil)
	second.expectEnd()
	splice.expectGone()
	up.event("two")
	first.expect("two")
}

func TestAdminFeed(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("linger 0s", u))
	feed := a.view("/sse/feed?sort=subscribers&order=desc")
	if control := feed.resp.Header.Get("Cache-Control"); !strings.Contains(control, "no-store") {
		t.Errorf("Cache-Control %q", control)
	}
	var e admin.StreamsEvent
	m := nextOf(feed, "streams", &e)
	if m.LastEventID == "" || e.Totals.Streams != 0 || e.Streams == nil {
		t.Errorf("%+v %+v", m, e)
	}
	c := g.subscribe("/a")
	up := u.accept()
	until := func(what string, condition func(e admin.StreamsEvent) bool) {
		t.Helper()
		for {
			var e admin.StreamsEvent
			nextOf(feed, "streams", &e)
			if condition(e) {
				return
			}
			t.Logf("not yet: %s: %+v", what, e.Totals)
		}
	}
	until("a stream", func(e admin.StreamsEvent) bool { return len(e.Streams) == 1 && e.Totals.Subscribers == 1 })
	up.event(numbers(1, 100)...)
	c.skipTo("100")
	rates := 0.0 // over looks that are about a second apart
	until("events", func(e admin.StreamsEvent) bool {
		if len(e.Streams) == 1 {
			rates += e.Streams[0].ReceivedRate
		}
		return len(e.Streams) == 1 && e.Streams[0].EventsReceived == 100 && e.Streams[0].EventsSent == 100
	})
	if rates <= 0 || rates > 100*1.5 {
		t.Errorf("%v events a second in all", rates)
	}

	id := a.list().Streams[0].ID
	one := a.view("/sse/feed?stream=" + id)
	var se admin.StreamEvent
	nextOf(one, "stream", &se)
	if se.Stream.ID != id || len(se.Subscribers) != 1 {
		t.Errorf("%+v", se)
	}
	c.close()
	var gone admin.GoneEvent
	nextOf(one, "gone", &gone)
	if gone.ID != id {
		t.Errorf("%+v", gone)
	}
	one.expectEnd()
	until("no stream", func(e admin.StreamsEvent) bool { return len(e.Streams) == 0 })
	feed.close()
	eventually(t, "nobody looks at the streams any more", func() bool {
		return !strings.Contains(strings.Join(ownGoroutines(), "\n"), "/internal/admin.")
	})
}

func TestAdminTail(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("linger 0s", u))
	c := g.subscribe("/")
	up := u.accept()
	up.write(": greeting\n\nretry: 500\n\nevent: <b>\ndata: 1\n\nid: x\ndata: 2\n\n")
	c.expect("1", "2")
	id := a.list().Streams[0].ID
	tail := a.view("/sse/streams/" + id + "/tail?last=1000")
	var got []string
	for range 4 {
		var b admin.BlockEvent
		nextOf(tail, "block", &b)
		got = append(got, fmt.Sprint(b.Position, " ", b.Kind, " ", b.Bytes, " ", b.Text))
	}
	want := []string{
		"1 comment 12 : greeting\n", "2 control 12 retry: 500\n", "3 event 20 event: <b>\ndata: 1\n", "4 event 15 id: x\ndata: 2\n",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	last := a.view("/sse/streams/" + id + "/tail?last=1")
	var b admin.BlockEvent
	m := nextOf(last, "block", &b)
	if b.Position != 4 {
		t.Errorf("the last one is %+v", b)
	}
	const maxTailText = 4 << 10
	up.write("data: " + strings.Repeat("ä", maxTailText) + "\n\n")
	nextOf(last, "block", &b)
	if !b.Clipped || len(b.Text) > maxTailText || b.Bytes != len("data: ")+2*maxTailText+2 || !strings.HasSuffix(b.Text, "ä") {
		t.Errorf("a large one: %d bytes of %d, clipped: %v", len(b.Text), b.Bytes, b.Clipped)
	}
	back := a.view("/sse/streams/"+id+"/tail", "Last-Event-ID: "+m.LastEventID)
	if nextOf(back, "block", &b); b.Position != 5 {
		t.Errorf("who comes back gets block %d", b.Position)
	}
	none := a.view("/sse/streams/" + id + "/tail?last=0")
	up.event("live")
	if nextOf(none, "block", &b); b.Text != "data: live\n" {
		t.Errorf("%+v", b)
	}
	// A tail is no subscriber: the stream does not stay for it.
	c.skipTo("live")
	if s := a.list().Streams[0]; s.Subscribers != 1 || s.EventsSent != 4 {
		t.Errorf("%+v", s)
	}
	c.close()
	up.expectGone()
	for _, c := range []*testClient{tail, last, back, none} {
		nextOf(c, "gone", new(admin.GoneEvent))
		c.expectEnd()
	}
}

// A reload does not wait for viewers, and ends their responses.
func TestReloadEndsViews(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("", u))
	c := g.subscribe("/")
	up := u.accept()
	up.event("1")
	c.expect("1")
	id := a.list().Streams[0].ID
	feed, tail := a.view("/sse/feed"), a.view("/sse/streams/"+id+"/tail")
	nextOf(feed, "streams", new(admin.StreamsEvent))
	nextOf(tail, "block", new(admin.BlockEvent))
	a.client.CloseIdleConnections()
	a.load(proxied("retry 9s", u))
	for _, c := range []*testClient{feed, tail} {
		for range c.messages {
		}
		if c.err != nil {
			t.Errorf("broke off: %v", c.err)
		}
	}
	// Streams go on, and are there for the new endpoint.
	eventually(t, "the new endpoint answers", func() bool {
		resp, err := a.client.Get("http://admin.test/sse/") //nolint:noctx // a test
		if err != nil {
			return false // the old one has taken the connection
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	if l := a.list(); l.Total != 1 || l.Streams[0].ID != id {
		t.Errorf("%+v", l)
	}
	nextOf(a.view("/sse/feed"), "streams", new(admin.StreamsEvent))
}

// A token alone in the query is not taken for a name because of its padding.
func TestAdminTellsNoBareToken(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("", u))
	for _, query := range []string{"U0VDUkVU", "U0VDUkVUU0VD==", "U0VDUkVUU0V=", "=U0VDUkVU"} {
		g.subscribe("/events?" + query)
		u.accept()
	}
	if text := a.json(http.StatusOK, http.MethodGet, "/sse/streams", "", nil); strings.Contains(text, "U0VDUk") {
		t.Errorf("has a secret: %s", text)
	}
}

// The feed of a stream that began after the newest look waits for the next one.
func TestFeedOfAYoungStreamWaits(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("", u))
	nextOf(a.view("/sse/feed"), "streams", new(admin.StreamsEvent)) // a look was just made
	g.subscribe("/new")
	u.accept()
	if m := a.view("/sse/feed?stream=" + a.list().Streams[0].ID).next(); m.Type != "stream" {
		t.Errorf("told %s %s", m.Type, m.Data)
	}
}

// A stream that has ended in order has not lost its upstream.
func TestFeedTellsNoOrderlyEndAsLost(t *testing.T) {
	_, a, c, up := startAdminStream(t)
	up.end()
	c.expectEnd()
	eventually(t, "it lingers", func() bool { return a.list().Streams[0].Upstream.State == stream.StateEnded })
	var e admin.StreamsEvent
	if nextOf(a.view("/sse/feed"), "streams", &e); e.Totals.Lost != 0 {
		t.Errorf("%d lost, the stream's upstream is %s", e.Totals.Lost, e.Streams[0].Upstream.State)
	}
}

// A viewer who does not read holds nothing up but its own response, and that not
// for long.
func TestStuckViewer(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("", u))
	c := g.subscribe("/")
	up := u.accept()
	conn, err := net.Dial("unix", a.socket) //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /sse/streams/%s/tail HTTP/1.1\r\nHost: admin.test\r\n\r\n", a.list().Streams[0].ID)
	data := strings.Repeat("x", 4000)
	for i := range 5000 {
		up.event(fmt.Sprint(i, data))
		c.expect(fmt.Sprint(i, data))
	}
}
