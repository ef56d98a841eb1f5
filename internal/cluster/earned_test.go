package cluster_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/cluster/bustest"
)

var (
	earnedSeed   = flag.Uint64("cluster.earned.seed", 1, "seed of TestSharingIsEarnedAcrossNodes; 0: a new one, as the weekly run has")
	earnedRuns   = flag.Int("cluster.earned.runs", 60, "random scenarios of it")
	earnedRunOne = flag.Int("cluster.earned.run", -1, "the one scenario to run, and to tell of; negative: all")
	earnedSteps  = flag.Int("cluster.earned.steps", 60, "what happens in each of them")
)

// style is what an application tells each connection alone. All have ids or none, as the
// scenario says.
type style int

const (
	tellsAll      style = iota // nothing
	sessionGreets              // a session, first; then events for all, and its own
	sessionInHead              // a session in the head; then the same
	sessionLate                // a session, half a second later; then the same
	sessionIsID                // a session, which is the ID of all its events
	ownEvents                  // no greeting; events of its own
	ownNumbers                 // the same, and ids that are counted for each
	styles
)

func (s style) String() string {
	return [...]string{"all", "session greets", "session in head", "session late", "session is id", "own events", "own numbers"}[s]
}

// greet is what a new connection is told at once. The application's lock is held.
func (a *app) greet(c *appConn) {
	session := fmt.Sprintf("event: session\ndata: session for %d\n\n", c.number)
	switch a.style {
	case sessionGreets:
		c.put(session)
	case sessionIsID:
		c.put(fmt.Sprintf("id: s%d\n", c.number) + session)
	case sessionLate:
		time.AfterFunc(500*time.Millisecond, func() { c.put(session) })
	}
}

// own is an event for one connection alone, "" if there is none with this number.
func (a *app) own(n int, c *appConn) string {
	data := fmt.Sprintf("data: %d for %d\n\n", n, c.number)
	switch a.style {
	case tellsAll:
		return ""
	case sessionIsID:
		return fmt.Sprintf("id: s%d\n", c.number) + data
	case ownNumbers:
		c.ids++
		return fmt.Sprintf("id: %d\n", c.ids) + data
	case ownEvents:
		return data
	}
	if n%3 > 0 {
		return ""
	}
	return data
}

// forAll reports whether the application has events that all connections are told.
func (s style) forAll() bool { return s < sessionIsID }

// turn is another version of the application: all connections to the one before break.
func (a *app) turn(to style) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.style = to
	for c := range a.conns {
		c.mu.Lock()
		c.broken, c.queue = true, nil // what is on its way is lost
		c.mu.Unlock()
		c.put("")
	}
}

// earnedRun is one scenario: an application of any kind, which may become another one at
// any time, and whatever happens to nodes and between them.
type earnedRun struct {
	*modelRun
	turns style
}

// TestSharingIsEarnedAcrossNodes: whatever happens to nodes, to what is between them, and to
// the application, no client is given what that has told another client's connection alone:
// an event, or a session in the head. It is TestSharingIsEarned of internal/stream, with
// nodes; which connection a client has is the gateways' affair.
func TestSharingIsEarnedAcrossNodes(t *testing.T) {
	seed := *earnedSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-cluster.earned.seed %d", seed)
	for i := range *earnedRuns {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		from, to := style(rnd.IntN(int(styles))), style(rnd.IntN(int(sessionLate)))
		if rnd.IntN(2) == 0 {
			from = tellsAll
		}
		ids, nodes := rnd.IntN(2) == 0, 2+rnd.IntN(2)
		if *earnedRunOne >= 0 && i != *earnedRunOne {
			continue
		}
		t.Run(fmt.Sprintf("%d/%v then %v, ids=%v", i, from, to, ids), func(t *testing.T) {
			inCluster(t, rnd.Uint64(), nodes, func(ct *clusterTest) {
				ct.options.Vouched, ct.options.Join = false, 0 // auto
				if ct.tells = *earnedRunOne >= 0; ct.tells {
					ct.app.log = ct.logf
				}
				ct.app.ids, ct.app.style, ct.privately = ids, from, true
				ct.app.slowness = []time.Duration{0, 20 * time.Millisecond, 300 * time.Millisecond}[rnd.IntN(3)]
			}, func(ct *clusterTest) {
				(&earnedRun{modelRun: &modelRun{clusterTest: ct, rand: rnd}, turns: to}).run()
			})
		})
	}
}

func (r *earnedRun) run() {
	pace := []time.Duration{20 * time.Millisecond, 300 * time.Millisecond, 2 * time.Second}[r.rand.IntN(3)]
	for i := range 3 + r.rand.IntN(4) {
		r.clients = append(r.clients, r.anyNode().join(fmt.Sprint("client ", i)))
	}
	turnsAt := r.rand.IntN(2 * *earnedSteps)
	for i := range *earnedSteps {
		if i == turnsAt {
			r.app.turn(r.turns)
		}
		if r.rand.IntN(8) == 0 {
			r.newcomers(1 + r.rand.IntN(3))
		} else {
			r.step()
		}
		if r.rand.IntN(3) > 0 {
			time.Sleep(time.Duration(r.rand.Int64N(int64(pace))))
		}
		r.checkOwn()
	}
	r.net.SetFaults(bustest.Faults{})
	r.net.Partition(nil)
	r.thaw()
	for range 30 {
		r.app.emit()
		time.Sleep(time.Second)
	}
	r.checkOwn()
}

// newcomers come at once, to one node, without an ID.
func (r *earnedRun) newcomers(n int) {
	g := r.anyNode()
	for range n {
		if len(r.clients) < 12 {
			r.clients = append(r.clients, g.join(fmt.Sprint("client ", len(r.clients))))
		}
	}
}

// checkOwn checks that what was for one connection alone has come to one client only.
func (r *earnedRun) checkOwn() {
	r.t.Helper()
	given := make(map[string]*client)
	for _, c := range r.clients {
		for _, event := range c.seen() {
			_, of, ok := strings.Cut(event, " for ")
			if !ok {
				continue
			}
			if other := given[of]; other != nil && other != c {
				r.t.Fatalf("%s was given %q, and connection %s is %s's\n%q\n%q", c.name, event, of, other.name, c.seen(), other.seen())
			}
			given[of] = c
		}
	}
}

// alone is a response that passes through a gateway: the client has a connection of its own.
func (c *client) alone(ctx context.Context, g *gateway) {
	a := g.source.app
	if !a.isReached(ctx) {
		return
	}
	conn, session := a.connect(c.lastID)
	defer a.disconnect(conn)
	a.alone.Add(1)
	defer a.alone.Add(-1)
	c.hasHead(session)
	if !a.ids && c.lastID != "" {
		c.add("gap") // the application does not know it
	}
	for !conn.hasEnded() && !conn.hasBroken() {
		for _, text := range conn.take() {
			c.take([]byte(text))
		}
		select {
		case <-conn.more:
		case <-ctx.Done():
			return
		}
	}
}

// hasHead takes note of a session in the head.
func (c *client) hasHead(session string) {
	if session != "" {
		c.add("head for " + session)
	}
}
