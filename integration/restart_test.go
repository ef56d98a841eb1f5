package integration

import (
	"bufio"
	"flag"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
)

var (
	restarts      = flag.Int("restarts", 5, "how often an upstream is restarted")
	restartWindow = flag.Duration("restart.window", 15*time.Second, "in what time an upstream is restarted so often")
)

// restartClients is how many clients there are while the upstream or the gateway is restarted.
const restartClients = 1000

// Issue 4, acceptance 1: what happens to the upstream is not seen by clients.
func TestUpstreamRestarts(t *testing.T) {
	deliverytest.Once(t) // it is about the upstream's side
	ways := []struct {
		name    string
		restart func(u *phoenix)
		stay    bool     // clients are not disconnected
		args    []string // of the upstream
	}{
		{"killed", func(u *phoenix) {
			u.crash()
			u.restart()
		}, true, nil},
		// Responses end well, then connections are refused for 2 s.
		{"graceful", func(u *phoenix) {
			u.term()
			time.Sleep(2 * time.Second)
			u.restart()
		}, false, []string{"-retry=100ms"}}, // to be reached each time
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) { // two at a time: they have many clients
			for _, ids := range []string{"all", "none"} {
				t.Run("ids="+ids, func(t *testing.T) {
					t.Parallel()
					// Without ids, events tell which life of the upstream they are of, so that no change of it is overlooked.
					args := append([]string{"-ids=" + ids}, way.args...)
					if ids == "none" {
						args = append(args, "-line=life")
					}
					u := startPhoenix(t, 250*time.Millisecond, args...)
					testUpstreamRestarts(t, u, way.restart, way.stay, ids == "all")
				})
			}
		})
	}
}

func testUpstreamRestarts(t *testing.T, u *phoenix, restart func(u *phoenix), stay, ids bool) {
	t.Helper()
	g := startGateway(t, route("/events", "buffer 100000\ngap_event lost", "reverse_proxy "+u.address))
	c := startCrowd(t, restartClients, false, g.url("/events"))

	began := time.Now()
	for _, moment := range moments(*restarts, *restartWindow) {
		time.Sleep(time.Until(began.Add(moment)))
		restart(u)
	}
	last := u.due() + 10
	c.until("events after the last restart", func(r record) bool { return r.newest >= last })

	c.assert(record.check, record.checkEnds)
	if stay {
		c.assert(record.checkStayed)
	}
	if ids {
		c.assert(record.checkNoGap)
	} else if c.count(func(r record) int { return len(r.gaps) }) < len(c.all) {
		t.Error("the gaps were not told to all")
	}
	all, most := u.connections()
	if most != 1 {
		t.Errorf("the upstream had %d connections at a time, expected 1", most)
	}
	t.Logf("%d restarts in %v: %d upstream connections, %d responses for %d clients, %d gaps told, %d events skipped by them: %v",
		len(u.lives)-1, time.Since(began).Round(time.Second), all, c.count(func(r record) int { return r.heads }), len(c.all),
		c.count(func(r record) int { return len(r.gaps) }), c.count(func(r record) int { return r.skipped }), c.outcomes())
}

// moments draws n moments of a time, in order.
func moments(n int, window time.Duration) (all []time.Duration) {
	for range n {
		all = append(all, rand.N(window))
	}
	slices.Sort(all)
	return all
}

// Issue 4, acceptance 1: attempts to reach an upstream come one at a time, at random times that are further and further
// apart.
func TestReconnectDelays(t *testing.T) {
	deliverytest.Once(t) // it is about the upstream's side
	t.Parallel()
	const (
		streams  = 40
		attempts = 6 // of each
	)
	u := startPhoenix(t, 100*time.Millisecond, "-ids=all", "-retry=50ms")
	g := startGateway(t, route("/events/*", "", "reverse_proxy "+u.address))
	c := &crowd{t: t}
	for i := range streams {
		path := "/events/" + string(rune('A'+i))
		c.all = append(c.all, newEventSource(t, newTransport(), "client of "+path, http.MethodGet, g.url(path)))
	}
	c.until("an event", func(r record) bool { return r.events > 0 })
	u.crash()
	r := startRefuser(t, u.address)
	delays := r.await(t, streams, attempts)
	_ = r.listener.Close()
	r.running.Wait()
	u.restart()
	last := u.due() + 10
	c.until("events again", func(r record) bool { return r.newest >= last })
	c.assert(record.check, record.checkStayed, record.checkNoGap)

	if r.most != 1 {
		t.Errorf("%d attempts at a time for a stream, expected 1", r.most)
	}
	var means []time.Duration
	for _, ds := range delays {
		var sum time.Duration
		for _, d := range ds {
			sum += d
		}
		means = append(means, sum/streams)
	}
	t.Logf("the mean delays between attempts: %v", means)
	// What is doubled each time is 16 times as much after four times. A slow machine adds to each.
	if means[4] < 2*means[0] {
		t.Errorf("the delays do not grow: %v", means)
	}
	if spread := slices.Max(delays[4]) - slices.Min(delays[4]); spread < means[4]/2 {
		t.Errorf("the fifth delays are within %v of each other, with a mean of %v: no jitter", spread, means[4])
	}
}

// refuser is an address where each request is refused, after a moment. It tells requests apart by path.
type refuser struct {
	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex
	pending map[string]int
	most    int                    // at a time for a path
	began   map[string][]time.Time // attempts
	ended   map[string][]time.Time // attempts
	changed chan struct{}          // has an element after an attempt
}

func startRefuser(t *testing.T, address string) *refuser {
	t.Helper()
	r := &refuser{
		listener: listenAgain(t, address), pending: make(map[string]int), changed: make(chan struct{}, 1),
		began: make(map[string][]time.Time), ended: make(map[string][]time.Time),
	}
	r.running.Go(func() {
		for {
			conn, err := r.listener.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.refuse(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { _ = r.listener.Close() })
	return r
}

func (r *refuser) refuse(conn *net.TCPConn) {
	defer conn.Close()
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	path := request.URL.Path
	r.mu.Lock()
	r.pending[path]++
	r.most = max(r.most, r.pending[path])
	r.began[path] = append(r.began[path], time.Now())
	r.mu.Unlock()
	time.Sleep(20 * time.Millisecond) // for another attempt to be seen
	r.mu.Lock()
	r.pending[path]--
	r.ended[path] = append(r.ended[path], time.Now())
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
	_ = conn.SetLinger(0)
}

// await waits for so many attempts for each of n paths. It returns the delays between them: the first of each path, the
// second of each, and so on.
func (r *refuser) await(t *testing.T, n, attempts int) [][]time.Duration {
	t.Helper()
	timeout := time.After(testTimeout)
	for {
		r.mu.Lock()
		delays := make([][]time.Duration, attempts-1)
		for path, began := range r.began {
			if len(began) < attempts {
				continue
			}
			for i := range delays {
				delays[i] = append(delays[i], began[i+1].Sub(r.ended[path][i]))
			}
		}
		r.mu.Unlock()
		if len(delays[0]) == n {
			return delays
		}
		select {
		case <-r.changed:
		case <-timeout:
			t.Fatalf("%d of %d streams tried %d times", len(delays[0]), n, attempts)
		}
	}
}
