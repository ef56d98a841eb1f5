package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/cluster/bustest"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// app is an application that tells all connections the same numbers, which count.
type app struct {
	ids      bool // it gives them as ids, too, and goes on after one
	apart    bool // it tells each connection which one it is, and does not mean the others
	mu       sync.Mutex
	count    int
	conns    map[*appConn]struct{}
	opened   int
	alone    atomic.Int64  // connections of clients that are not shared
	slowness time.Duration // before each head
	padding  string        // of lines, before each event
	log      func(format string, args ...any)
	style    style // what it tells each connection alone; see earned_test.go
}

type appConn struct {
	number int
	mu     sync.Mutex
	queue  []string
	ids    int // counted for it alone
	ended  bool
	broken bool
	more   chan struct{}
}

func (c *appConn) put(text string) {
	c.mu.Lock()
	c.queue = append(c.queue, text)
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
}

func (c *appConn) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.queue
	c.queue = nil
	return all
}

func (a *app) text(n int, c *appConn) string {
	switch {
	case a.apart:
		return fmt.Sprintf("data: %d for %d\n\n", n, c.number)
	case a.ids:
		return fmt.Sprintf("%sid: %d\ndata: %d\n\n", a.padding, n, n)
	}
	return fmt.Sprintf("data: %d\n\n", n)
}

// emit sends one more event to all connections.
func (a *app) emit() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count++
	for c := range a.conns {
		if c.hasBroken() {
			continue
		}
		if a.style.forAll() {
			c.put(a.text(a.count, c))
		}
		c.put(a.own(a.count, c))
	}
}

// finish ends all connections as HTTP says.
func (a *app) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.conns {
		c.mu.Lock()
		c.ended = true
		c.mu.Unlock()
		c.put("")
	}
}

func (c *appConn) hasEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

func (c *appConn) hasBroken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

// connections is how many there are.
func (a *app) connections() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.conns)
}

// connect accepts a connection. Its head may name a session.
func (a *app) connect(lastEventID string) (c *appConn, session string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.opened++
	if a.log != nil {
		a.log("connection %d, with %q", a.opened, lastEventID)
	}
	c = &appConn{number: a.opened, more: make(chan struct{}, 1)}
	a.greet(c)
	if a.style == sessionInHead {
		session = strconv.Itoa(c.number)
	}
	if after, err := strconv.Atoi(lastEventID); err == nil && a.ids && a.style.forAll() {
		for n := after + 1; n <= a.count; n++ {
			c.put(a.text(n, c))
		}
	}
	a.conns[c] = struct{}{}
	return c, session
}

func (a *app) disconnect(c *appConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.conns, c)
}

// source is the application as one node reaches it.
type source struct {
	*app
	running atomic.Int64
}

func (s *source) connections() int { return int(s.running.Load()) }

// isReached waits as long as the application takes, and returns false if nobody wants its answer any more. For no time it
// has no timer: where two goroutines of a bubble find one expired whose channel they are about to wait for, the race
// detector of Go 1.26 crashes.
func (a *app) isReached(ctx context.Context) bool {
	if a.slowness > 0 {
		select {
		case <-time.After(a.slowness):
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}

// Open implements stream.Source.
func (s *source) Open(ctx context.Context, lastEventID string, conn *upstreams.Conn) upstreams.Ending {
	s.running.Add(1)
	defer s.running.Add(-1)
	a := s.app
	if !a.isReached(ctx) {
		return upstreams.Ending{Err: ctx.Err()}
	}
	c, session := a.connect(lastEventID)
	defer a.disconnect(c)
	header := http.Header{"Content-Type": {"text/event-stream"}}
	if session != "" {
		header.Set("X-Session", session)
	}
	conn.Opened(&upstreams.Head{Header: header}, nil)
	for {
		for _, text := range c.take() {
			if _, err := conn.Write([]byte(text)); err != nil {
				return upstreams.Ending{Events: true, Err: err}
			}
		}
		if c.hasBroken() {
			return upstreams.Ending{Events: true, Status: http.StatusOK, Err: io.ErrUnexpectedEOF}
		}
		if c.hasEnded() {
			return upstreams.Ending{Events: true, Clean: true, Status: http.StatusOK}
		}
		select {
		case <-c.more:
		case <-ctx.Done():
			return upstreams.Ending{Events: true, Err: ctx.Err()}
		}
	}
}

// Retired and Renew implement stream.Source.
func (s *source) Retired() bool                   { return false }
func (s *source) Renew(any, *stream.Renewal) bool { return false }

// gateway is one node with its hub.
type gateway struct {
	test     *clusterTest
	name     string
	hub      *stream.Hub
	source   *source
	node     *cluster.Node
	instance *stream.Instance
	clients  []*client
	dead     bool
}

// clusterTest is some nodes in a bubble of fake time.
type clusterTest struct {
	t       *testing.T
	net     *bustest.Net
	app     *app
	options *stream.Options
	nodes   []*gateway
	named   int

	wrap func(cluster.Bus) cluster.Bus // what a node uses, which sees subjects as they are; nil: as it is

	privately bool // who is not given a shared stream has a connection of its own
	tells     bool // all that happens
}

// lossyBus is a node's bus that loses what a test names.
type lossyBus struct {
	cluster.Bus
	loses func(subject string) error // nil: it does not; ErrNobody: nobody is known to listen
	reply func(size int)             // is told of each, if it is not nil
}

// Publish implements cluster.Bus.
func (b lossyBus) Publish(subject string, message []byte) error {
	if b.loses(subject) == nil {
		return b.Bus.Publish(subject, message)
	}
	return nil
}

// Ask implements cluster.Bus.
func (b lossyBus) Ask(ctx context.Context, subject string, request []byte) ([]byte, error) {
	err := b.loses(subject)
	switch {
	case err == nil:
		reply, err := b.Bus.Ask(ctx, subject, request)
		if b.reply != nil {
			b.reply(len(reply))
		}
		return reply, err
	case !errors.Is(err, cluster.ErrNobody):
		<-ctx.Done()
		err = ctx.Err()
	}
	return nil, err
}

// loses lets all nodes to come lose what is named.
func (ct *clusterTest) loses(loses func(subject string) error) {
	ct.wrap = func(bus cluster.Bus) cluster.Bus { return lossyBus{Bus: bus, loses: loses} }
}

// inCluster runs a test in fake time, with so many nodes. When it ends everybody leaves.
func inCluster(t *testing.T, seed uint64, nodes int, set func(ct *clusterTest), test func(ct *clusterTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := stream.Defaults()
		o.Buffer = replay.Limits{Events: 1024, Size: 4 << 20, Age: 5 * time.Minute}
		o.Join, o.Vouched, o.GapEvent = stream.JoinLive, true, "gap"
		ct := &clusterTest{t: t, net: bustest.NewNet(seed), options: o, app: &app{ids: true, conns: make(map[*appConn]struct{})}}
		if set != nil {
			set(ct)
		}
		for range nodes {
			ct.add()
		}
		t.Cleanup(func() {
			for _, g := range ct.nodes {
				g.kill()
			}
			ct.net.Close()
		})
		time.Sleep(time.Second) // they hear of each other
		test(ct)
	})
}

func (ct *clusterTest) logf(format string, args ...any) {
	if ct.tells {
		ct.t.Logf("%s %s", time.Now().Format("04:05.000"), fmt.Sprintf(format, args...))
	}
}

// logger is where a node logs.
func (ct *clusterTest) logger(node string) *zap.Logger {
	if !ct.tells {
		return zap.NewNop()
	}
	encoder := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{MessageKey: "message"})
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(testLog{ct, node}), zap.DebugLevel))
}

// testLog takes lines of a node's log.
type testLog struct {
	test *clusterTest
	node string
}

func (l testLog) Write(line []byte) (int, error) {
	l.test.logf("%s: %s", l.node, bytes.TrimSpace(line))
	return len(line), nil
}

// add starts another node.
func (ct *clusterTest) add() *gateway {
	ct.t.Helper()
	ct.named++
	g := &gateway{test: ct, name: "node" + strconv.Itoa(ct.named), hub: stream.NewHub(), source: &source{app: ct.app}}
	bus := cluster.Sealed(ct.net.Add(g.name), []byte("secret"), zap.NewNop())
	if ct.wrap != nil {
		bus = ct.wrap(bus)
	}
	node, err := cluster.New(bus, ct.logger(g.name))
	if err != nil {
		ct.t.Fatal(err)
	}
	g.node = node
	g.hub.SetCluster(node)
	g.instance = g.hub.Register("place", "server")
	ct.nodes = append(ct.nodes, g)
	return g
}

// kill ends a node with all that it does, in no order.
func (g *gateway) kill() {
	if g.dead {
		return
	}
	g.dead = true
	g.test.net.Kill(g.name)
	for _, c := range g.clients {
		if c.at == g {
			c.cut()
		}
	}
	synctest.Wait()
	g.hub.EndAll()
	g.node.Close()
	synctest.Wait()
}

// client is a client as a browser is one: it comes back with its last event ID.
type client struct {
	t      *testing.T
	name   string
	at     *gateway
	stop   context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	lastID string
	comes  int      // how often it came
	events []string // with "gap" where it was told of one, and "live" where it began without an ID
}

// join lets a client come to a node, and come back when its response ends.
func (g *gateway) join(name string) *client {
	c := &client{t: g.test.t, name: name}
	c.moveTo(g)
	return c
}

// moveTo lets the client come to a node.
func (c *client) moveTo(g *gateway) {
	if c.at != nil {
		c.cut()
	}
	c.at = g
	g.clients = append(g.clients, c)
	ctx, cancel := context.WithCancel(context.Background())
	c.stop, c.done = cancel, make(chan struct{})
	done := c.done
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			c.run(ctx, g)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}()
	synctest.Wait()
}

// cut ends the client's connection.
func (c *client) cut() {
	c.stop()
	<-c.done
}

func (c *client) add(event string) {
	c.at.test.logf("%s: %s", c.name, event)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, event)
}

func (c *client) seen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.events...)
}

// run is one response.
func (c *client) run(ctx context.Context, g *gateway) {
	req := &stream.Request{
		Parts: []stream.Part{{Name: "path", Value: "/events"}}, Instance: g.instance, LastEventID: c.lastID, Options: g.test.options,
		Source: func(bool) stream.Source { return g.source }, Logger: g.test.logger(g.name),
	}
	c.comes++
	g.test.logf("%s comes to %s with %q", c.name, g.name, c.lastID)
	if c.share(ctx, g, req) == stream.EndPerClient && g.test.privately && ctx.Err() == nil {
		c.alone(ctx, g)
	}
}

// share is a response of a stream that is shared. It returns why that has ended, or cannot be.
func (c *client) share(ctx context.Context, g *gateway, req *stream.Request) stream.EndReason {
	sub, err := g.hub.Join(req)
	if errors.Is(err, stream.ErrUnshareable) {
		return stream.EndPerClient
	}
	if err != nil {
		return ""
	}
	defer sub.Leave()
	if again, left := sub.Origin.AwaitOpening(ctx, req, true); again || left || !sub.WaitForHead(ctx) {
		return ""
	}
	if why := sub.TurnedAway(); why != "" {
		return why
	}
	head, err := sub.Head()
	if err != nil {
		return stream.EndPerClient
	}
	if head.Header.Get("Content-Type") == "" {
		return ""
	}
	c.hasHead(head.Header.Get("X-Session"))
	switch outcome, _, _ := strings.Cut(sub.Outcome(), ";"); outcome {
	case stream.ResumeGap:
		c.add(anew)
	case stream.ResumeLive:
		c.add(outcome)
	}
	for {
		blocks, wake, leaveAt, end := sub.Next(nil, time.Now())
		for _, b := range blocks {
			c.take(b.Wire)
		}
		if end != "" {
			return end
		}
		if wake == nil {
			continue
		}
		var timer <-chan time.Time
		if !leaveAt.IsZero() && time.Until(leaveAt) <= 0 {
			c.t.Errorf("%s is to look again at %v, which is past", c.name, leaveAt)
			return ""
		}
		if !leaveAt.IsZero() {
			timer = time.After(time.Until(leaveAt))
		}
		select {
		case <-wake:
		case <-timer:
		case <-ctx.Done():
			return ""
		}
	}
}

// take reads blocks as a client does.
func (c *client) take(wire []byte) {
	for block := range bytes.SplitSeq(wire, []byte("\n\n")) {
		data, kind := "", ""
		for line := range strings.Lines(string(block)) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch name {
			case "id":
				c.lastID = value
			case "data":
				data = value
			case "event":
				kind = value
			}
		}
		switch {
		case data == "":
		case kind != "" && kind != "session":
			c.add(kind)
		default:
			c.add(data)
		}
	}
}

// expect checks what a client has seen.
func (c *client) expect(want ...string) {
	c.t.Helper()
	synctest.Wait()
	got := c.seen()
	if slices.Equal(got, want) {
		return
	}
	same := 0
	for same < min(len(got), len(want)) && got[same] == want[same] {
		same++
	}
	from := max(0, same-2)
	c.t.Fatalf("%s has seen, of %d, after %d, %q\nexpected, of %d, %q", c.name, len(got), from, got[from:min(len(got), same+10)], len(want), want[from:min(len(want), same+10)])
}

// emit lets the application send some events, one each 20 ms.
func (ct *clusterTest) emit(count int) {
	for range count {
		ct.app.emit()
		time.Sleep(20 * time.Millisecond)
	}
}

// expectConnections checks how many upstream connections there are.
func (ct *clusterTest) expectConnections(n int) {
	ct.t.Helper()
	synctest.Wait()
	if got := ct.app.connections(); got != n {
		ct.t.Fatalf("%d upstream connections, expected %d", got, n)
	}
}

// anew stands for the outcome gap: the client is told that it begins anew, maybe with what
// it has seen before (docs: resuming).
const anew = "anew"

// checkOrder checks that a client has seen nothing twice or out of order, and no gap that it
// was not told of.
func (c *client) checkOrder() error {
	last, told := 0, true
	for i, event := range c.seen() {
		n, err := strconv.Atoi(event)
		switch {
		case event == anew:
			last, told = 0, true
			continue
		case err != nil:
			told = true
			continue
		case n <= last:
			return fmt.Errorf("%s: %d after %d (%d of %q)", c.name, n, last, i, c.seen())
		case n != last+1 && !told:
			return fmt.Errorf("%s: %d after %d, and no gap was told (%d of %q)", c.name, n, last, i, c.seen())
		}
		last, told = n, false
	}
	return nil
}

// numbers are texts of numbers.
func numbers(from, to int) (texts []string) {
	for n := from; n <= to; n++ {
		texts = append(texts, strconv.Itoa(n))
	}
	return texts
}
