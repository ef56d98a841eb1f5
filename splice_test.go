package caddysse

import (
	"bytes"
	"context"
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
		select {
		case <-time.After(d):
			c.u.mu.Lock()
			defer c.u.mu.Unlock()
			do()
		case <-c.closed:
		}
	}()
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

func (s simSource) varies([]string) string { return "" }
func (s simSource) retired() bool          { return false }

func (s simSource) open(ctx context.Context, lastID string, conn *upstreamConn) ending {
	select {
	case <-time.After(s.delay):
	case <-ctx.Done():
		return ending{err: ctx.Err()}
	}
	c := s.u.connect(lastID, false)
	defer c.disconnect()
	conn.opened(&head{header: http.Header{}}, true)
	for {
		select {
		case b := <-c.out:
			if b == "" {
				return ending{events: true, clean: true}
			}
			if _, err := conn.Write([]byte(b)); err != nil {
				return ending{events: true, err: err}
			}
		case <-ctx.Done():
			return ending{events: true, err: ctx.Err()}
		}
	}
}

// simGateway is a hub in fake time.
type simGateway struct {
	t       *testing.T
	hub     *hub
	inst    *instance
	options *streamOptions
	source  source
	clients sync.WaitGroup
}

func newSimGateway(t *testing.T, u *sim, delay time.Duration, configure func(h *Handler)) *simGateway {
	t.Helper()
	h := new(Handler)
	if configure != nil {
		configure(h)
	}
	hub := newHub()
	return &simGateway{
		t: t, hub: hub, inst: hub.register("test", t), options: h.streamOptions(),
		source: simSource{u: u, delay: delay},
	}
}

// simClient collects what it is given.
type simClient struct {
	sub    *subscriber
	cancel context.CancelFunc

	mu    sync.Mutex
	bytes []byte
	end   endReason
	alone *simConn // it was sent to the upstream on its own
}

func (g *simGateway) join(id string) *simClient {
	g.t.Helper()
	sub, err := g.hub.join(&joinRequest{
		instance: g.inst, lastEventID: id, options: g.options, logger: zap.NewNop(),
		varies: func([]string) string { return "" },
		source: func(bool) source { return g.source },
	})
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &simClient{sub: sub, cancel: cancel}
	g.clients.Go(func() { c.read(ctx, g.source.(simSource).u, id) })
	return c
}

// read is the loop of deliver, with the sim in place of the handlers behind sse.
func (c *simClient) read(ctx context.Context, u *sim, id string) {
	defer c.sub.detach()
	for {
		chunks, wake, leaveAt, end := c.sub.next(nil, time.Now())
		c.take(chunks...)
		if end == endPerClient {
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
			c.take([]byte(b))
		case <-ctx.Done():
			return
		}
	}
}

func (c *simClient) take(chunks ...[]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, chunk := range chunks {
		c.bytes = append(c.bytes, chunk...)
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
	if n := len(g.hub.every()); n > 0 || len(g.hub.streams) > 0 {
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
	{name: "d ticker 1/s", upstream: ticker(time.Second, counted, 0), clients: 60, maxOpened: 19, compare: compareSequel},
	{name: "d ticker 100/s", upstream: ticker(10*time.Millisecond, counted, 0), clients: 60, maxOpened: 19, compare: compareSequel},
	{name: "d ticker 2000/s", upstream: ticker(500*time.Microsecond, counted, 0), clients: 60, during: 4 * time.Second, maxOpened: 19, compare: compareSequel},
	{
		name: "e replays its last 20 events", clients: 60, compare: compareAll,
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
		name: "f all events equal", clients: 60, compare: compareAll,
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
		if peak > 1+defaultSpliceLimit {
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
