package caddysse

import (
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Who is turned away is asked to come back in a while: EventSource by the end of an
// event stream, at no other status than 200 would it do that; others by a status.
func TestWhoIsTurnedAwayIsAskedToComeBack(t *testing.T) {
	later := func(t *testing.T, d time.Duration) {
		t.Helper()
		if d < minRetryAfter || d > maxRetryAfter {
			t.Errorf("asked to come back after %v", d)
		}
	}
	for limit, status := range map[string]int{
		refusedStreams: http.StatusServiceUnavailable, refusedSubscribers: http.StatusServiceUnavailable,
		refusedPerClient: http.StatusTooManyRequests,
	} {
		t.Run(limit, func(t *testing.T) {
			u := startUpstream(t, nil)
			g := startGateway(t, proxied(limit+" 1\nlinger 0s\nshare public", u))
			a := g.subscribe("/events")
			u.accept()
			target := "/events"
			if limit == refusedStreams {
				target = "/other"
			}
			before := refusals(limit)

			resp := g.get(target) // as EventSource
			text, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != eventStreamType {
				t.Fatalf("%v, %d, %v", err, resp.StatusCode, resp.Header)
			}
			retry := regexp.MustCompile(`^retry: (\d+)\n\n$`).FindSubmatch(text)
			if retry == nil {
				t.Fatalf("%q", text)
			}
			ms, _ := strconv.Atoi(string(retry[1]))
			later(t, time.Duration(ms)*time.Millisecond)

			req := g.request(http.MethodGet, target, "Accept: text/event-stream, application/json")
			other, err := g.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = other.Body.Close()
			seconds, _ := strconv.Atoi(other.Header.Get("Retry-After"))
			if later(t, time.Duration(seconds)*time.Second); other.StatusCode != status {
				t.Errorf("status %d", other.StatusCode)
			}
			for _, r := range []*http.Response{resp, other} {
				if told := r.Header.Get("SSE-Resume"); told != "refused; reason="+limit {
					t.Errorf("SSE-Resume: %s", told)
				}
			}
			if n := refusals(limit) - before; n != 2 {
				t.Errorf("%v were counted", n)
			}

			a.close()
			eventually(t, "the first has left", func() bool { return stream.Process.Subscribers() == 0 })
			if again := g.get(target); again.Header.Get("SSE-Resume") != stream.ResumeLive {
				t.Errorf("when there is room: %d %v", again.StatusCode, again.Header)
			}
		})
	}
}

// An application with a single worker: the newcomer is told, EventSource too. It would come back to the same.
func TestApplicationThatAnswersOneConnectionIsToldOf(t *testing.T) {
	var asked atomic.Int32
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 {
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", eventStreamType)
	})
	g := startGateway(t, site("sse {\nsplice_timeout 300ms\n}\nreverse_proxy "+u.address))
	a := g.subscribe("/events")
	up := u.accept()
	up.event("1")
	a.expect("1")
	before := refusals(refusedNoSecond)

	resp := g.get("/events") // as EventSource
	if got := resp.Header.Get("SSE-Resume"); resp.StatusCode != http.StatusServiceUnavailable || got != "refused; reason=no_second" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, %v", resp.StatusCode, resp.Header)
	}
	if n := refusals(refusedNoSecond) - before; n != 1 {
		t.Errorf("%v were counted", n)
	}
	up.event("2")
	a.expect("2")
}

// refusals is how many clients were turned away for a reason.
func refusals(reason string) float64 {
	for label, n := range theRefusals.All() {
		if label == reason {
			return n
		}
	}
	return -1
}

// A client is counted from when its request comes until its response ends, however it
// is served; others are not held up.
func TestMaxPerClientCountsWhatLasts(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("max_per_client 2 {header.User}\nlinger 0s\nkey {header.User}{path}", u))
	refused := func(target, user string) bool {
		t.Helper()
		resp := g.get(target, "User: "+user)
		if resp.Header.Get("SSE-Resume") == "refused; reason=max_per_client" {
			return true
		}
		_ = resp.Body.Close()
		return false
	}
	free := func(user string) {
		t.Helper()
		eventually(t, "there is room", func() bool { return !refused("/free", user) })
		eventually(t, "nobody is left", func() bool { return stream.Process.Subscribers() == 0 })
	}
	a, b := g.subscribe("/1", "User: a"), g.subscribe("/2", "User: a")
	for _, c := range []*testClient{a, b} { // with an event a stream's connections may be taken over
		u.accept().event("1")
		c.expect("1")
	}
	awaitTakenOver(t, 2)
	if !refused("/3", "a") || refused("/3", "b") || refused("/3", "") {
		t.Error("not each client is counted by itself")
	}
	g.load(proxied("max_per_client 2 {header.User}\nlinger 0s\nkey {header.User}{path}\ngap_event gap", u))
	awaitTakenOver(t, 2)
	if !refused("/3", "a") {
		t.Error("who stays over a reload is not counted")
	}
	resp, err := g.client.Do(g.request(http.MethodGet, "/page", "User: a"))
	if err != nil {
		t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode != http.StatusOK {
		t.Error("a request that asks for no event stream is turned away")
	}
	a.close()
	b.close()
	free("a")
	eventually(t, "no client is counted when all have left", func() bool {
		theClients.mu.Lock()
		defer theClients.mu.Unlock()
		return len(theClients.counts) == 0
	})
}

// Addresses of IPv6 count by their network: whoever has one has all of it.
func TestMaxPerClientCountsNetworks(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("max_per_client 1 {header.Address}\nlinger 0s\nshare public", u))
	g.subscribe("/", "Address: 2001:db8:1:2:3::4")
	for address, free := range map[string]bool{
		"2001:db8:1:2:ffff::1": false, "2001:db8:1:3::1": true, "192.0.2.1": true, "::ffff:192.0.2.2": true,
	} {
		resp := g.get("/", "Address: "+address)
		if got := resp.Header.Get("SSE-Resume") == stream.ResumeLive; got != free {
			t.Errorf("%s: %v", address, resp.Header)
		}
	}
}
