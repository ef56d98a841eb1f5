package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// sim is an upstream in fake time: it greets each connection and broadcasts to
// all of them.
type sim struct {
	greet func(c *simConn) // runs in a goroutine of its own while the connection lasts

	mu     sync.Mutex
	conns  map[*simConn]struct{}
	opened int // by the gateway
	open   int
	peak   int
}

func newSim() *sim { return &sim{conns: make(map[*simConn]struct{})} }

type simConn struct {
	u      *sim
	number int
	lastID string
	out    chan string
	closed chan struct{}
}

func (u *sim) connect(lastID string, direct bool) *simConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := &simConn{u: u, number: -1, lastID: lastID, out: make(chan string, 1<<16), closed: make(chan struct{})}
	if !direct {
		u.opened++
		u.open++
		u.peak = max(u.peak, u.open)
		c.number = u.opened
	}
	if u.greet == nil {
		u.conns[c] = struct{}{}
	} else {
		u.greet(c) // subscribes itself
	}
	return c
}

// subscribe lets a connection have the broadcasts from here on. The lock is held.
func (c *simConn) subscribe() { c.u.conns[c] = struct{}{} }

func (c *simConn) disconnect() {
	c.u.mu.Lock()
	defer c.u.mu.Unlock()
	delete(c.u.conns, c)
	if c.number > 0 {
		c.u.open--
	}
	close(c.closed)
}

// later does something after a time, unless the connection is closed by then.
func (c *simConn) later(d time.Duration, do func()) {
	go func() {
		if passes(d, c.closed) {
			c.u.mu.Lock()
			defer c.u.mu.Unlock()
			do()
		}
	}()
}

// passes waits for a time, and returns false if something is closed by then. For no time it has no timer: where two
// goroutines of a bubble find one expired whose channel they are about to wait for, the race detector of Go 1.26 crashes.
func passes(d time.Duration, over <-chan struct{}) bool {
	if d <= 0 {
		select {
		case <-over:
			return false
		default:
			return true
		}
	}
	select {
	case <-time.After(d):
		return true
	case <-over:
		return false
	}
}

func (u *sim) broadcast(block string) {
	u.broadcastOf(func() string { return block })
}

// broadcastOf makes and sends a block in one step.
func (u *sim) broadcastOf(of func() string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	block := of()
	for c := range u.conns {
		c.out <- block
	}
}

func (u *sim) current() (opened, open, peak int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.opened, u.open, u.peak
}

// simSource opens connections to a sim.
type simSource struct {
	u     *sim
	delay time.Duration // until the head
}

func (s simSource) Retired() bool { return false }

func (s simSource) Renew(any, *Renewal) bool { return false }

func (s simSource) Open(ctx context.Context, lastID string, conn *upstreams.Conn) upstreams.Ending {
	if !passes(s.delay, ctx.Done()) {
		return upstreams.Ending{Err: ctx.Err()}
	}
	c := s.u.connect(lastID, false)
	defer c.disconnect()
	conn.Opened(&upstreams.Head{Header: http.Header{}}, nil)
	for {
		select {
		case b := <-c.out:
			if b == "" {
				return upstreams.Ending{Events: true, Clean: true}
			}
			if _, err := conn.Write([]byte(b)); err != nil {
				return upstreams.Ending{Events: true, Err: err}
			}
		case <-ctx.Done():
			return upstreams.Ending{Events: true, Err: ctx.Err()}
		}
	}
}

// simGateway is a hub in fake time.
type simGateway struct {
	t       *testing.T
	hub     *Hub
	inst    *Instance
	options *Options
	source  Source
	clients sync.WaitGroup
}

func newSimGateway(t *testing.T, u *sim, delay time.Duration, configure func(o *Options)) *simGateway {
	t.Helper()
	options := testOptions()
	if configure != nil {
		configure(options)
	}
	hub := NewHub()
	return &simGateway{
		t: t, hub: hub, inst: hub.Register("test", t), options: options,
		source: simSource{u: u, delay: delay},
	}
}

// simClient collects what it is given.
type simClient struct {
	sub    *Subscriber
	cancel context.CancelFunc

	mu    sync.Mutex
	bytes []byte
	end   EndReason
	alone *simConn // it was sent to the upstream on its own
}

func (g *simGateway) join(id string) *simClient {
	g.t.Helper()
	sub, err := g.hub.Join(&Request{
		Instance: g.inst, LastEventID: id, Options: g.options, Logger: zap.NewNop(),
		Source: func(bool) Source { return g.source },
	})
	ctx, cancel := context.WithCancel(context.Background())
	c := &simClient{sub: sub, cancel: cancel}
	u := g.source.(simSource).u
	switch {
	case err == nil:
		g.clients.Go(func() { c.read(ctx, u, id) })
	case errors.Is(err, ErrUnshareable):
		g.clients.Go(func() { c.readAlone(ctx, u, id) })
	default:
		g.t.Fatal(err)
	}
	return c
}

// read is the loop of deliver, with the sim in place of the handlers behind sse.
func (c *simClient) read(ctx context.Context, u *sim, id string) {
	defer c.sub.Leave()
	for {
		chunks, wake, leaveAt, end := c.sub.Next(nil, time.Now())
		c.take(chunks...)
		if end == EndPerClient {
			c.readAlone(ctx, u, id)
			return
		}
		if end != "" {
			c.mu.Lock()
			c.end = end
			c.mu.Unlock()
			return
		}
		if wake == nil {
			continue
		}
		var timer <-chan time.Time
		if !leaveAt.IsZero() {
			timer = time.After(time.Until(leaveAt))
		}
		select {
		case <-wake:
		case <-timer:
		case <-ctx.Done():
			return
		}
	}
}

func (c *simClient) readAlone(ctx context.Context, u *sim, id string) {
	conn := u.connect(id, false)
	defer conn.disconnect()
	c.mu.Lock()
	c.alone = conn
	c.mu.Unlock()
	for {
		select {
		case b := <-conn.out:
			c.take(&replay.Block{Wire: []byte(b)})
		case <-ctx.Done():
			return
		}
	}
}

func (c *simClient) take(blocks ...*replay.Block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range blocks {
		c.bytes = append(c.bytes, b.Wire...)
	}
}

// events returns the data of what came so far, and the last event ID.
func (c *simClient) events() (data []string, lastID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return decode(c.bytes)
}

func decode(stream []byte) (data []string, lastID string) {
	r := eventstream.NewReader(bytes.NewReader(stream))
	for m, err := range r.Messages() {
		if err != nil {
			panic(err)
		}
		data = append(data, m.Data)
	}
	return data, r.LastEventID()
}

// close lets all clients leave and checks that nothing is left.
func (g *simGateway) close(clients ...*simClient) {
	g.t.Helper()
	for _, c := range clients {
		c.cancel()
	}
	g.clients.Wait()
	time.Sleep(time.Minute) // fake: linger passes
	g.hub.running.Wait()
	if n := len(g.hub.Every()); n > 0 || len(g.hub.streams) > 0 {
		g.t.Errorf("%d streams are left", n)
	}
}

// direct is a client of the sim itself.
type direct struct {
	conn *simConn
	data []byte
}

func (d *direct) events() []string {
	for {
		select {
		case b := <-d.conn.out:
			d.data = append(d.data, b...)
			continue
		default:
		}
		data, _ := decode(d.data)
		return data
	}
}

func event(id, data string) string {
	if id != "" {
		return "id: " + id + "\ndata: " + data + "\n\n"
	}
	return "data: " + data + "\n\n"
}

// fold applies what a client got: a snapshot replaces the state, a change adds
// to it.
func fold(events []string) string {
	state := map[string]string{}
	for _, e := range events {
		if rest, ok := strings.CutPrefix(e, "snapshot "); ok {
			state = map[string]string{}
			for pair := range strings.FieldsSeq(rest) {
				k, v, _ := strings.Cut(pair, "=")
				state[k] = v
			}
			continue
		}
		if k, v, ok := strings.Cut(e, "="); ok {
			state[k] = v
		}
	}
	return fmt.Sprint(state)
}

// sequel returns what a client got from its first event on that the direct
// client got too, and the same of the direct one.
func sequel(events, direct []string) (from, directFrom []string) {
	for i, e := range events {
		if j := slices.Index(direct, e); j >= 0 {
			return events[i:], direct[j:]
		}
	}
	return nil, direct
}

// scenario is one kind of upstream that clients join at random times.
type scenario struct {
	name      string
	upstream  func(t *testing.T, stop <-chan struct{}) (*sim, time.Duration)
	clients   int
	during    time.Duration // in which they join; 0: 30 s
	private   bool          // the upstream tells each connection its own
	maxOpened int           // upstream connections in all; 0: any number
	compare   func(t *testing.T, got, direct []string)
}

// state is a set of keys that change, each change broadcast.
type state struct {
	values map[string]string
	serial int
	ids    bool
}

func (s *state) change(u *sim) {
	u.broadcastOf(func() string {
		s.serial++
		k, v := "k"+strconv.Itoa(rand.IntN(5)), strconv.Itoa(s.serial)
		s.values[k] = v
		return event(s.id(), k+"="+v)
	})
}

func (s *state) id() string {
	if s.ids {
		return strconv.Itoa(s.serial)
	}
	return ""
}

func (s *state) snapshot() string {
	words := []string{"snapshot"}
	for _, k := range slices.Sorted(maps.Keys(s.values)) {
		words = append(words, k+"="+s.values[k])
	}
	return event(s.id(), strings.Join(words, " "))
}

// every calls do at an interval, with some jitter, until stop is closed.
func every(interval time.Duration, stop <-chan struct{}, do func()) {
	go func() {
		for {
			select {
			case <-time.After(interval/2 + time.Duration(rand.IntN(int(interval)))):
				do()
			case <-stop:
				return
			}
		}
	}()
}

func compareState(t *testing.T, got, direct []string) {
	t.Helper()
	if fold(got) != fold(direct) {
		t.Errorf("state %s, directly %s\n%q\n%q", fold(got), fold(direct), got, direct)
	}
	compareSequel(t, got, direct)
}

func compareSequel(t *testing.T, got, direct []string) {
	t.Helper()
	from, directFrom := sequel(got, direct)
	if !slices.Equal(from, directFrom) {
		t.Errorf("from the first common event on:\n%q, directly\n%q", from, directFrom)
	}
}

func compareAll(t *testing.T, got, direct []string) {
	t.Helper()
	if !slices.Equal(got, direct) {
		t.Errorf("%q, directly\n%q", got, direct)
	}
}

// compareCount is for events that are all the same: none is doubled, and none is
// missed by who has begun, which may have taken as long as a verdict takes.
func compareCount(t *testing.T, got, direct []string) {
	t.Helper()
	if n, m := len(got), len(direct); n > m || n < m-30 {
		t.Errorf("%d events, directly %d", n, m)
	}
}

func stateful(ids bool, interval, before time.Duration) func(*testing.T, <-chan struct{}) (*sim, time.Duration) {
	return func(_ *testing.T, stop <-chan struct{}) (*sim, time.Duration) {
		s := &state{values: map[string]string{}, ids: ids}
		u := newSim()
		u.greet = func(c *simConn) {
			if before == 0 {
				c.out <- s.snapshot()
				c.subscribe()
				return
			}
			c.later(before, func() {
				c.out <- s.snapshot()
				c.subscribe()
			})
		}
		every(interval, stop, func() { s.change(u) })
		return u, 0
	}
}

func ticker(interval time.Duration, text func(n int) string, delay time.Duration) func(*testing.T, <-chan struct{}) (*sim, time.Duration) {
	return func(_ *testing.T, stop <-chan struct{}) (*sim, time.Duration) {
		u := newSim()
		n := 0
		go func() {
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					n++
					u.broadcast(text(n))
				case <-stop:
					return
				}
			}
		}()
		return u, delay
	}
}

func counted(n int) string { return event("", "tick "+strconv.Itoa(n)) }

var scenarios = []scenario{
	{name: "a snapshot then changes with ids", upstream: stateful(true, 300*time.Millisecond, 0), clients: 60, compare: compareState},
	{name: "b snapshot then changes without ids", upstream: stateful(false, 300*time.Millisecond, 0), clients: 60, compare: compareState},
	{
		name: "c a greeting then nothing", clients: 60, compare: compareAll,
		upstream: func(*testing.T, <-chan struct{}) (*sim, time.Duration) {
			u := newSim()
			u.greet = func(c *simConn) {
				c.out <- event("", "hello")
				c.subscribe()
			}
			return u, 0
		},
	},
	{name: "d ticker 1/s", upstream: ticker(time.Second, counted, 0), clients: 60, compare: compareSequel},
	{name: "d ticker 100/s", upstream: ticker(10*time.Millisecond, counted, 0), clients: 60, compare: compareSequel},
	{name: "d ticker 2000/s", upstream: ticker(500*time.Microsecond, counted, 0), clients: 60, during: 4 * time.Second, compare: compareSequel},
	{
		name: "e replays its last 20 events", clients: 60, compare: compareSequel, // who waited is greeted later
		upstream: func(_ *testing.T, stop <-chan struct{}) (*sim, time.Duration) {
			var log []string
			u := newSim()
			u.greet = func(c *simConn) {
				for _, e := range log[max(0, len(log)-20):] {
					c.out <- e
				}
				c.subscribe()
			}
			every(400*time.Millisecond, stop, func() {
				u.broadcastOf(func() string {
					e := event(strconv.Itoa(len(log)+1), "event "+strconv.Itoa(len(log)+1))
					log = append(log, e)
					return e
				})
			})
			return u, 0
		},
	},
	{
		name: "f all events equal", clients: 60, compare: compareCount,
		upstream: ticker(100*time.Millisecond, func(int) string { return event("", "tick") }, 0),
	},
	{
		name: "g slow to answer", clients: 60, compare: compareSequel,
		upstream: ticker(700*time.Millisecond, counted, 2*time.Second),
	},
	{name: "h head at once snapshot later", upstream: stateful(true, 300*time.Millisecond, 3*time.Second), clients: 60, compare: compareState},
	{name: "i counters of each connection with ids", private: true, clients: 40, upstream: perConnection(func(c *simConn, n int) string {
		return event(strconv.Itoa(n), fmt.Sprintf("connection %d count %d", c.number, n))
	}, time.Second)},
	{name: "i counters of each connection without ids", private: true, clients: 40, upstream: perConnection(func(c *simConn, n int) string {
		return event("", fmt.Sprintf("connection %d count %d", c.number, n))
	}, time.Second)},
	{name: "i bare counters of each connection", private: true, clients: 40, upstream: perConnection(func(_ *simConn, n int) string {
		return event(strconv.Itoa(n), strconv.Itoa(n))
	}, time.Second)},
	{name: "j tokens", private: true, clients: 40, upstream: perConnection(func(c *simConn, n int) string {
		if rand.IntN(4) == 0 {
			return event("", fmt.Sprintf("connection %d token %d", c.number, n))
		}
		return event("", []string{"a", "the", " "}[rand.IntN(3)])
	}, 30*time.Millisecond)},
}

// perConnection is an upstream that sends each connection its own, as the
// setInterval of the common tutorial does.
func perConnection(text func(c *simConn, n int) string, interval time.Duration) func(*testing.T, <-chan struct{}) (*sim, time.Duration) {
	return func(*testing.T, <-chan struct{}) (*sim, time.Duration) {
		u := newSim()
		u.greet = func(c *simConn) {
			go func() {
				tick := time.NewTicker(interval)
				defer tick.Stop()
				for n := 0; ; n++ {
					select {
					case <-tick.C:
						c.out <- text(c, n)
					case <-c.closed:
						return
					}
				}
			}()
		}
		return u, 0
	}
}

func TestJoinAuto(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { sc.run(t) })
		})
	}
}

func (sc *scenario) run(t *testing.T) {
	t.Helper()
	stop := make(chan struct{})
	u, delay := sc.upstream(t, stop)
	g := newSimGateway(t, u, delay, nil)
	var clients []*simClient
	var directs []*direct
	during := sc.during
	if during == 0 {
		during = 30 * time.Second
	}
	mean := during / time.Duration(sc.clients)
	for range sc.clients {
		time.Sleep(time.Duration(rand.IntN(int(2 * mean))))
		clients = append(clients, g.join(""))
		if !sc.private {
			time.Sleep(delay) // a direct client waits for the head as well
			directs = append(directs, &direct{conn: u.connect("", true)})
		}
	}
	time.Sleep(during + during/3)
	close(stop)
	time.Sleep(10 * time.Second)
	synctest.Wait()

	opened, open, peak := u.current()
	t.Logf("upstream connections: %d opened, at most %d at once, %d now", opened, peak, open)
	if !sc.private {
		if open != 1 {
			t.Errorf("%d upstream connections at the end, expected 1", open)
		}
		if peak > maxConnections {
			t.Errorf("%d upstream connections at once", peak)
		}
		if sc.maxOpened > 0 && opened > sc.maxOpened {
			t.Errorf("%d upstream connections in all, expected at most %d", opened, sc.maxOpened)
		}
	}
	for i, c := range clients {
		got, _ := c.events()
		if len(got) == 0 {
			t.Errorf("client %d got nothing", i)
		}
		if sc.private {
			assertOneConnection(t, i, got)
		} else {
			sc.compare(t, got, directs[i].events())
		}
		if t.Failed() {
			t.Fatalf("client %d", i)
		}
	}
	for _, d := range directs {
		d.conn.disconnect()
	}
	g.close(clients...)
}

// assertOneConnection checks that a client saw the events of one connection
// only, and all of them in order.
func assertOneConnection(t *testing.T, client int, events []string) {
	t.Helper()
	connection, next := "", 0
	for _, e := range events {
		var number string
		if rest, ok := strings.CutPrefix(e, "connection "); ok {
			number, _, _ = strings.Cut(rest, " ")
		} else if n, err := strconv.Atoi(e); err == nil {
			if n != next {
				t.Errorf("client %d got count %d after %d", client, n, next-1)
			}
			next = n + 1
			continue
		} else {
			continue
		}
		if connection != "" && number != connection {
			t.Errorf("client %d got events of connections %s and %s", client, connection, number)
			return
		}
		connection = number
	}
}

// TestTickerJoins has 10,000 clients join one broadcast ticker, each for a few
// events. They share few splices.
func TestTickerJoins(t *testing.T) {
	for _, test := range []struct {
		interval, during time.Duration
		joins            int
	}{
		{time.Second, 30 * time.Second, 10_000},
		{10 * time.Millisecond, 30 * time.Second, 10_000},
		{500 * time.Microsecond, 2 * time.Second, 1000}, // more is too much for the race detector
	} {
		t.Run(fmt.Sprintf("%d per second", time.Second/test.interval), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := make(chan struct{})
				u, _ := ticker(test.interval, counted, 0)(t, stop)
				g := newSimGateway(t, u, 0, nil)
				stays := g.join("")
				var wg sync.WaitGroup
				for range test.joins {
					time.Sleep(time.Duration(rand.IntN(int(2*test.during) / test.joins)))
					c := g.join("")
					wg.Go(func() {
						c.stay(t, 3, max(2*test.interval, 20*time.Millisecond))
						c.cancel()
					})
				}
				wg.Wait()
				close(stop)
				time.Sleep(time.Second)
				synctest.Wait()
				opened, open, peak := u.current()
				t.Logf("upstream connections: %d opened, at most %d at once, %d now", opened, peak, open)
				if opened > 150 || peak > maxConnections || open != 1 {
					t.Errorf("%d upstream connections in all, %d now", opened, open)
				}
				if data, _ := stays.events(); len(data) == 0 || !slices.Equal(data, ticks(1, len(data))) {
					t.Errorf("the first client got %d events, not all in order", len(data))
				}
				g.close(stays)
			})
		})
	}
}

func ticks(from, to int) (data []string) {
	for i := from; i <= to; i++ {
		data = append(data, "tick "+strconv.Itoa(i))
	}
	return data
}

// stay waits until a client has n events and checks that they follow each other.
func (c *simClient) stay(t *testing.T, n int, poll time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(poll) {
		data, _ := c.events()
		if len(data) < n {
			continue
		}
		first, _ := strconv.Atoi(strings.TrimPrefix(data[0], "tick "))
		if !slices.Equal(data, ticks(first, first+len(data)-1)) {
			t.Errorf("given %q", data)
		}
		return
	}
	t.Error("no events")
}

// The tests from here on have an upstream that does what the test says.

func auto(sets ...func(o *Options)) func(o *Options) {
	return func(o *Options) {
		o.Join = joinAuto
		for _, set := range sets {
			set(o)
		}
	}
}

// begun starts a stream that has had an event: later clients need a splice.
func (st *streamTest) begun() (*reader, *fakeConn) {
	st.t.Helper()
	a, up := st.start()
	up.event("1")
	a.expect(newcomer, given("1", "1"))
	return a, up
}

// spliced joins a client that is served by a splice that sends hello.
func (st *streamTest) spliced(hello string) (*reader, *fakeConn) {
	st.t.Helper()
	r := st.join("")
	conn := st.source.acceptOpen()
	conn.event(hello)
	r.expect("id\n\n", lost(hello))
	return r, conn
}

// both has two upstream connections bring the same events.
func both(a, b *fakeConn, data ...string) {
	a.t.Helper()
	for _, d := range data {
		a.event(d)
		b.event(d)
	}
}

// goRound has upstream connections bring events that all look like others before:
// they show nothing of where a connection is.
func goRound(times int, conns ...*fakeConn) {
	for range times {
		for _, d := range []string{"round a", "round b"} {
			for _, c := range conns {
				c.event(d)
			}
		}
	}
}

// plain is lost for several.
func plain(data ...string) string {
	var text strings.Builder
	for _, d := range data {
		text.WriteString(lost(d))
	}
	return text.String()
}

// Without ids, a spliced client's last event ID is empty, and it gets one when
// it is merged. What the stream has beyond that point follows.
func TestSpliceMerge(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.begun()
		b, sp := st.spliced("hello")
		b.expectOutcome(ResumeLive)
		both(up, sp, "2", "3")
		b.expect(plain("2", "3"))
		sp.greeted()
		up.event("4", "5") // the splice is behind
		sp.expectGone(false)
		sp.event("4")
		sp.expectGone(true)
		b.expect(plain("4"), primed("sse1.E.4"), given("5", "5"))
		up.event("6")
		b.expect(given("6", "6"))
		a.expect(given("2", "2"), given("3", "3"), given("4", "4"), given("5", "5"), given("6", "6"))
		b.leave()
		c := st.join(b.id(5))
		c.expectOutcome("replayed; events=1")
		st.source.expectNone()
	})
}

// The splice may be ahead of the stream.
func TestSpliceAhead(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		_, up := st.begun()
		b, sp := st.spliced("hello")
		time.Sleep(time.Second / 2)
		sp.event("2", "3", "4")
		sp.greeted()
		up.event("2", "3")
		sp.expectGone(false)
		up.event("4")
		sp.expectGone(true)
		up.event("5")
		b.expect(plain("2", "3", "4"), primed("sse1.E.4"), given("5", "5"))
	})
}

// A quiet splice of a quiet stream is at the stream's head.
func TestSpliceQuiet(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		_, up := st.begun()
		time.Sleep(time.Minute)
		b, sp := st.spliced("hello")
		time.Sleep(time.Second - 1)
		sp.expectGone(false)
		time.Sleep(time.Nanosecond)
		sp.expectGone(true)
		b.expect(primed("sse1.E.1"))
		up.event("2")
		b.expect(given("2", "2"))
	})
}

// A stream that has waited for a client that does not read was not quiet meanwhile: what
// its splice has got already comes to it yet.
func TestSpliceNotQuietWhileHeldUp(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.Buffer.Events = 3 }), func(st *streamTest) {
		_, up := st.start() // its client reads nothing
		up.event("1", "2", "3")
		time.Sleep(time.Minute)
		b := st.join("")
		sp := st.source.acceptOpen()
		go up.sendAll("retry: 5\n\n")
		synctest.Wait()
		sp.event("4")
		got := b.read()
		time.Sleep(DefaultTurnPatience + splicePause/2)
		up.event("4")
		for _, data := range []string{"5", "6", "7"} {
			time.Sleep(200 * time.Millisecond)
			sp.event(data)
			up.event(data)
		}
		got += b.read()
		sp.expectGone(true)
		for _, data := range []string{"4", "5", "6", "7"} {
			if n := strings.Count(got, "data: "+data); n != 1 {
				st.t.Errorf("given event %s %d times: %q", data, n, got)
			}
		}
	})
}

// With ids, the event that both have is the point.
func TestSpliceByID(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.start()
		up.numbered("1", "2")
		a.expect(newcomer, numbered("1", "2"))
		time.Sleep(time.Minute)
		b := st.join("")
		sp := st.source.acceptOpen()
		// It carries the ID of the last change, but is none.
		if err := sp.send("id: 2\ndata: snapshot\n\n"); err != nil {
			st.t.Fatal(err)
		}
		sp.expectGone(false)
		up.numbered("3", "4")
		sp.numbered("3")
		sp.greeted()
		sp.expectGone(true)
		b.expect("id: 2\ndata: snapshot\n\n", numbered("3"), numbered("4"))

		// One that the stream does not know, and the upstream does.
		c := st.join("0")
		c.expectOutcome(ResumeSpliced)
		if sp = st.source.acceptOpen(); sp.lastEventID != "0" {
			st.t.Errorf("opened with %q", sp.lastEventID)
		}
		d := st.join("0") // shares it
		st.source.expectNone()
		sp.numbered("1")
		e := st.join("0") // and so does who comes later
		st.source.expectNone()
		sp.numbered("2", "3", "4", "5")
		up.numbered("5")
		sp.greeted()
		sp.expectGone(true)
		up.numbered("6")
		for _, r := range []*reader{c, d, e} {
			r.expect(numbered("1", "2", "3", "4", "5", "6"))
		}
		f := st.join("3")
		f.expectOutcome("replayed; events=3")
		st.source.expectNone()
	})
}

// The outcomes of clients that are not known to the stream, without ids.
func TestSpliceGap(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.GapEvent, o.Buffer.Events = "gap", 1 }), func(st *streamTest) {
		_, up := st.begun()
		up.event("2")
		foreign := replay.IDPrefix + strings.Repeat("a", 32) + ".7"
		b := st.join(foreign)
		b.expectOutcome(ResumeGap)
		b.expect(toldGap("epoch", foreign, "null")+"\n", "id\n\n")
		sp := st.source.acceptOpen()
		if sp.lastEventID != "" {
			st.t.Errorf("opened with %q: the ID is the gateway's", sp.lastEventID)
		}
		sp.event("hello")
		b.expect(plain("hello"))
		b.leave()
		sp.expectGone(true)
		c := st.join("unknown") // the upstream gives no ids: nobody can know it
		c.expectOutcome(ResumeGap)
		c.expect(toldGap("evicted", "unknown", "null")+"\n", "id\n\n")
		st.source.acceptOpen()
	})
}

// A client that is cut on a splice, when it had something, may miss what comes before it
// is back: it comes back with an ID that tells so, whether or not it was known by then that
// the clients may share.
func TestWhoIsCutOnASpliceIsToldAGap(t *testing.T) {
	for name, set := range map[string]func(o *Options){"proven": auto(func(o *Options) { o.GapEvent = "gap" }), "unproven": unproven()} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, set, func(st *streamTest) {
				_, up := st.begun()
				b, sp := st.second()
				sp.open()
				both(up, sp, "2")
				if _, id := decode([]byte(b.read())); id != nowhereID {
					t.Fatalf("last event ID %q", id)
				}
				id := lostID(b)
				b.leave()
				up.event("3") // which nobody gives it
				c := st.join(id)
				c.expectOutcome(ResumeGap)
				time.Sleep(proofDelay)
				st.source.acceptOpen()
				c.expect(toldGap("upstream", nowhereID, "null")+"\n", "id\n\n")
			})
		})
	}
}

// While nobody knows whether clients may share, one whose connection has another head than
// the stream has none of its IDs: who comes back with it is sent the stream's.
func TestSpliceWithAHeadOfItsOwnGivesNoIDs(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		st.join("")
		st.source.accept().openAs("a")
		b, sp := st.second()
		sp.openAs("b")
		time.Sleep(2 * time.Second)
		sp.event("1")
		if _, id := decode([]byte(b.read())); id != "" {
			t.Errorf("last event ID %q", id)
		}
	})
}

// A client that is cut while it is spliced has no ID of before, and a splice ends with the
// last of its clients.
func TestSpliceCut(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.begun()
		b := st.join(a.id(1))
		b.expectOutcome("replayed; events=0")
		sp0 := 0
		st.source.expectNone()
		b.leave()
		c, sp := st.spliced("hello")
		both(up, sp, "2")
		text := c.read()
		if _, id := decode([]byte("id: before\n\nid\n\n" + text)); id != nowhereID {
			st.t.Errorf("last event ID %q", id)
		}
		c.leave()
		sp.expectGone(true)
		if n := len(a.sub.stream.splices); n != sp0 {
			st.t.Errorf("%d splices are left", n)
		}
		d, sp := st.spliced("hello again")
		d.leave()
		sp.expectGone(true)
	})
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.start()
		up.numbered("1", "2")
		a.read()
		time.Sleep(time.Minute)
		b := st.join("")
		sp := st.source.acceptOpen()
		sp.numbered("1") // it replays, but the stream's is too old to be the same broadcast
		b.expect(numbered("1"))
		b.leave()
		c := st.join("1")
		c.expectOutcome("replayed; events=1")
		c.expect(primed("1"), numbered("2"))
	})
}

// Who finds no place waits with the head, until there is one.
func TestSpliceLimit(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.SpliceLimit = 2 }), func(st *streamTest) {
		_, up := st.begun()
		b, first := st.spliced("for b")
		c, second := st.spliced("for c")
		d := st.join("")
		e := st.join("")
		st.source.expectNone()
		d.expect()
		e.expect()
		both(up, first, "2", "3", "4")
		first.greeted()
		first.expectGone(true)
		b.expect(plain("2", "3", "4"), primed("sse1.E.4"))
		d.expect("id\n\n")
		e.expect("id\n\n") // shares it: it has brought nothing yet
		third := st.source.acceptOpen()
		third.event("for both")
		d.expect(plain("for both"))
		e.expect(plain("for both"))
		f := st.join("")
		f.expect()
		st.source.expectNone()
		second.expectGone(false)
		c.leave()
		second.expectGone(true)
		f.expect("id\n\n")
		st.source.acceptOpen()
	})
}

// A splice has its place until its connection is closed: who finds none waits for that.
func TestSpliceHasItsPlaceUntilItIsClosed(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(up, splice *fakeConn, of *reader)
	}{
		{"its client leaves", func(_, _ *fakeConn, of *reader) { of.leave() }},
		{"merged", func(up, splice *fakeConn, of *reader) {
			both(up, splice, "2", "3", "4")
			splice.greeted()
			of.read() // goes on in the stream
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, auto(func(o *Options) { o.SpliceLimit = 1 }), func(st *streamTest) {
				_, up := st.begun()
				st.source.deaf.Store(true)
				b, splice := st.spliced("for b")
				defer splice.breakOff()
				st.source.deaf.Store(false)
				c := st.join("")
				test.end(up, splice, b)
				time.Sleep(upstreams.ReturnTime - time.Millisecond)
				c.expect()
				st.source.expectNone()
				time.Sleep(time.Millisecond)
				c.expect("id\n\n")
				st.source.acceptOpen().event("for c")
				c.expect(plain("for c"))
			})
		})
	}
}

// Who waits goes on in the stream as soon as its ID is there.
func TestSpliceWaitForID(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.start()
		up.numbered("1", "2")
		a.read()
		up.breakOff()
		again := st.source.accept()
		b := st.join("4") // a client of another gateway, say
		b.expectOutcome(ResumeSpliced)
		b.expect()
		st.source.expectNone()
		again.open()
		again.numbered("3", "4", "5")
		b.expect(numbered("5"))
		st.source.expectNone()
	})
}

// Who has the ID that a splice was opened with does not share it any more when its
// first blocks are evicted, though a later block gave that ID, too.
func TestSpliceOfIDIsWholeOrNotShared(t *testing.T) {
	inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events = 2 }), func(st *streamTest) {
		_, up := st.start()
		up.numbered("7", "8", "9")
		b := st.join("6")
		sp := st.source.acceptOpen()
		for _, block := range []string{"id: 6\ndata: a\n\n", "data: b\n\n", "data: c\n\n"} {
			if err := sp.send(block); err != nil {
				t.Fatal(err)
			}
			b.expect(block)
		}
		c := st.join("6")
		c.expectOutcome(ResumeSpliced)
		c.expectEnd("")
		own := st.source.acceptOpen()
		if own.lastEventID != "6" {
			t.Errorf("opened with %q", own.lastEventID)
		}
		if err := own.send("id: 6\ndata: a\n\n"); err != nil {
			t.Fatal(err)
		}
		c.expect("id: 6\ndata: a\n\n")
	})
}

// Who comes with an ID while the stream is broken is sent its head; once there is
// a connection again, it is given what it has missed nevertheless.
func TestSpliceOfIDAfterBreak(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.Buffer.Events = 2 }), func(st *streamTest) {
		_, up := st.start()
		up.numbered("1", "2", "3", "4", "5")
		up.breakOff()
		again := st.source.accept()
		b := st.join("1") // not kept any more
		b.expectOutcome(ResumeSpliced)
		if !b.hasHead() {
			st.t.Error("the head is held while the stream has no connection")
		}
		again.open()
		b.expect()
		synctest.Wait()
		if len(st.source.conns) == 0 {
			again.numbered("6")
			st.t.Fatalf("nobody has asked for what comes after 1; given %q, end %q", b.read(), b.end)
		}
		sp := st.source.acceptOpen()
		if sp.lastEventID != "1" {
			st.t.Errorf("opened with %q", sp.lastEventID)
		}
		again.numbered("6")
		for _, id := range counting(2, 6) {
			sp.numbered(id)
			b.expect(numbered(id))
		}
		sp.greeted()
		sp.expectGone(true)
		b.expect(primed("6"))
	})
}

// Who waits for longer than splice_timeout goes upstream on its own.
func TestSpliceWaitTimeout(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.SpliceLimit = 1 }), func(st *streamTest) {
		_, up := st.begun()
		_, sp := st.spliced("hello")
		goRound(2, up)
		time.Sleep(time.Second / 2)
		c := st.join("")
		time.Sleep(time.Second / 2)
		d := st.join("")
		for i := range int(defaultSpliceTimeout / time.Second) {
			goRound(1, up, sp) // which does not show where the splice is
			if i == int(defaultSpliceTimeout/time.Second)-1 {
				c.expect("id\n\n") // has got the place
				st.source.acceptOpen().event("hello")
				goRound(1, up) // else it would be merged at the moment at which d has waited enough
			}
			d.expect()
			time.Sleep(time.Second)
		}
		d.expectEnd(EndPerClient)
	})
}

// A splice that is not merged within splice_timeout is private: its place is
// free, its breaks are not hidden, and it ends with its client.
func TestSpliceTimeout(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.SpliceLimit = 1 }), func(st *streamTest) {
		t := st.t
		const notMerged = "splice not merged: it is private now"
		a, up := st.begun()
		goRound(2, up)
		b, sp := st.spliced("hello")
		rounds := 0
		for time.Since(sp.at) < defaultSpliceTimeout-time.Second/2 {
			goRound(1, up, sp) // which does not show where the splice is
			time.Sleep(time.Second / 2)
			rounds++
		}
		goRound(1, up, sp)
		rounds++
		a.read()
		time.Sleep(time.Second/2 - 1)
		if n := st.logged(notMerged); n != 0 {
			t.Errorf("logged %d times before splice_timeout", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		sp.expectGone(false)
		if n := st.logged(notMerged); n != 1 {
			t.Errorf("logged %d times", n)
		}
		c, free := st.spliced("hello c")
		c.leave()
		free.expectGone(true)
		sp.event("own")
		b.expect(strings.Repeat(plain("round a", "round b"), rounds), "data: own\n\n")
		sp.breakOff()
		b.expectEnd(EndBroken)
		b.leave()
		st.source.expectNone()

		d, sp := st.spliced("hello d")
		for range int(defaultSpliceTimeout/(time.Second/2)) + 1 {
			goRound(1, up, sp)
			time.Sleep(time.Second / 2)
		}
		if n := st.logged(notMerged); n != 2 {
			t.Errorf("logged %d times", n)
		}
		sp.expectGone(false)
		d.leave()
		sp.expectGone(true)
		if a.read(); a.end != "" {
			t.Errorf("the stream's client ended: %s", a.end)
		}
	})
}

// A splice that does not get what the stream gets, though it had its time to be
// greeted, is private after a second: its place is free.
func TestSpliceWithoutTheStreamsEvents(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.SpliceLimit = 1 }), func(st *streamTest) {
		_, up := st.begun()
		b, sp := st.spliced("hello")
		up.event("2") // it may still be greeted with that
		sp.greeted()
		up.event("3")
		time.Sleep(twinWindow)
		waits := st.join("")
		waits.expect()
		st.source.expectNone()
		time.Sleep(2 * time.Millisecond)
		waits.expect("id\n\n")
		st.source.acceptOpen()
		sp.expectGone(false)
		sp.event("own")
		b.expect("data: own\n\n")
	})
}

// A splice that brings an event after its greeting that the stream does not
// get is private. After three of them the upstream is known to tell each
// connection its own, until it is renewed.
func TestSpliceOfItsOwn(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		t := st.t
		_, up := st.begun()
		for i := range enoughSplices {
			r, sp := st.spliced("hello")
			up.event("count of the stream " + strconv.Itoa(i))
			time.Sleep(splicePause)
			sp.event("count " + strconv.Itoa(i))
			time.Sleep(twinWindow + 2*time.Millisecond)
			sp.expectGone(false)
			r.expect(plain("count " + strconv.Itoa(i)))
		}
		if n := st.logs.FilterMessageSnippet("upstream seems to send each connection something different").Len(); n != 1 {
			t.Errorf("warned %d times", n)
		}
		b := st.join("")
		b.expectEnd(EndPerClient)
		st.source.expectNone()
		up.breakOff()
		up = st.source.acceptOpen()
		up.event("another connection")
		_, sp := st.spliced("hello")
		sp.expectGone(false)
	})
}

// However many splices brought nothing of their own, later clients are spliced
// nevertheless: an application may greet when there is something, or tell everybody
// who has come. They share a splice that has not brought its first block.
func TestSpliceNotLearnedNeedless(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		_, up := st.begun()
		for i := range 2 * enoughSplices {
			b := st.join("")
			sp := st.source.acceptOpen()
			c := st.join("")
			st.source.expectNone()
			n := strconv.Itoa(i)
			both(up, sp, n+"a")
			d := st.join("") // which has missed that
			own := st.source.acceptOpen()
			both(up, sp, n+"b", n+"c")
			sp.greeted()
			sp.expectGone(true)
			primed := primed("sse1.E." + strconv.Itoa(1+3*(i+1)))
			b.expect("id\n\n", plain(n+"a", n+"b", n+"c"), primed)
			c.expect("id\n\n", plain(n+"a", n+"b", n+"c"), primed)
			d.leave()
			own.expectGone(true)
			time.Sleep(time.Minute)
		}
		st.spliced("somebody has come")
	})
}

// A splice whose head is not to be shared is its first client's. Others get
// upstream connections of their own; the stream stays.
func TestSpliceNotShareable(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.begun()
		b := st.join("")
		c := st.join("")
		sp := st.source.accept()
		sp.events = true
		sp.run(func() { sp.conn.Opened(&upstreams.Head{Header: http.Header{}}, unshareable{}) })
		c.expectEnd(EndPerClient)
		c.leave()
		both(up, sp, "2", "3", "4")
		sp.expectGone(false)
		b.expect("id\n\n", "data: 2\n\n", "data: 3\n\n", "data: 4\n\n")
		time.Sleep(time.Minute)
		sp.expectGone(false)
		st.spliced("hello") // the stream may still be joined
		b.leave()
		sp.expectGone(true)
		a.expect(given("2", "2"), given("3", "3"), given("4", "4"))
	})
}

// A splice that the upstream refuses, or does not answer, ends at once: its client
// asks the upstream itself, and is given the answer. That says nothing of the next
// one.
func TestSpliceRefused(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusNoContent, http.StatusBadGateway, 0} {
		inBubble(t, auto(), func(st *streamTest) {
			a, up := st.begun()
			b := st.join("")
			c := st.join("") // shares it
			if b.hasHead() || c.hasHead() {
				st.t.Error("a head can be sent before the splice has one")
			}
			st.source.accept().answer(status, 0)
			if status == http.StatusBadGateway {
				if b.hasHead() || c.hasHead() {
					st.t.Error("the answer is not waited for: the stream may break as well")
				}
				time.Sleep(breakTime)
			}
			for _, r := range []*reader{b, c} {
				r.expectEnd(EndPerClient)
				r.leave()
			}
			time.Sleep(time.Minute)
			st.source.expectNone()
			up.event("2")
			a.expect(given("2", "2"))
			st.spliced("hello")
		})
	}
}

// An application that is restarted is not there for who comes at that moment, either:
// he waits for it with the others, whichever of the two connections is first to tell.
func TestSpliceMeetsARestart(t *testing.T) {
	for _, end := range []upstreams.Ending{{Status: http.StatusBadGateway}, {Status: http.StatusGatewayTimeout}, {Err: errReset}} {
		for _, streamFirst := range []bool{true, false} {
			inBubble(t, auto(), func(st *streamTest) {
				a, up := st.begun()
				b := st.join("")
				sp := st.source.accept()
				if streamFirst {
					up.breakOff()
				}
				sp.end <- end
				synctest.Wait()
				if !streamFirst {
					time.Sleep(breakTime - 1)
					up.breakOff()
				}
				if !b.hasHead() {
					st.t.Error("has no head to wait with")
				}
				b.expect("id\n\n")
				again := st.source.acceptOpen()
				again.event("2")
				a.expect(given("2", "2"))
				b.expect(primed("sse1.E.1"), given("2", "2"))
				if b.end != "" {
					st.t.Errorf("end %q", b.end)
				}
				st.source.expectNone()
			})
		}
	}
}

// An application that holds one stream only, or seems to: who comes joins at the
// newest event, and is told so.
func TestSpliceOfSingleStreamApplication(t *testing.T) {
	for _, status := range []int{http.StatusConflict, http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		inBubble(t, auto(), func(st *streamTest) {
			a, up := st.begun()
			b := st.join("")
			st.source.accept().answer(status, 0)
			if !b.hasHead() {
				st.t.Error("the head is held still")
			}
			b.expectOutcome("live; greeting=none")
			up.event("2")
			b.expect("id\n\n", primed("sse1.E.1"), given("2", "2"))
			a.expect(given("2", "2"))
			st.source.expectNone()
		})
		// One that has answered a splice before holds more than one.
		inBubble(t, auto(), func(st *streamTest) {
			st.begun()
			st.spliced("hello")
			b := st.join("")
			st.source.accept().answer(status, 0)
			b.expectEnd(EndPerClient)
		})
	}
	// It does not answer at all.
	inBubble(t, auto(), func(st *streamTest) {
		_, up := st.begun()
		b := st.join("")
		st.source.accept()
		time.Sleep(headPatience)
		c := st.join("") // does not join what hangs
		st.source.accept()
		time.Sleep(defaultSpliceTimeout)
		synctest.Wait()
		up.event("2")
		for _, r := range []*reader{b, c} {
			r.expectOutcome("live; greeting=none")
			r.expect("id\n\n", primed("sse1.E.1"), given("2", "2"))
		}
	})
}

// Nobody but the newcomer has the stream that keeps the application from answering
// it, because the client of that has left. So it is closed, and the application is
// asked again, when it has had the time to notice: to EventSource another refusal
// would be the end.
func TestSingleStreamApplicationIsAskedAgain(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		a, up := st.start()
		up.event("hello")
		time.Sleep(time.Minute)
		a.leave() // the page is loaded again
		b, sp := st.second()
		c := st.join("")
		sp.answer(http.StatusConflict, 0)
		up.expectGone(true)
		asked := time.Now()
		for _, r := range []*reader{b, c} {
			if !r.sub.WaitForHead(context.Background()) || r.sub.TurnedAway() != EndAskAgain {
				st.t.Errorf("turned away: %q", r.sub.TurnedAway())
			}
			if took := time.Since(asked); took != closeTime {
				st.t.Errorf("asks again after %v", took)
			}
			r.leave()
		}
		st.source.expectNone()
		d := st.join("")
		st.source.acceptOpen().event("hello")
		d.expect(newcomer, given("1", "hello"))
	})
}

// A client has not read all of its splice yet, which is merged: it has the stream, so
// that is not closed for a newcomer that the application refuses.
func TestWhoIsOnItsWayFromAMergedSpliceHasTheStream(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		a, up := st.start()
		b, sp := st.second()
		sp.open()
		time.Sleep(2 * splicePause)
		both(sp, up, "1")
		sp.expectGone(true)
		a.leave()
		c := st.join("")
		st.source.accept().answer(http.StatusConflict, 0)
		c.expectEnd(EndPerClient)
		up.expectGone(false)
		up.event("5")
		if text := b.read(); !strings.Contains(text, "data: 5\n") {
			st.t.Errorf("read %q", text)
		}
	})
}

// Who joins at the newest event, because its splice was refused, is told what it has
// missed, if it has.
func TestRefusedSpliceTellsWhatIsMissed(t *testing.T) {
	inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events = 5 }), func(st *streamTest) {
		_, up := st.start()
		up.numbered(counting(1, 30)...)
		b := st.join("20")
		st.source.accept().answer(http.StatusServiceUnavailable, 0)
		b.expectOutcome(ResumeGap)
		b.expect(toldGap(GapUpstream, "20", "null")+"\n", primed("30"))
		up.numbered("31")
		b.expect(numbered("31"))
	})
}

// While the stream is broken, splices go on; they are merged afterwards.
func TestSpliceParentBreaks(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.GapEvent = "gap" }), func(st *streamTest) {
		a, up := st.begun()
		b, sp := st.spliced("hello")
		up.breakOff()
		sp.event("2", "3", "4") // the stream misses these
		b.expect(plain("2", "3", "4"))
		up = st.source.acceptOpen()
		sp.expectGone(false)
		a.expect(toldGap("upstream", "sse1.E.1", "null") + "id: sse1.E.2\n\n")
		time.Sleep(splicePause / 2)
		both(up, sp, "5", "6")
		time.Sleep(splicePause / 2)
		sp.expectGone(false)
		both(up, sp, "7")
		sp.expectGone(true)
		b.expect(plain("5", "6", "7"), primed("sse1.E.5")) // it has missed nothing: nothing is told
		up.event("8")
		b.expect(given("6", "8"))
	})
}

// When the stream ends, a splice goes on as long as its own connection does.
func TestSpliceParentEnds(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.begun()
		b, sp := st.spliced("hello")
		up.close()
		a.expectEnd(EndUpstream)
		a.leave()
		sp.event("2")
		b.expect(plain("2"))
		time.Sleep(2 * time.Minute)
		sp.event("3")
		b.expect(plain("3"))
		c := st.join("") // another life
		next := st.source.acceptOpen()
		next.event("4")
		c.expect(newcomer, given("1", "4"))
		sp.event("4")
		b.expect(plain("4"))
		sp.close()
		b.expectEnd(EndUpstream, primed(strings.Replace(lostID(b), b.sub.stream.epoch, "E", 1)))
		b.leave()
		next.event("5")
		c.expect(given("2", "5"))
	})
	// It ends between merge and delivery.
	inBubble(t, auto(), func(st *streamTest) {
		_, up := st.begun()
		b, sp := st.spliced("hello")
		both(up, sp, "2", "3", "4")
		sp.greeted()
		sp.expectGone(true)
		up.event("5")
		if err := up.send("data: rest"); err != nil {
			st.t.Fatal(err)
		}
		up.close()
		b.expectEnd(EndUpstream, plain("2", "3", "4"), primed("sse1.E.4"), given("5", "5"), "data: rest")
	})
}

// A newer configuration takes over the stream while splices run: they go on,
// and new ones are opened with it.
func TestSpliceReload(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.begun()
		b, sp := st.spliced("hello")
		old := st.reload()
		successor := st.source.acceptOpen()
		successor.event("hello from the new")
		c, young := st.spliced("hello from the new")
		old.expectNone()
		time.Sleep(splicePause / 2)
		both(up, sp, "2", "3", "4")
		sp.greeted()
		sp.expectGone(true)
		b.expect(plain("2", "3", "4"), primed("sse1.E.4"))
		successor.event("2", "3", "4")
		up.expectGone(true)
		young.event("3", "4") // is behind, and opened after 2
		young.expectGone(false)
		both(successor, young, "5")
		young.expectGone(true)
		c.expect(plain("3", "4", "5"), primed("sse1.E.5"))
		a.expect(given("2", "2"), given("3", "3"), given("4", "4"), given("5", "5"))
		st.expectStreams(1)
	})
}

// A spliced client that is slow slows its splice, so that it is given all. In
// the stream, then, it lags as others do.
func TestSpliceSlow(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.Buffer.Events = 3 }), testSpliceSlow)
	set := func(o *Options) { o.GapEvent, o.Buffer.Events, o.LagSkip = "gap", 3, true }
	inBubble(t, auto(set), func(st *streamTest) {
		_, up := st.begun()
		b, sp := st.spliced("hello")
		both(up, sp, "2", "3", "4")
		sp.greeted()
		sp.expectGone(true)
		up.event("5", "6", "7", "8", "9") // it was merged after 4, and is behind
		b.expect(plain("2", "3", "4"), primed("sse1.E.4"), toldGap("lag", "sse1.E.4", "2")+"\n", given("7", "7"), given("8", "8"), given("9", "9"))
	})
}

func testSpliceSlow(st *streamTest) {
	t := st.t
	t.Helper()
	st.begun()
	b, sp := st.spliced("hello")
	go sp.event("2", "3", "4 is longer than the others", "5", "6", "7", "8", "9")
	var text strings.Builder
	for range 20 {
		text.WriteString(b.read())
		time.Sleep(time.Millisecond)
	}
	if got, want := text.String(), plain("2", "3", "4 is longer than the others", "5", "6", "7", "8", "9"); got != want || b.end != "" {
		t.Errorf("given %q, end %q", got, b.end)
	}
}

// deafSource opens with a head although the context is done by then.
type deafSource struct{ release chan struct{} }

func (deafSource) Retired() bool { return false }

func (deafSource) Renew(any, *Renewal) bool { return false }

func (d deafSource) Open(ctx context.Context, _ string, conn *upstreams.Conn) upstreams.Ending {
	<-d.release
	conn.Opened(&upstreams.Head{Header: http.Header{}}, nil)
	<-ctx.Done()
	return upstreams.Ending{Events: true, Err: ctx.Err()}
}

// A splice whose head comes when its only client has left.
func TestSpliceThatIsOverTeachesNothing(t *testing.T) {
	inBubble(t, func(o *Options) { o.Join = joinAuto }, func(st *streamTest) {
		_, up := st.start()
		up.event("1")
		s := st.readers[0].sub.Origin
		for range 3 {
			time.Sleep(2 * time.Second)
			d := deafSource{make(chan struct{})}
			s.mu.Lock()
			old := s.source
			s.source = d
			s.mu.Unlock()
			b := st.join("")
			b.read() // opens a splice
			sp := b.sub.stream
			if sp == s {
				st.t.Fatal("no splice")
			}
			b.leave()
			close(d.release)
			synctest.Wait()
			time.Sleep(2 * time.Second)
			s.mu.Lock()
			s.source = old
			if sp.phase != phaseGone {
				st.t.Errorf("the splice is in phase %d after its end", sp.phase)
			}
			s.mu.Unlock()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.learned != (learned{}) || s.spliced {
			st.t.Errorf("learnt from splices that were over: %+v", s.learned)
		}
	})
}

// Waiting clients while the upstream is away for longer than splice_timeout.
func TestWhoWaitsIsNotSentToABrokenUpstream(t *testing.T) {
	inBubble(t, func(o *Options) { o.Join = joinAuto; o.GiveUp = time.Hour }, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		a.read()
		up.breakOff()
		go func() {
			for c := range st.source.conns {
				c.end <- upstreams.Ending{Status: 502}
			}
		}()
		b := st.join("")
		b.read()
		time.Sleep(defaultSpliceTimeout + time.Second)
		b.read()
		if b.end == EndPerClient {
			st.t.Error("sent to the failing upstream on its own")
		}
		for _, r := range st.readers {
			r.leave()
		}
		st.hub.EndAll()
		st.hub.running.Wait()
		close(st.source.conns)
	})
}

// A splice that breaks, and comes back with a head that may not be shared.
func TestSpliceThatComesBackPrivateIsNotRepeated(t *testing.T) {
	inBubble(t, func(o *Options) { o.Join = joinAuto }, func(st *streamTest) {
		_, up := st.start()
		up.numbered("10")
		b, c := st.join("3"), st.join("3")
		b.read()
		c.read()
		sp := st.source.acceptOpen()
		sp.numbered("4", "5")
		b.read()
		if got := c.read(); !strings.Contains(got, "data: 5") {
			st.t.Fatalf("%q", got)
		}
		sp.breakOff()
		sp = st.source.accept()
		sp.events = true
		sp.run(func() { sp.conn.Opened(&upstreams.Head{Header: http.Header{}}, unshareable{}) })
		c.read()
		b.read()
		if c.end == EndPerClient || b.end == EndPerClient {
			st.t.Error("goes upstream again with Last-Event-ID 3, after it was given 4 and 5")
		}
	})
}

// compacted: the greeting is the last change of each key, as it was broadcast.
func TestGreetingOfLastChangesIsGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newSim()
		last := map[string]string{}
		u.greet = func(c *simConn) {
			for _, k := range []string{"k1", "k2", "k3"} {
				if last[k] != "" {
					c.out <- last[k]
				}
			}
			c.subscribe()
		}
		g := newSimGateway(t, u, 0, nil)
		a := g.join("")
		time.Sleep(time.Second)
		for i, k := range []string{"k3", "k2", "k1"} {
			u.broadcastOf(func() string {
				last[k] = event(strconv.Itoa(i+1), k+"="+strconv.Itoa(i))
				return last[k]
			})
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		b := g.join("")
		time.Sleep(5 * time.Second)
		got, _ := b.events()
		if strings.Join(got, " ") != "k1=2 k2=1 k3=0" {
			t.Errorf("was given %q, a direct client gets k1=2 k2=1 k3=0", got)
		}
		g.close(a, b)
	})
}

// retained: the greeting is the last event.
func TestGreetingOfTheLastEventIsGiven(t *testing.T) {
	for _, ids := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			u := newSim()
			var last string
			u.greet = func(c *simConn) {
				if last != "" {
					c.out <- last
				}
				c.subscribe()
			}
			g := newSimGateway(t, u, 0, nil)
			clients := []*simClient{g.join("")}
			n := 0
			tick := func() {
				u.broadcastOf(func() string {
					n++
					id := ""
					if ids {
						id = strconv.Itoa(n)
					}
					last = event(id, "v"+strconv.Itoa(n))
					return last
				})
			}
			for i := range 60 {
				time.Sleep(500 * time.Millisecond)
				tick()
				if i%10 == 5 {
					time.Sleep(100 * time.Millisecond)
					clients = append(clients, g.join(""))
				}
			}
			time.Sleep(time.Minute)
			b := g.join("")
			time.Sleep(5 * time.Second)
			if got, _ := b.events(); len(got) != 1 {
				t.Errorf("ids %v: was given %q, a direct client gets the last value", ids, got)
			}
			g.close(append(clients, b)...)
		})
	}
}

// Splices that bring nothing at all.
func TestGreetingThatWasEmptyBeforeIsGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newSim()
		alert := ""
		u.greet = func(c *simConn) {
			if alert != "" {
				c.out <- alert
			}
			c.subscribe()
		}
		g := newSimGateway(t, u, 0, nil)
		clients := []*simClient{g.join("")}
		time.Sleep(time.Second)
		u.broadcast(event("1", "hello all"))
		for range 3 {
			time.Sleep(10 * time.Second)
			clients = append(clients, g.join(""))
		}
		time.Sleep(10 * time.Second)
		u.broadcastOf(func() string { alert = event("2", "alert on"); return alert })
		time.Sleep(10 * time.Second)
		b := g.join("")
		time.Sleep(5 * time.Second)
		if got, _ := b.events(); len(got) != 1 {
			t.Errorf("was given %q, a direct client gets the alert", got)
		}
		g.close(append(clients, b)...)
	})
}

// While the stream has no connection, and just after, its silence says nothing:
// what the splice has brought meanwhile is still to come there.
func TestSpliceQuietAfterBreak(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		time.Sleep(time.Minute)
		b := st.join("")
		sp := st.source.acceptOpen()
		up.breakOff()
		sp.numbered("2", "3")
		again := st.source.accept()
		time.Sleep(5 * time.Second)
		again.open()
		sp.expectGone(false)
		again.numbered("2", "3")
		synctest.Wait()
		if sp.ctx.Err() == nil {
			sp.numbered("4")
		}
		again.numbered("4")
		sp.expectGone(true)
		if got, _ := decode([]byte(b.read())); !slices.Equal(got, []string{"2", "3", "4"}) {
			st.t.Errorf("given %q", got)
		}
		a.expect(newcomer, numbered("1", "2", "3", "4"))
	})
}

// A greeting that comes beside events is no broadcast, also shortly after a
// renewal: the gap event that is told there is not the upstream's.
func TestSpliceGreetingAfterRenewal(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.GapEvent = "gap" }), func(st *streamTest) {
		_, up := st.begun()
		up.breakOff()
		up = st.source.acceptOpen()
		up.event("hello")
		for i := range enoughSplices {
			_, sp := st.spliced("hello")
			n := strconv.Itoa(i)
			both(up, sp, n+"a", n+"b")
			if i > 0 { // else the greetings are neighbours too
				both(up, sp, n+"c")
			}
			sp.greeted()
			sp.expectGone(true)
		}
		st.spliced("hello")
	})
}

// Who waits for a place when the stream ends is let go, also if it looks only
// after the stream has gone on.
func TestSpliceWaitParentEnds(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		up.breakOff()
		up = st.source.accept()
		b := st.join("")
		slow := st.join("")
		for _, r := range []*reader{b, slow} {
			if !r.hasHead() {
				st.t.Error("the head is held while the stream has no connection")
			}
		}
		b.expect()
		up.events = true
		up.open()
		a.read()
		up.close()
		a.leave()
		b.expectEnd(EndUpstream, primed("1"))
		st.join("1")
		st.source.acceptOpen()
		slow.expectEnd(EndUpstream, primed("1"))
		st.source.expectNone()
	})
}
