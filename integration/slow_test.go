package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	slowEventSize = 16 << 10
	slowBuffer    = 64 // events, which is 1 MiB
	slowEvents    = 1280
	slowBatch     = 16
	slowReaders   = 5 // that keep up
	slowClients   = 20

	// slowReceiveBuffer is what a client's kernel takes without the client.
	slowReceiveBuffer = 64 << 10
)

// slowMemory bounds by how much the gateway may grow, with the race detector: a copy of all events (20 MiB) for each
// client that does not read would be well over twice that.
const slowMemory = 150 << 20

// slowTransport makes the side of a client whose kernel takes little.
func slowTransport() *http.Transport {
	transport := newTransport()
	transport.ReadBufferSize = 4 << 10
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(slowReceiveBuffer)
		}
		return conn, err
	}
	return transport
}

// sleeper is a client that does not read before it is woken.
type sleeper struct {
	*follower
	wake chan struct{}
}

// sleepers connects clients that do not read.
func sleepers(t *testing.T, url string) []*sleeper {
	t.Helper()
	all := make([]*sleeper, slowClients)
	for i := range all {
		s := &sleeper{wake: make(chan struct{})}
		transport := slowTransport()
		f, err := tryFollowWhen(t, transport, s.wake, fmt.Sprint("sleeper ", i), url, "")
		if err != nil {
			t.Fatal(err)
		}
		s.follower = f
		all[i] = s
	}
	return all
}

// flood sends many events, as fast as those who keep up read them. It returns how long the slowest of their batches
// took, and the most memory that the gateway had.
func flood(t *testing.T, u *upstream, g *gateway, readers []*follower) (slowest time.Duration, memory int64) {
	t.Helper()
	for n := slowBatch; n <= slowEvents; n += slowBatch {
		began := time.Now()
		u.emit(slowBatch)
		for _, f := range readers {
			f.await(n)
		}
		slowest = max(slowest, time.Since(began))
		memory = max(memory, g.memory())
	}
	return slowest, memory
}

func startSlow(t *testing.T, options string) (*upstream, *gateway, []*follower) {
	t.Helper()
	u := startTicker(t, "-size", strconv.Itoa(slowEventSize))
	g := startGateway(t, route("/events", fmt.Sprintf("buffer %d\n", slowBuffer)+options, "reverse_proxy "+u.address))
	readers := make([]*follower, slowReaders)
	for i := range readers {
		readers[i] = follow(t, fmt.Sprint("reader ", i), g.url("/events"), "")
	}
	return u, g, readers
}

// startBehind is startSlow with clients that did not read while many events came, which nobody else was to notice.
func startBehind(t *testing.T, options string) (*upstream, *gateway, []*follower, []*sleeper) {
	t.Helper()
	u, g, readers := startSlow(t, options)
	before := g.memory()
	all := sleepers(t, g.url("/events"))
	slowest, most := flood(t, u, g, readers)
	assertUndisturbed(t, readers, before, most, slowest)
	return u, g, readers, all
}

func assertUndisturbed(t *testing.T, readers []*follower, before, most int64, slowest time.Duration) {
	t.Helper()
	for _, f := range readers {
		f.assertRun(1, slowEvents)
	}
	if grown := most - before; grown > slowMemory {
		t.Errorf("the gateway grew by %d MiB, expected %d or less", grown>>20, slowMemory>>20)
	} else {
		t.Logf("the gateway grew by %d MiB", grown>>20)
	}
	t.Logf("%d events of %d bytes took the clients that keep up %v at most", slowBatch, slowEventSize, slowest)
}

// Issue 2, acceptance 8: a client that stops reading is cut.
func TestClientThatStopsReadingIsCut(t *testing.T) {
	t.Parallel()
	const writeTimeout = time.Second
	u, g, readers, all := startBehind(t, "write_timeout 1s")

	// The access log tells when a response has ended.
	ended := func(rs []report) (some []report) {
		for _, r := range rs {
			if agent := r.Request.Headers["User-Agent"]; len(agent) > 0 && strings.HasPrefix(agent[0], "sleeper") {
				some = append(some, r)
			}
		}
		return some
	}
	entries := ended(g.await("the sleepers are cut", func(rs []report) bool { return len(ended(rs)) >= slowClients }))
	for _, entry := range entries {
		if reason := entry.SSE.EndReason; reason != "write" || entry.SSE.Duration < writeTimeout.Seconds() {
			t.Errorf("a response ended after %v s: %s; expected after write_timeout, because of that", entry.SSE.Duration, reason)
		}
	}
	for _, s := range all {
		close(s.wake)
		// It finds what its kernel had, and that the response broke off.
		if err := s.awaitEnd(); err == nil {
			t.Errorf("%s: its response ended well, expected that it breaks off", s.name)
		}
		s.assertRun(1, 1)
		if s.newest() >= slowEvents {
			t.Errorf("%s has got everything: it was not slow", s.name)
		}
	}
	for _, f := range readers {
		f.close()
	}
	u.assertOneConnection(true)
}

// Issue 2, acceptance 8: a client behind the replay buffer is disconnected, and told when it comes back.
func TestLagDisconnect(t *testing.T) {
	t.Parallel()
	u, g, _, all := startBehind(t, "write_timeout 10m\ngap_event lost")
	for _, s := range all {
		close(s.wake)
		if err := s.awaitEnd(); err != nil {
			t.Errorf("%s: %v, expected that its response ends well", s.name, err)
		}
		s.assertRun(1, 1)
		had := s.newest()
		if had >= slowEvents-slowBuffer {
			t.Fatalf("%s has got %d events: it was not slow", s.name, had)
		}
		back := follow(t, s.name, g.url("/events"), s.lastEventID())
		if back.outcome() != "gap" {
			t.Errorf("%s: SSE-Resume: %s, expected gap", s.name, back.outcome())
		}
		if err := back.until("a gap event", func() bool { return len(back.events()) > 0 }); err != nil {
			t.Fatal(err)
		}
		assertGap(t, back.events(), "evicted", s.lastEventID(), float64(slowEvents-had))
		back.close()
	}
	u.assertOneConnection(true)
}

// Issue 2, acceptance 8: a client behind the replay buffer is told so, and goes on with what is kept.
func TestLagSkip(t *testing.T) {
	t.Parallel()
	u, _, _, all := startBehind(t, "write_timeout 10m\ngap_event lost\nlag skip")
	for _, s := range all {
		close(s.wake)
		s.await(slowEvents)
		if err := checkSkip(s.events()); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	u.assertOneConnection(true)
}

// checkSkip checks that as many events were missed as the gap events say, and that the client then got what the buffer
// kept.
func checkSkip(events []event) error {
	last, kept, gaps := 0, 0, 0
	for _, e := range events {
		if e.kind != "lost" {
			kept++
			if last++; e.number != last {
				return fmt.Errorf("event %d, expected %d", e.number, last)
			}
			continue
		}
		var data struct {
			Reason string
			Missed int
		}
		if err := json.Unmarshal([]byte(e.data), &data); err != nil {
			return err
		}
		if data.Reason != "lag" || data.Missed < 1 {
			return fmt.Errorf("gap %s after event %d", e.data, last)
		}
		last += data.Missed
		kept = 0
		gaps++
	}
	if gaps == 0 || last != slowEvents || kept != slowBuffer {
		return fmt.Errorf("%d gaps, %d events after the last, to event %d; expected %d to %d", gaps, kept, last, slowBuffer, slowEvents)
	}
	return nil
}
