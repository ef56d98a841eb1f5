package stream

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

const (
	crashClients = 2000
	crashIDs     = 5
	crashBefore  = 1000 // events before the crash
)

// journal is an upstream that keeps all its events, numbered from 1, and goes
// on after the last event ID that a connection is opened with.
type journal struct {
	*sim

	ids    bool
	events []string
}

func newJournal(ids bool) *journal {
	j := &journal{sim: newSim(), ids: ids}
	j.greet = func(c *simConn) {
		if n, err := strconv.Atoi(c.lastID); j.ids && err == nil {
			for _, e := range j.events[n:] {
				c.out <- e
			}
		}
		c.subscribe()
	}
	return j
}

func (j *journal) publish() {
	j.broadcastOf(func() string {
		n := strconv.Itoa(len(j.events) + 1)
		id := ""
		if j.ids {
			id = n
		}
		j.events = append(j.events, event(id, n))
		return j.events[len(j.events)-1]
	})
}

func (j *journal) newest() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.events)
}

// crash runs an upstream that publishes every interval, with a gateway in front
// of it, until the gateway has died. It returns another gateway.
func crash(t *testing.T, j *journal, interval time.Duration, configure func(o *Options)) (g *simGateway, lastIDs []string, stop func()) {
	t.Helper()
	done := make(chan struct{})
	for range crashBefore {
		j.publish()
	}
	dead := newSimGateway(t, j.sim, 20*time.Millisecond, configure)
	old := dead.join("")
	time.Sleep(time.Second)
	for range crashIDs {
		for range 7 {
			j.publish()
		}
		time.Sleep(interval)
		_, id := old.events()
		lastIDs = append(lastIDs, id)
	}
	dead.close(old)
	if _, open, _ := j.current(); open != 0 {
		t.Fatalf("%d upstream connections after the crash", open)
	}
	j.mu.Lock()
	j.opened, j.peak = 0, 0
	j.mu.Unlock()
	every(interval, done, j.publish)
	return newSimGateway(t, j.sim, 20*time.Millisecond, configure), lastIDs, func() { close(done) }
}

// maxConnections bounds the upstream connections of a stream at once: its own, its
// splices, and the probes of a trial, which have no clients.
const maxConnections = 1 + defaultSpliceLimit + 2

// TestCrash has 2,000 clients come back after a crash of the gateway, with five
// different last event IDs, while the upstream goes on. It gets a few connections
// and then one, and each client gets everything after its ID exactly once.
func TestCrash(t *testing.T) {
	for _, interval := range []time.Duration{30 * time.Millisecond, 300 * time.Millisecond, 5 * time.Second} {
		t.Run(interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testCrash(t, interval) })
		})
	}
}

func testCrash(t *testing.T, interval time.Duration) {
	t.Helper()
	j := newJournal(true)
	g, lastIDs, stop := crash(t, j, interval, nil)
	if n := len(slices.Compact(slices.Clone(lastIDs))); n != crashIDs {
		t.Fatalf("last event IDs %q", lastIDs)
	}
	const within = 3 * time.Second // as EventSource comes back
	clients := make([]*simClient, crashClients)
	from := make([]int, crashClients)
	for i := range clients {
		id := lastIDs[rand.IntN(crashIDs)]
		clients[i] = g.join(id)
		from[i], _ = strconv.Atoi(id)
		time.Sleep(time.Duration(rand.IntN(int(2 * within / crashClients))))
	}
	time.Sleep(3*interval + 2*time.Second)
	stop()
	time.Sleep(10 * time.Second)
	synctest.Wait()

	opened, open, peak := j.current()
	t.Logf("upstream connections: %d opened, at most %d at once, %d now", opened, peak, open)
	if peak > maxConnections-1 || opened > 20 { // all clients have IDs, and the last place is for who has none
		t.Errorf("%d upstream connections at once, %d in all", peak, opened)
	}
	if open != 1 {
		t.Errorf("%d upstream connections at the end, expected 1", open)
	}
	outcomes := make(map[string]int)
	for i, c := range clients {
		outcome, _, _ := strings.Cut(c.sub.Outcome(), ";")
		outcomes[outcome]++
		got, lastID := c.events()
		if want := counting(from[i]+1, j.newest()); !slices.Equal(got, want) {
			t.Fatalf("client %d (%s) came with %d and got %q", i, c.sub.Outcome(), from[i], got)
		}
		if lastID != strconv.Itoa(j.newest()) {
			t.Fatalf("client %d has last event ID %q", i, lastID)
		}
	}
	t.Logf("outcomes: %v", outcomes)
	if outcomes[ResumeSpliced]+outcomes[ResumeReplayed] != crashClients {
		t.Errorf("outcomes %v", outcomes)
	}
	g.close(clients...)
}

// TestCrashWithoutIDs is the same for an upstream that gives no ids. What was
// sent meanwhile is lost, as it would be without a gateway, and each client is
// told: its ID is one of the dead gateway's.
func TestCrashWithoutIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal(false)
		g, lastIDs, stop := crash(t, j, 100*time.Millisecond, func(o *Options) { o.GapEvent = "gap" })
		for _, id := range lastIDs {
			if _, _, ok := replay.ParseID(id); !ok {
				t.Fatalf("last event ID %q", id)
			}
		}
		clients := make([]*simClient, crashClients)
		first := make([]int, crashClients)
		for i := range clients {
			first[i] = j.newest()
			clients[i] = g.join(lastIDs[i%crashIDs])
			time.Sleep(time.Duration(rand.IntN(int(3 * time.Millisecond))))
		}
		time.Sleep(20 * time.Second)
		stop()
		time.Sleep(10 * time.Second)
		synctest.Wait()

		opened, open, peak := j.current()
		t.Logf("upstream connections: %d opened, at most %d at once, %d now", opened, peak, open)
		if peak > 6 {
			t.Errorf("%d upstream connections at once", peak)
		}
		if open != 1 {
			t.Errorf("%d upstream connections at the end, expected 1", open)
		}
		for i, c := range clients {
			if c.sub.Outcome() != ResumeGap {
				t.Fatalf("client %d: outcome %q", i, c.sub.Outcome())
			}
			got, lastID := c.events()
			if len(got) == 0 || got[0] != fmt.Sprintf(`{"reason":"epoch","last_event_id":%q,"missed":null}`, lastIDs[i%crashIDs]) {
				t.Fatalf("client %d was not told: %q", i, got[:min(len(got), 3)])
			}
			// From its first event on it gets all, and that is no later than
			// that of a client that waits for an upstream connection.
			got = got[1:]
			if len(got) == 0 {
				t.Fatalf("client %d got nothing", i)
			}
			begin, _ := strconv.Atoi(got[0])
			if !slices.Equal(got, counting(begin, j.newest())) || begin > first[i]+40 {
				t.Fatalf("client %d, of event %d, got %q", i, first[i], got)
			}
			if _, _, ok := replay.ParseID(lastID); !ok || slices.Contains(lastIDs, lastID) {
				t.Fatalf("client %d has last event ID %q", i, lastID)
			}
		}
		g.close(clients...)
	})
}
