package caddysse

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/admin"
)

// adminSite is a site with a password, sse_admin and an application behind sse.
func adminSite(u *upstream) string {
	return site("basic_auth /sse/* {\n" +
		"ops $2a$04$lhQ/HNCeZ3cCecBLdJmfMe13/4tA6u.reoVUcNPv6QXaUqRq83Q66\n}\n" +
		"sse_admin\nsse {\nshare public\njoin live\n}\nreverse_proxy " + u.address)
}

// On a site the page and the API are for who the site lets in, and for pages of that site; the rest is the application's.
func TestSiteServesThePageToWhoItLetsIn(t *testing.T) {
	const own = "http://gateway.test"
	u := startUpstream(t, nil)
	g := startGateway(t, adminSite(u))
	c := g.subscribe("/events")
	up := u.accept()
	up.event("1")
	c.expect("1")
	ask := func(method, target string, fields ...string) *http.Response {
		t.Helper()
		r := g.request(method, target, fields...)
		if fields == nil || fields[0] != "nobody" {
			r.SetBasicAuth("ops", "ops")
		}
		resp, err := g.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	resp := ask(http.MethodGet, "/sse/streams")
	var l admin.StreamList
	if text := body(t, resp); resp.StatusCode != http.StatusOK || json.Unmarshal([]byte(text), &l) != nil || len(l.Streams) != 1 {
		t.Fatalf("%s %s", resp.Status, text)
	}
	one := "/sse/streams/" + l.Streams[0].ID
	for _, test := range []struct {
		method, target string
		fields         []string
		status         int
	}{
		{"GET", "/sse/", []string{"nobody"}, 401},
		{"GET", "/sse/streams", []string{"nobody"}, 401},
		{"GET", "/sse/", nil, 200},
		{"GET", "/sse/", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"}, 200},
		{"GET", "/sse/", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"}, 200}, // a link
		{"GET", "/sse/", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"}, 403},
		{"GET", "/sse/streams", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"}, 403},
		{"GET", "/sse/streams", []string{"Sec-Fetch-Site: same-site"}, 403},
		{"GET", "/sse/streams", []string{"Origin: http://elsewhere.test"}, 403},
		{"GET", "/sse/streams", []string{"Origin: null"}, 403},
		{"GET", "/sse/streams", []string{"Origin: file://"}, 403},
		{"GET", "/sse/streams", []string{"Origin: " + own, "Sec-Fetch-Site: same-origin"}, 200},
		{"GET", "/sse/streams/none", nil, 404},
		{"GET", "/sse/nothing", nil, 404},
		{"GET", "/sse/streams?limit=0", nil, 400},
		{"POST", one + "/drain", []string{"Origin: " + own}, 415},
		{"POST", one + "/drain", []string{"Origin: " + own, "Content-Type: text/plain"}, 415},
		{"POST", one + "/drain", []string{"Origin: http://elsewhere.test", "Content-Type: application/json"}, 403},
		{"OPTIONS", one + "/drain", []string{"Origin: http://elsewhere.test"}, 403},
		{"DELETE", one, []string{"Origin: https://gateway.test.elsewhere.test", "Content-Type: application/json"}, 403},
	} {
		resp := ask(test.method, test.target, test.fields...)
		if resp.StatusCode != test.status {
			t.Errorf("%s %s %q: %s", test.method, test.target, test.fields, resp.Status)
		}
		if allowed := resp.Header.Get("Access-Control-Allow-Origin"); allowed != "" {
			t.Errorf("%s %s %q: allowed for %q", test.method, test.target, test.fields, allowed)
		}
	}
	// Nothing of that has changed anything; what the page does, does.
	up.event("2")
	c.expect("2")
	feed := newTestClient(t, ask(http.MethodGet, "/sse/feed", "Accept: text/event-stream", "Sec-Fetch-Site: same-origin"))
	var e admin.StreamsEvent
	nextOf(feed, "streams", &e)
	if len(e.Streams) != 1 { // and not the feed, which sse has not seen
		t.Errorf("%+v", e.Streams)
	}
	resp = ask(http.MethodDelete, one, "Origin: "+own, "Sec-Fetch-Site: same-origin", "Content-Type: application/json")
	if text := body(t, resp); resp.StatusCode != http.StatusAccepted || !strings.Contains(text, l.Streams[0].ID) {
		t.Errorf("%s %s", resp.Status, text)
	}
	c.expectEnd()
	feed.close()
}

// sse_admin takes nothing.
func TestSiteTakesNoArguments(t *testing.T) {
	for _, bad := range []string{"sse_admin x y", "sse_admin {\nx\n}"} {
		if _, err := adapt(t, "http://a.test {\n"+bad+"\n}\n"); err == nil || !strings.Contains(err.Error(), "sse_admin: expected nothing") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A reload and the end of the process do not wait for who looks through a site.
func TestReloadEndsViewsOfSites(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site("sse_admin\nrespond / ok"))
	feed := g.subscribe("/sse/feed")
	nextOf(feed, "streams", new(admin.StreamsEvent))
	g.client.CloseIdleConnections()
	g.load(proxied("", u))
	for range feed.messages {
	}
	if feed.err != nil {
		t.Errorf("broke off: %v", feed.err)
	}
}

// So it is over HTTP/3, with what a browser sends there.
func TestSiteOverHTTP3(t *testing.T) {
	site := "https:// {\nbind {socket}\nsse_admin\nrespond / ok\n}\n"
	g, config := startHTTP3(t, "", site)
	resp := g.get("/sse/streams", "Origin: https://gateway.test", "Sec-Fetch-Site: same-origin")
	if text := body(t, resp); resp.StatusCode != http.StatusOK || resp.ProtoMajor != 3 {
		t.Errorf("%s %s %s", resp.Proto, resp.Status, text)
	}
	if resp := g.get("/sse/streams", "Origin: https://elsewhere.test"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("of another site: %s", resp.Status)
	}
	feed := g.subscribe("/sse/feed")
	nextOf(feed, "streams", new(admin.StreamsEvent))
	g.load(strings.Replace(config, "respond / ok", "respond / changed", 1))
	for range feed.messages {
	}
	if feed.err != nil {
		t.Errorf("broke off: %v", feed.err)
	}
}
