package caddysse

import (
	"net/http"
	"testing"
)

func TestManyClientsShareOneConnection(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	first := g.subscribe("/events")
	up := u.accept()
	clients := []*testClient{first}
	for range 20 {
		clients = append(clients, g.subscribe("/events"))
	}
	up.event("1", "2", "3")
	for _, c := range clients {
		c.expect("1", "2", "3")
	}
	first.close()
	up.event("4")
	for _, c := range clients[1:] {
		c.expect("4")
	}
	if open, all := u.counts(); open != 1 || all != 1 {
		t.Errorf("%d connections open, %d in all, expected 1 and 1", open, all)
	}
	for _, c := range clients {
		c.close()
	}
}

func TestResumeAfterCut(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	stay := g.subscribe("/events")
	up := u.accept()
	cut := g.subscribe("/events")
	up.event("1", "2")
	stay.expect("1", "2")
	last := cut.expect("1", "2")
	cut.close()
	up.event("3", "4")
	stay.expect("3", "4")
	back := g.subscribe("/events", "Last-Event-ID: "+last.LastEventID)
	if got := back.outcome(); got != "replayed; events=2" {
		t.Errorf("SSE-Resume: %s", got)
	}
	back.expect("3", "4")
	up.event("5")
	back.expect("5")
	stay.expect("5")
}

func TestOtherAnswersPass(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site(`sse
		respond /json `+"`{\"a\":1}`"+` 404
		reverse_proxy `+u.address))
	resp := g.get("/json")
	if text := body(t, resp); text != `{"a":1}` || resp.StatusCode != http.StatusNotFound {
		t.Errorf("%s %q", resp.Status, text)
	}
}
