package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// appKind is a kind of application, by what it tells its connections.
type appKind int

const (
	tellsAll        appKind = iota // all the same events
	tellsHello                     // a greeting that is always the same, then that
	tellsState                     // a snapshot of its state, then that
	tellsStateLate                 // a snapshot, after the first events
	tellsStateIfAny                // a snapshot, unless there is nothing
	tellsArrivals                  // it tells all when one connects
	tellsRarely                    // all the same, but not often
	tellsLast                      // its last events, then all the same
	tellsTicks                     // all the same, and each time the same
	countsForEach                  // all the same, with ids that are counted for each connection

	namesEach       // first an ID of the connection, which is that of all its events, all its own
	namesEachLate   // an ID of the connection, a little later, and events for all
	sessionForEach  // first a session, then events for all, and some for each
	sessionInHead   // a session in the head, then events for all, and some for each
	numbersForEach  // events of its own for each, with ids that are counted for each connection
	silentForEach   // no greeting, and events of its own for each
	answersEach     // an answer of its own for each, that begins as all do, and ends
	endpointForEach // the older MCP transport
	appKinds
)

func (k appKind) String() string {
	return [...]string{
		"tells all", "tells hello", "tells its state", "tells its state late", "tells its state if there is any",
		"tells who comes", "tells rarely", "tells the last events", "ticks", "counts for each",
		"names each", "names each late", "a session for each", "a session in the head", "numbers for each",
		"silent, for each its own", "answers each", "an endpoint for each",
	}[k]
}

// perConnection reports whether the application tells each connection its own.
func (k appKind) perConnection() bool { return k >= namesEach }

// common reports whether it tells all connections the same events too.
func (k appKind) common() bool {
	return k < namesEach && k != tellsTicks || k == namesEachLate || k == sessionForEach || k == sessionInHead
}

// countsIDs reports whether the ids are counted for each connection.
func (k appKind) countsIDs() bool { return k == countsForEach || k == numbersForEach }

func (k appKind) hasState() bool { return k >= tellsState && k <= tellsStateIfAny }

// hasStateIDs reports whether a snapshot and an event have the same ID: then a
// client is given what has that ID at least once.
func (a appStyle) hasStateIDs() bool { return a.ids && a.kind.hasState() }

// repeats reports whether it gives who comes back what that client has had.
func (a appStyle) repeats() bool { return a.kind == tellsLast && !a.resumes }

// mixesIDs reports whether events of its own have the same ID as those before
// them: then a client is given what has that ID at least once.
func (a appStyle) mixesIDs() bool {
	return a.kind == namesEach || a.ids && a.kind.perConnection() && a.kind.common()
}

// appStyle is one application.
type appStyle struct {
	kind       appKind
	ids        bool // its events for all have ids
	resumes    bool // it goes on after them
	last       int  // with tellsLast: how many events
	prelude    string
	headAfter  time.Duration // at most
	greetAfter time.Duration
	latency    time.Duration // at most
}

func (a appStyle) String() string {
	return fmt.Sprintf("%v, ids %v, resumes %v, last %d, prelude %q, head after %v, greeting after %v, latency %v",
		a.kind, a.ids, a.resumes, a.last, a.prelude, a.headAfter, a.greetAfter, a.latency)
}

func newAppStyle(rnd *rand.Rand) appStyle {
	a := appStyle{kind: appKind(rnd.IntN(int(appKinds)))}
	a.ids = rnd.IntN(2) == 0 && a.kind != tellsTicks
	a.resumes = a.ids && rnd.IntN(2) == 0 && a.kind.common() && a.kind != countsForEach
	a.last = 1 + rnd.IntN(5)
	a.prelude = []string{"", "", "retry: 2000\n\n", ": hello\n\n", "retry: 2000\n: hello\n\n"}[rnd.IntN(5)]
	a.headAfter = []time.Duration{0, 0, 20 * time.Millisecond, 6 * time.Second}[rnd.IntN(4)]
	a.latency = []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond}[rnd.IntN(3)]
	switch a.kind {
	case tellsStateLate, namesEachLate:
		a.greetAfter = []time.Duration{50 * time.Millisecond, 300 * time.Millisecond, 800 * time.Millisecond}[rnd.IntN(3)]
	case countsForEach, numbersForEach:
		a.ids = true
	default:
	}
	return a
}

// interval is how far apart its events are, on average; 0: there are none.
func (a appStyle) interval(rnd *rand.Rand) time.Duration {
	switch a.kind {
	case tellsRarely:
		return []time.Duration{0, 20 * time.Second}[rnd.IntN(2)]
	case tellsTicks:
		return time.Duration(1+rnd.IntN(3)) * time.Second
	case answersEach:
		return 0
	}
	return []time.Duration{5 * time.Millisecond, 100 * time.Millisecond, time.Second, 8 * time.Second}[rnd.IntN(4)]
}

// calmEvents is how many events it has in the calm.
func (a appStyle) calmEvents(rnd *rand.Rand) int {
	switch a.kind {
	case tellsRarely:
		return rnd.IntN(3)
	case answersEach:
		return 0
	}
	return 12
}

// made is an event for all.
type made struct {
	at   time.Time
	text string // less its id
}

// appConn is one connection to the application.
type appConn struct {
	w       *earnedWorld
	number  int
	rnd     *rand.Rand
	to      appPeer
	born    time.Time
	open    bool // has a head, and has not ended
	over    bool
	queue   []message
	due     time.Time // of the newest in it
	wake    chan struct{}
	end     chan upstreams.Ending
	ids     int  // given to it, where each has its own count
	own     int  // events of its own that were made for it
	taken   int  // of these, those that the other side took
	givenTo *tab // who was given any of them, or the session in the head
}

type message struct {
	due  time.Time
	told time.Time // when what it tells was made
	text string
	own  bool
	last bool // the answer ends after it
}

// appPeer is the other side of a connection to the application.
type appPeer interface {
	opened(header http.Header)
	refused(status int)
	take(text string) error
	life() any // of which stream it is
}

// name is an ID of the connection.
func (c *appConn) name() string { return "c" + strconv.Itoa(c.number) }

// serve runs one connection.
func (w *earnedWorld) serve(ctx context.Context, lastID string, to appPeer) upstreams.Ending {
	w.mu.Lock()
	c := &appConn{
		w: w, number: len(w.conns), to: to, born: time.Now(), wake: make(chan struct{}, 1), end: make(chan upstreams.Ending, 1),
	}
	c.rnd = rand.New(rand.NewPCG(w.sc.seed^w.sc.number, uint64(c.number)))
	var f fate
	if c.number < len(w.sc.fates) && !w.calm {
		f = w.sc.fates[c.number]
	}
	w.conns = append(w.conns, c)
	w.counts.Conns++
	w.logf("connection %d is asked for, with %q, by %v; %v", c.number, lastID, to, f)
	head := w.sc.app.headAfter
	if head > 0 {
		head = time.Duration(c.rnd.Int64N(int64(head)))
	}
	w.mu.Unlock()
	end := c.run(ctx, lastID, f, head)
	w.mu.Lock()
	defer w.mu.Unlock()
	c.open, c.over = false, true
	w.logf("connection %d is over: %+v", c.number, end)
	return end
}

func (c *appConn) run(ctx context.Context, lastID string, f fate, head time.Duration) upstreams.Ending {
	w := c.w
	if wait := f.hangs + head; wait > 0 {
		select {
		case <-ctx.Done():
			return upstreams.Ending{Err: ctx.Err()}
		case <-w.calmed: // nothing hangs any more
			time.Sleep(head)
		case <-time.After(wait):
		}
		if ctx.Err() != nil {
			return upstreams.Ending{Err: ctx.Err()}
		}
	}
	if f.hangs > 0 {
		w.count(&w.counts.Hangs)
	}
	if f.status != 0 {
		w.count(&w.counts.Refusals)
		end := upstreams.Ending{Status: f.status, Answered: true}
		c.to.refused(f.status)
		return end
	}
	header := http.Header{"Content-Type": {"text/event-stream"}}
	w.mu.Lock()
	c.accept(lastID)
	if w.app.kind == sessionInHead {
		header.Set("X-Session", c.name())
	}
	w.mu.Unlock()
	c.to.opened(header)
	return c.pump(ctx)
}

// pump sends what is to be sent, in time.
func (c *appConn) pump(ctx context.Context) upstreams.Ending {
	w := c.w
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.mu.Lock()
		wait := time.Hour
		var m message
		ready := false
		if len(c.queue) > 0 {
			m = c.queue[0]
			if wait = time.Until(m.due); wait <= 0 {
				ready, c.queue = true, c.queue[1:]
				if w.tells {
					w.logf("connection %d sends %q", c.number, m.text)
				}
			}
		}
		w.mu.Unlock()
		if ready {
			if ctx.Err() != nil {
				return upstreams.Ending{Events: true, Err: ctx.Err()}
			}
			if m.last {
				return upstreams.Ending{Events: true, Clean: true, Status: http.StatusOK}
			}
			if err := c.to.take(m.text); err != nil {
				return upstreams.Ending{Events: true, Status: http.StatusOK, Err: err}
			}
			if m.own {
				w.mu.Lock()
				c.taken++
				w.mu.Unlock()
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return upstreams.Ending{Events: true, Err: ctx.Err()}
		case end := <-c.end:
			return end
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// send puts a message on the way.
func (c *appConn) send(text string, own bool) { c.sendAfter(0, message{text: text, own: own}) }

func (c *appConn) sendAfter(d time.Duration, m message) {
	due := time.Now().Add(d)
	if latency := c.w.app.latency; latency > 0 {
		due = due.Add(time.Duration(c.rnd.Int64N(int64(latency))))
	}
	if due.Before(c.due) {
		due = c.due
	}
	m.due, c.due = due, due
	if m.told.IsZero() {
		m.told = time.Now()
	}
	c.queue = append(c.queue, m)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// sendOwn sends an event that is made for this connection alone.
func (c *appConn) sendOwn(fields string) {
	c.send(c.ownText(fields), true)
}

func (c *appConn) ownText(fields string) string {
	switch c.w.app.kind {
	case namesEach:
		fields = "id: " + c.name() + "\n" + fields
	case numbersForEach:
		c.ids++
		fields = "id: " + strconv.Itoa(c.ids) + "\n" + fields
	default:
	}
	text := fields + "data: p " + strconv.Itoa(c.number) + " " + strconv.Itoa(c.own) + "\n\n"
	c.own++
	return text
}

// accept is the moment from which the application tells the connection.
func (c *appConn) accept(lastID string) {
	w, a := c.w, &c.w.app
	if a.prelude != "" {
		c.send(a.prelude, false)
	}
	had, known := -1, false
	if n, err := strconv.Atoi(lastID); err == nil && a.resumes && n < len(w.made) {
		had, known = n, true
	}
	switch a.kind {
	case tellsHello:
		c.send("event: hello\ndata: hello\n\n", false)
	case tellsState, tellsStateIfAny:
		if !known && (a.kind == tellsState || len(w.state) > 0) {
			c.send(w.snapshot(), false)
		}
	case tellsStateLate:
		if !known {
			time.AfterFunc(a.greetAfter, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				if c.open {
					c.send(w.snapshot(), false)
				}
			})
		}
	case tellsLast:
		if !known {
			had, known = max(-1, len(w.made)-1-a.last), true
		}
	case namesEach:
		c.sendOwn("event: PB_CONNECT\n")
	case namesEachLate:
		time.AfterFunc(a.greetAfter, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if c.open {
				c.sendOwn("event: session\n")
			}
		})
	case sessionForEach:
		c.sendOwn("event: session\n")
	case endpointForEach:
		c.sendOwn("event: endpoint\n")
	case answersEach:
		c.answer()
	default:
	}
	if known {
		for n := had + 1; n < len(w.made); n++ {
			c.tell(n)
		}
	}
	c.open = true
	w.accepted(c)
	if a.kind == tellsArrivals {
		w.publishAll()
	}
}

// answer sends what a model says: it begins as always.
func (c *appConn) answer() {
	at := time.Duration(0)
	step := func(text string, own bool) {
		at += time.Duration(c.rnd.Int64N(int64(300 * time.Millisecond)))
		c.sendAfter(at, message{text: text, own: own})
	}
	for i := range answerPrefix {
		step("data: t "+strconv.Itoa(i)+"\n\n", false)
	}
	for range 1 + c.rnd.IntN(6) {
		if c.rnd.IntN(6) == 0 {
			at += 500 * time.Millisecond
		}
		step(c.ownText(""), true)
	}
	c.sendAfter(at, message{last: true})
}

// answerPrefix is how many events each answer begins with.
const answerPrefix = 4

// tell sends an event for all.
func (c *appConn) tell(n int) { c.sendAfter(0, message{text: c.eventText(n), told: c.w.made[n].at}) }

// eventText is an event for all as it is sent on this connection.
func (c *appConn) eventText(n int) string {
	text := c.w.made[n].text
	switch a := &c.w.app; {
	case a.kind == countsForEach:
		c.ids++
		return "id: " + strconv.Itoa(c.ids) + "\n" + text
	case a.ids:
		return "id: " + strconv.Itoa(n) + "\n" + text
	}
	return text
}

// snapshot is an event with the application's state.
func (w *earnedWorld) snapshot() string {
	var text strings.Builder
	if w.app.ids {
		fmt.Fprintf(&text, "id: %d\n", len(w.made)-1)
	}
	fmt.Fprintf(&text, "event: state\ndata: s %d", len(w.made)-1)
	for _, k := range slices.Sorted(maps.Keys(w.state)) {
		fmt.Fprintf(&text, " %d=%d", k, w.state[k])
	}
	return text.String() + "\n\n"
}

// publish is an event of the application.
func (w *earnedWorld) publish() {
	w.counts.Events++
	switch kind := w.app.kind; {
	case kind == tellsTicks:
		for _, c := range w.conns {
			if c.open {
				c.send("data: tick\n\n", false)
			}
		}
		w.ticks++
	case kind.common() && (!kind.perConnection() || len(w.made)%3 < 2):
		w.publishAll()
	default:
		w.publishOwn()
		if kind.common() {
			w.publishAll()
		}
	}
}

// publishOwn is an event for each connection.
func (w *earnedWorld) publishOwn() {
	for _, c := range w.conns {
		if c.open {
			c.sendOwn("")
		}
	}
}

// publishAll makes an event for all.
func (w *earnedWorld) publishAll() {
	n := len(w.made)
	key, op := n%3, "set"
	if w.rnd.IntN(2) == 0 {
		op = "unset"
	}
	if len(w.state) == 0 {
		w.empty = time.Now()
	}
	w.apply(w.state, n, key, op)
	w.made = append(w.made, made{at: time.Now(), text: fmt.Sprintf("data: b %d %d %s\n\n", n, key, op)})
	for _, c := range w.conns {
		if c.open {
			c.tell(n)
		}
	}
}

func (w *earnedWorld) apply(state map[int]int, n, key int, op string) {
	if op == "set" {
		state[key] = n
	} else {
		delete(state, key)
	}
}

// outage is when a stream had no connection, so that it may have missed events.
type outage struct {
	life     any
	from, to time.Time // to is zero while it lasts
}

// accepted takes note that a stream has a connection again.
func (w *earnedWorld) accepted(c *appConn) {
	life := c.to.life()
	if _, known := w.begun[life]; !known {
		w.begun[life] = time.Now()
	}
	for _, o := range w.outages {
		if o.life == life && o.to.IsZero() {
			o.to = time.Now()
		}
	}
}

// finishSome ends an open connection, if there is one.
func (w *earnedWorld) finishSome(which int, end upstreams.Ending) {
	var some []*appConn
	for _, c := range w.conns {
		if c.open {
			some = append(some, c)
		}
	}
	if len(some) == 0 {
		return
	}
	c := some[which%len(some)]
	c.open = false
	w.counts.Breaks++
	lost := time.Now()
	for _, m := range c.queue {
		evidence.Earliest(&lost, m.told)
	}
	w.outages = append(w.outages, &outage{life: c.to.life(), from: lost})
	w.logf("connection %d breaks: %+v", c.number, end)
	c.end <- end
}

// turn is when a new version of the application is started, which gives each
// connection a session.
func (w *earnedWorld) turn() {
	w.logf("the application gives each connection a session from now on")
	w.app.kind = sessionForEach
	if w.sc.number%2 > 0 {
		w.app.kind = sessionInHead
	}
	for w.opens() > 0 {
		w.finishSome(0, upstreams.Ending{Events: true, Status: http.StatusOK, Err: errReset})
	}
}

// opens counts the connections that are open.
func (w *earnedWorld) opens() (n int) {
	for _, c := range w.conns {
		if c.open {
			n++
		}
	}
	return n
}

// earnedSource opens connections with the request of a client.
type earnedSource struct {
	w   *earnedWorld
	tab *tab
}

func (s *earnedSource) Retired() bool { return false }

func (s *earnedSource) Renew(any, *Renewal) bool { return false }

func (s *earnedSource) Open(ctx context.Context, lastID string, conn *upstreams.Conn) upstreams.Ending {
	return s.w.serve(ctx, lastID, &gatewayPeer{conn})
}

// gatewayPeer is the gateway's side of an upstream connection, less HTTP.
type gatewayPeer struct{ conn *upstreams.Conn }

func (p *gatewayPeer) String() string {
	return fmt.Sprintf("stream %p, splice %v", p.life(), intakeOf(p.conn).current().kind.beside)
}

func (p *gatewayPeer) life() any { return intakeOf(p.conn).current() }

func (p *gatewayPeer) opened(header http.Header) {
	p.conn.Opened(&upstreams.Head{Header: header}, nil)
}

func (p *gatewayPeer) refused(status int) {
	if p.conn.Opening() {
		p.conn.Refused(upstreams.Ending{Status: status}.Retriable(), nil)
	}
}

func (p *gatewayPeer) take(text string) error {
	_, err := p.conn.Write([]byte(text))
	return err
}

// errNobody ends a connection whose client has left.
var errNobody = errors.New("the client has left")

// excused reports whether an event for all may have been missed, because a
// stream had no connection then and the application does not tell it later: it
// does not go on after ids, or the client has brought none of its own. Such an
// application is believed to go on after the ID with which a stream is opened, as
// long as its ids have not shown whether they count.
func (c *tab) excused(n int) bool {
	w := c.w
	if w.app.resumes && !c.stranger {
		return false
	}
	at := w.made[n].at
	if c.opened != nil && !at.After(w.begun[c.opened]) {
		return true
	}
	for _, o := range w.outages {
		to := o.to
		if to.IsZero() {
			to = w.began.Add(w.sc.calm + 31*time.Second)
		}
		if !at.Before(o.from) && !at.After(cmp.Or(to, time.Now())) {
			return true
		}
	}
	return false
}
