package caddysse

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// A handler that records the whole response says so only when it is given the
// head: what it has not let through must not be missing before the events.
func TestRecordedResponseIsNotTakenOver(t *testing.T) {
	for name, recorder := range map[string]string{
		"templates":  "templates {\nmime text/event-stream\n}",
		"log_append": "log_append body {http.response.body}",
	} {
		t.Run(name, func(t *testing.T) {
			u := startUpstream(t, nil)
			g := startGateway(t, site("route {\n"+recorder+"\nsse {\njoin live\nprime off\nids upstream\n}\nreverse_proxy "+u.address+"\n}"))
			go func() {
				up := <-u.connections
				for i, n := range numbers(1, 20) { // in one of the pauses at least the client waits
					up.event(n)
					for !delivered(uint64(i + 1)) {
						runtime.Gosched()
					}
				}
				up.end()
			}()
			c := g.subscribe("/")
			c.expect(numbers(1, 20)...)
			c.expectEnd()
		})
	}
}

// delivered reports whether all subscribers were given the blocks up to position.
func delivered(position uint64) bool {
	for _, s := range theHub.every() {
		s.mu.Lock()
		unread := s.buffer.newest < position || s.unread(position)
		s.mu.Unlock()
		if unread {
			return false
		}
	}
	return true
}

// With `timeouts write` Caddy flushes the response when the handlers have
// returned.
func TestTakeOverUnderWriteTimeoutOfServer(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	u := startUpstream(t, nil)
	g := startGatewayWith(t, "servers {\ntimeouts {\nwrite 1ns\n}\n}\nlog stdlib {\noutput file "+log+"\nlevel DEBUG\ninclude http.stdlib\n}",
		site("log {\noutput discard\n}\nsse {\njoin live\n}\nreverse_proxy "+u.address))
	c := g.subscribe("/")
	up := u.accept()
	up.event("1")
	c.expect("1")
	up.event("2")
	c.expect("2")
	up.end()
	c.expectEnd()
	g.load(site("respond 204"))
	if text, err := os.ReadFile(log); err != nil || strings.Contains(string(text), "panic") {
		t.Errorf("%v %s", err, text)
	}
}

// A client that hangs up just before its connection is taken over: what the
// handlers before sse do when it has returned is not looked at meanwhile.
func TestTakeOverOfClientThatHangsUp(t *testing.T) {
	u := startUpstream(t, nil)
	var after strings.Builder
	for range 20 {
		after.WriteString("log_append a {http.sse.resume}\n")
	}
	g := startGateway(t, site("log {\noutput discard\n}\nroute {\n"+after.String()+"sse {\njoin live\n}\nreverse_proxy "+u.address+"\n}"))
	stay := g.subscribe("/")
	up := u.accept()
	for _, n := range numbers(1, 200) {
		c := g.subscribe("/")
		go c.close()
		up.event(n)
		stay.expect(n)
	}
}
