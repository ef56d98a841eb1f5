package caddysse

import "testing"

// What a client's request is let in by may be in its query and not in the key.
func TestReloadKeepsQuery(t *testing.T) {
	u1, u2 := startUpstream(t, nil), startUpstream(t, nil)
	config := func(u *upstream) string {
		return site("test_probe\n@no not query token=1\nrespond @no 403\n" +
			"sse {\nkey {http.request.uri.path}\n}\nreverse_proxy " + u.address)
	}
	g := startGateway(t, config(u1))
	a := g.subscribe("/?token=1&lastEventId=0")
	up := u1.accept()
	up.numbered("1")
	a.expect("1")
	g.reload(config(u2))
	next := u2.accept()
	if query := next.request.URL.RawQuery; query != "lastEventId=1" {
		t.Errorf("sent upstream: %q", query)
	}
	next.numbered("2")
	up.numbered("2")
	a.expect("2")
	up.expectGone()
}
