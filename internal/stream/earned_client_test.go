package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// earnedWorld is an application, a hub, and clients.
type earnedWorld struct {
	sc      *earnedScenario
	app     appStyle // its kind is guarded by mu, and set by turn
	rnd     *rand.Rand
	hub     *Hub
	inst    *Instance
	options *Options
	tells   bool
	began   time.Time
	calmed  chan struct{} // closed when nothing breaks any more
	running sync.WaitGroup

	logMu sync.Mutex // the last one
	log   []string

	mu      sync.Mutex // before those of streams
	calm    bool
	wrong   []string
	rarely  []string
	counts  earnedCounts
	conns   []*appConn
	made    []made
	ticks   int
	state   map[int]int
	empty   time.Time // when it was last empty, if it is not
	outages []*outage
	begun   map[any]time.Time // when the first connection of each stream was accepted
	tabs    []*tab
}

func newEarnedWorld(t *testing.T, sc *earnedScenario, tells bool) *earnedWorld {
	t.Helper()
	w := &earnedWorld{
		sc: sc, app: sc.app, rnd: rand.New(rand.NewPCG(sc.seed, ^sc.number)),
		hub: NewHub(), tells: tells, began: time.Now(), calmed: make(chan struct{}), state: make(map[int]int), begun: make(map[any]time.Time),
	}
	w.inst = w.hub.Register("place", "server")
	w.options = testOptions()
	sc.options(w.options)
	return w
}

func (w *earnedWorld) logf(format string, args ...any) {
	if w.tells {
		w.logMu.Lock()
		defer w.logMu.Unlock()
		w.log = append(w.log, time.Since(w.began).String()+" "+fmt.Sprintf(format, args...))
	}
}

// logger is where the gateway logs.
func (w *earnedWorld) logger() *zap.Logger {
	if !w.tells {
		return zap.NewNop()
	}
	encoder := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{MessageKey: "message"})
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(earnedLog{w}), zap.DebugLevel))
}

// earnedLog takes lines of the gateway's log.
type earnedLog struct{ w *earnedWorld }

func (l earnedLog) Write(line []byte) (int, error) {
	l.w.logf("gateway: %s", strings.TrimSpace(string(line)))
	return len(line), nil
}

// wrongf says what must not be.
func (w *earnedWorld) wrongf(format string, args ...any) {
	text := time.Since(w.began).String() + ": " + fmt.Sprintf(format, args...)
	w.logf("WRONG: %s", text)
	if len(w.wrong) < 10 {
		w.wrong = append(w.wrong, text)
	}
}

// rarelyf is wrongf for what may happen in a few scenarios of a thousand; see
// maxRarely.
func (w *earnedWorld) rarelyf(format string, args ...any) {
	text := time.Since(w.began).String() + ": " + fmt.Sprintf(format, args...)
	w.logf("RARELY: %s", text)
	if len(w.rarely) < 10 {
		w.rarely = append(w.rarely, text)
	}
}

func (w *earnedWorld) count(n *int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*n++
}

// play does what the scenario says, and then what shows how it ends.
func (w *earnedWorld) play() {
	sc := w.sc
	byNumber := make(map[int]*tab)
	for _, d := range sc.deeds {
		w.sleepUntil(d.at)
		w.mu.Lock()
		switch c := byNumber[d.who]; d.what {
		case arrives:
			byNumber[d.who] = w.arrive(d.who%sc.keys, d.brings)
		case drops:
			if c != nil {
				c.drop(d.away)
			}
		case leaves:
			if c != nil {
				c.leave()
			}
		case publishes:
			w.publish()
		case breaks:
			w.finishSome(d.who, upstreams.Ending{Events: true, Status: http.StatusOK, Err: errReset})
		case turns:
			w.turn()
		case ends:
			w.finishSome(d.who, upstreams.Ending{Events: true, Status: http.StatusOK, Clean: true})
		}
		w.mu.Unlock()
	}
	w.sleepUntil(sc.calm)
	w.mu.Lock()
	w.calm = true
	close(w.calmed)
	w.logf("calm")
	for _, c := range w.tabs {
		if c.gone {
			continue
		}
		if sc.anew {
			c.leave()
			w.arrive(c.key, bringsNothing)
		} else {
			c.drop(time.Duration(w.rnd.Int64N(int64(2 * time.Second))))
		}
	}
	w.mu.Unlock()
	for _, at := range sc.calmEvents {
		w.sleepUntil(sc.calm + at)
		w.mu.Lock()
		w.publish()
		w.mu.Unlock()
	}
	time.Sleep(40 * time.Second)
	if kind := w.app.kind; kind.perConnection() && kind != answersEach {
		w.mu.Lock()
		w.publishOwn() // some were slow to come
		w.mu.Unlock()
	}
	time.Sleep(10 * time.Second)
	w.mu.Lock()
	w.judgeEnd()
	for _, c := range w.tabs {
		c.leave()
	}
	w.mu.Unlock()
	w.running.Wait()
	w.hub.EndAll()
	w.hub.running.Wait()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.hub.Memory.Used.Load(); n != 0 || len(w.hub.Every()) > 0 {
		w.wrongf("%d bytes and %d streams are left", n, len(w.hub.Every()))
		for _, s := range w.hub.Every() {
			w.logf("LEFT %d splice %v state %v phase %d subs %d only %v private %v draining %v probe %v", s.number, s.kind.beside, s.splice != nil, s.phase, len(s.subs), s.only != nil, s.private, s.draining, s.splice != nil && s.splice.probe)
		}
	}
}

func (w *earnedWorld) sleepUntil(at time.Duration) { time.Sleep(time.Until(w.began.Add(at))) }

// judgeEnd checks what all have, when nothing has happened for a while.
func (w *earnedWorld) judgeEnd() {
	kind := w.app.kind
	there := make(map[int]int) // by key
	for _, c := range w.tabs {
		if c.gone {
			continue
		}
		there[c.key]++
		switch {
		case !c.answered:
			w.wrongf("client %d was not answered for %v", c.number, time.Since(c.asked))
			continue
		case kind == answersEach:
			w.wrongf("client %d has not been given the whole answer", c.number)
			continue
		}
		if kind.perConnection() {
			c.judgeOwn()
		}
		if kind.common() {
			c.judgeCommon()
		}
	}
	switch slow := w.app.headAfter > time.Second; {
	case kind.perConnection(), kind == countsForEach:
		return
	case slow:
		return // there is little time to compare
	}
	most := len(there)
	if kind == tellsRarely {
		most = 3 * len(there) // until an event after the greetings: one more may be opened with an ID, or be slow to answer
	}
	for _, d := range w.sc.deeds {
		if d.what == ends {
			most++ // it goes on for who comes back, beside the one that newcomers have opened
		}
	}
	if n := w.opens(); n > most {
		w.rarelyf("%d upstream connections for %d keys, expected %d", n, len(there), most)
	}
}

// tab is a client as a browser's tab with an EventSource is one.
type tab struct {
	stranger bool // came with an ID that the application never gave
	w        *earnedWorld
	number   int
	key      int

	// Guarded by w.mu.
	gone   bool
	away   time.Duration // after the response that is there
	cut    context.CancelFunc
	lastID string
	dec    eventstream.Decoder

	visits   int
	lookups  int       // how often it had to look for a stream again, in this visit
	asked    time.Time // the answer
	answered bool
	since    time.Time // when it came anew: from then on it must not miss anything
	headAt   time.Time // and when it had the head
	begun    time.Time // and when its newest response had one
	fresh    bool      // it has been given no event for all since
	known    bool      // it asked with an ID: it needs no greeting
	greeted  bool      // it has been given the greeting since
	toldAt   time.Time // of a gap: what was before may be missing, and with the next event what it has may come again
	told     bool
	floor    int // the newest event for all that it had when it came back
	have     int // the newest event for all that it was given; -1: none
	state    map[int]int
	ticks    int

	conn   *appConn // whose own events it is given
	own    int      // how many of them it has
	again  bool     // it came back: the next may be one that it has
	tokens int      // of the beginning of an answer
	opened any      // the stream that was opened with the ID that the client came back with, if it was
	got    bool     // an event of its own, in the calm
}

// arrive lets a new client come.
func (w *earnedWorld) arrive(key int, brings bringing) *tab {
	c := &tab{
		w: w, number: len(w.tabs), key: key, have: -1, floor: -1, state: make(map[int]int),
		fresh: true,
	}
	w.tabs = append(w.tabs, c)
	switch a := &w.app; {
	case brings == bringsAny:
		c.lastID, c.stranger = "garbage", true
	case brings == bringsKnown && a.kind.countsIDs():
		c.lastID = strconv.Itoa(1 + w.rnd.IntN(5)) // of another connection
	case brings == bringsKnown && a.ids && a.kind.common() && !a.kind.hasState() && len(w.made) > 0:
		n := w.rnd.IntN(len(w.made))
		c.lastID, c.have, c.fresh = strconv.Itoa(n), n, !a.resumes
	}
	w.running.Go(c.run)
	return c
}

// Key is what the requests of some clients have in common.
func (w *earnedWorld) streamKey(n int) Key {
	return w.hub.Key([]Part{{"key", strconv.Itoa(n)}})
}

// address is where the client's connection comes from.
func (c *tab) address() string {
	if c.w.sc.nat {
		return "10.0.0.1:1"
	}
	return fmt.Sprintf("10.0.0.%d:1", c.number+1)
}

func (c *tab) drop(away time.Duration) {
	c.away = away
	if c.cut != nil {
		c.w.logf("client %d is cut for %v", c.number, away)
		c.cut()
	}
}

func (c *tab) leave() {
	if c.gone {
		return
	}
	c.w.logf("client %d leaves", c.number)
	c.gone = true
	if c.cut != nil {
		c.cut()
	}
}

// run visits the application, again and again.
func (c *tab) run() {
	w := c.w
	for {
		w.mu.Lock()
		if c.gone {
			w.mu.Unlock()
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		c.cut = cancel
		c.away = time.Second
		c.asked, c.answered, c.lookups = time.Now(), false, 0
		w.counts.Visits++
		c.visits++
		id := c.lastID
		w.mu.Unlock()
		why, clean := c.visit(ctx, id)
		cut := ctx.Err() != nil
		cancel()
		w.mu.Lock()
		w.logf("client %d: %s", c.number, why)
		c.cut = nil
		if !c.answered && !cut {
			c.answer()
		}
		c.answered = true
		if !cut && w.app.kind == answersEach && clean {
			c.judgeAnswer()
		}
		away := c.away
		w.mu.Unlock()
		select {
		case <-time.After(away):
		case <-w.calmed:
			time.Sleep(min(away, time.Second))
		}
	}
}

// judgeAnswer checks that the client was given an answer to its end. It does not
// ask again.
func (c *tab) judgeAnswer() {
	if broken := len(c.w.outages) > 0; !broken && (c.conn == nil || c.own != c.conn.taken) {
		c.w.rarelyf("client %d was given %d events of an answer, and then its end", c.number, c.own)
	}
	c.gone = true
}

// answer takes note that the request was answered.
func (c *tab) answer() {
	c.answered = true
	// The longest that a place in a splice is waited for, and connections that
	// hang or are slow, one after the other.
	bound := defaultSpliceTimeout + 4*c.w.app.headAfter + 5*time.Second
	for _, f := range c.w.sc.fates {
		bound += f.hangs
	}
	if len(c.w.outages) > 0 {
		bound += defaultSpliceTimeout // there is another chance after an outage
	}
	bound += time.Duration(len(c.w.tabs)) * time.Second // they go upstream one at a time
	bound += time.Duration(c.lookups) * defaultSpliceTimeout
	if took := time.Since(c.asked); took > bound {
		c.w.wrongf("client %d was answered after %v", c.number, took)
	}
}

// visit is one request, as Handler.serveShared serves it, less HTTP.
// clean tells that the response ended as HTTP says.
func (c *tab) visit(ctx context.Context, id string) (why string, clean bool) {
	w := c.w
	opener := false
	req := &Request{
		Key:         w.streamKey(c.key),
		Parts:       []Part{{"place", "place"}, {"host", "host"}, {"path", "/events"}, {"header Cookie", strconv.Itoa(c.key)}},
		Instance:    w.inst,
		LastEventID: id,
		Options:     w.options,
		Source:      func(waits bool) Source { opener = waits; return &earnedSource{w, c} },
		Client:      Client{Remote: c.address()},
		Logger:      w.logger(),
	}
	return c.visitShared(ctx, req, &opener)
}

// visitShared is a visit of who asks for a stream that is shared. opener is set when
// the answer to its own request is waited for.
func (c *tab) visitShared(ctx context.Context, req *Request, opener *bool) (why string, clean bool) {
	w, id := c.w, req.LastEventID
	sub, err := w.hub.Join(req)
	if errors.Is(err, ErrUnshareable) {
		return c.visitAlone(ctx, id, false)
	}
	if err != nil {
		return err.Error(), false
	}
	attached := true
	detach := func() {
		if attached {
			attached = false
			sub.Leave()
		}
	}
	defer detach()
	switch again, left := sub.Origin.AwaitOpening(ctx, req, *opener); {
	case left:
		return "cut before the head", false
	case again:
		detach()
		return c.visitShared(ctx, req, opener)
	}
	if !sub.WaitForHead(ctx) {
		return "cut before the head", false
	}
	head, err := sub.Head()
	switch {
	case errors.Is(err, ErrUnshareable) && *opener:
		return c.status("the answer to its own request"), false
	case errors.Is(err, ErrUnshareable):
		detach()
		return c.visitAlone(ctx, id, false)
	case err != nil:
		return err.Error(), false
	}
	switch sub.TurnedAway() {
	case EndPerClient, EndRefused:
		detach()
		return c.visitAlone(ctx, id, false)
	case EndAskAgain:
		detach()
		w.mu.Lock()
		c.lookups++
		w.mu.Unlock()
		return c.visitShared(ctx, req, opener)
	case EndNoSecond:
		return c.status("503"), false
	}
	c.begin(head.Header, id, sub.Outcome())
	if id != "" && id == sub.Origin.openID {
		w.mu.Lock()
		c.opened = sub.Origin
		w.mu.Unlock()
	}
	sub.TellGap()
	end := c.read(ctx, sub)
	if end == EndPerClient {
		if sub.HasMissed() {
			w.mu.Lock()
			c.tell()
			w.mu.Unlock()
		}
		detach()
		return c.visitAlone(ctx, id, true)
	}
	return "end " + string(end), end == EndUpstream
}

// read takes what there is until the response ends.
func (c *tab) read(ctx context.Context, sub *Subscriber) EndReason {
	timer := time.NewTimer(noLimit)
	defer timer.Stop()
	var blocks []*replay.Block
	for {
		var wake <-chan struct{}
		var at time.Time
		var end EndReason
		blocks, wake, at, end = sub.Next(blocks[:0], time.Now())
		if ctx.Err() != nil {
			return EndClient
		}
		for _, b := range blocks {
			_ = c.take(string(b.Wire))
		}
		switch {
		case end != "":
			return end
		case wake == nil:
			continue
		}
		sub.Settled(time.Now())
		wait := noLimit
		if !at.IsZero() {
			wait = time.Until(at)
		}
		timer.Reset(wait)
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
			return EndClient
		}
	}
}

// visitAlone is a request that passes through the gateway.
func (c *tab) visitAlone(ctx context.Context, id string, headSent bool) (why string, clean bool) {
	w := c.w
	w.count(&w.counts.Alone)
	if _, _, ok := replay.ParseID(id); ok {
		id = ""
	}
	p := &alonePeer{c: c, ctx: ctx, id: id, headSent: headSent}
	end := w.serve(ctx, id, p)
	if p.answer != "" {
		return p.answer, false
	}
	return fmt.Sprintf("end of a private stream: %+v", end), end.Clean
}

// alonePeer is a client with a connection of its own.
type alonePeer struct {
	c        *tab
	ctx      context.Context
	id       string
	headSent bool
	answer   string
}

func (p *alonePeer) String() string { return fmt.Sprintf("client %d alone", p.c.number) }
func (p *alonePeer) life() any      { return p }

func (p *alonePeer) opened(header http.Header) {
	w := p.c.w
	w.hub.Shareable(w.streamKey(p.c.key))
	outcome := ResumeLive
	if p.id != "" {
		outcome = ResumeSpliced
	}
	if p.headSent {
		header = nil
	}
	p.c.begin(header, p.id, outcome)
}

func (p *alonePeer) refused(status int) {
	p.answer = p.c.status(strconv.Itoa(status))
}

func (p *alonePeer) take(text string) error {
	if p.ctx.Err() != nil {
		return errNobody
	}
	return p.c.take(text)
}

// status is an answer that is no event stream: EventSource does not come back.
// Its user loads the page again.
func (c *tab) status(what string) string {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.lastID = ""
	c.away = time.Second
	return "status: " + what
}

// begin is the head of a response.
func (c *tab) begin(header http.Header, id, outcome string) {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logf("client %d, which asked %v ago with %q, has the head: %s %v", c.number, time.Since(c.asked), id, outcome, header["X-Session"])
	if !c.answered {
		c.answer()
	}
	c.dec.Reset()
	c.begun = time.Now()
	c.opened = nil
	c.again = id != ""
	if session := header.Get("X-Session"); session != "" {
		n, _ := strconv.Atoi(session[1:])
		c.belongs(w.conns[n])
	}
	c.floor = -1
	anew := true
	switch name, _, _ := strings.Cut(outcome, ";"); name {
	case ResumeReplayed:
		w.counts.Replayed++
		anew = false
		if len(w.outages) > 0 && w.app.kind == numbersForEach {
			c.tell() // its ids mean nothing after a reconnect
		}
	case ResumeSpliced:
		w.counts.Spliced++
		if _, err := strconv.Atoi(id); err == nil && w.app.resumes {
			anew = false
		} else if w.app.kind != tellsLast && w.app.kind != countsForEach {
			c.floor = c.have
		}
	case ResumeGap:
		w.counts.Gaps++
	default:
		w.counts.Live++
	}
	if anew {
		c.fresh, c.told, c.tokens = true, false, 0
	}
	if headSent := header == nil; (anew && !headSent) || c.headAt.IsZero() {
		c.since, c.headAt = c.asked, time.Now()
	}
	c.known = id != ""
	c.greeted = c.greeted && c.known
	if anew && w.app.kind == tellsStateIfAny && w.wasEmpty(c.asked.Add(-w.app.headAfter)) {
		c.greeted = false // what it has may be old: the application had nothing to tell it
	}
	if outcome == ResumeGap || (c.known && w.app.kind == countsForEach) {
		c.tell() // or the ID says nothing
	}
}

// wasEmpty reports whether there was nothing to greet with at a time since then.
func (w *earnedWorld) wasEmpty(since time.Time) bool {
	return len(w.state) == 0 || !w.empty.Before(since)
}

// tell takes note that the client is told of a gap.
func (c *tab) tell() { c.told, c.toldAt = true, time.Now() }

// missed reports whether the client had to be given an event for all that it was
// not given.
func (c *tab) missed(m int) bool {
	w := c.w
	at := w.made[m].at
	switch {
	case !at.After(c.toldAt), c.fresh && !at.After(c.headAt), c.excused(m):
		return false
	}
	wrongf := w.wrongf
	if w.app.kind.perConnection() || w.app.kind.countsIDs() || c.stranger {
		wrongf = w.rarelyf // beside what is its own, or by an ID that is another event's or nobody's
	}
	wrongf("client %d, which had the head at %v, has missed event %d of %v", c.number, c.headAt.Sub(w.began), m, at.Sub(w.began))
	return true
}

// judgeMissed checks that the client has missed none of the events after one, up
// to another; the newest that it missed is told.
func (c *tab) judgeMissed(after, to int) {
	for m := to; m > after; m-- {
		if c.missed(m) {
			return
		}
	}
}

// take takes blocks.
func (c *tab) take(text string) error {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	return c.dec.Write([]byte(text), func(b eventstream.Block) error {
		if b.HasID {
			c.lastID = string(b.ID)
		}
		if w.tells {
			w.logf("client %d is given %q", c.number, b.Lines)
		}
		if b.Dispatches() {
			c.event(string(b.Type), string(b.AppendData(nil)))
		}
		return nil
	})
}

// event judges an event that the client is given.
func (c *tab) event(eventType, data string) {
	w := c.w
	words := strings.Fields(data)
	if eventType == "gap" {
		c.tell()
		c.tokens = 0
		return
	}
	number := func(i int) int {
		n, err := strconv.Atoi(words[i])
		if err != nil {
			w.wrongf("client %d is given %q", c.number, data)
		}
		return n
	}
	switch words[0] {
	case "hello":
		w.counts.Greetings++
		c.greeted = true
	case "tick":
		c.ticks++
	case "t":
		i := number(1)
		if i != c.tokens && i != 0 {
			w.wrongf("client %d is given the beginning of an answer, part %d after %d", c.number, i, c.tokens)
		}
		c.tokens = i + 1
	case "b":
		c.common(number(1))
		w.apply(c.state, number(1), number(2), words[3])
	case "s":
		c.snapshot(number(1), words[2:])
	case "p":
		c.ownEvent(w.conns[number(1)], number(2))
	default:
		w.wrongf("client %d is given %q", c.number, data)
	}
}

// common judges an event for all.
func (c *tab) common(n int) {
	w := c.w
	had := c.have
	switch {
	case c.told:
		had = min(had, n-1)
	case c.fresh && c.known && n == c.have+1: // its ID was known in the end
	case c.fresh:
		if !c.mayBeOld() && w.made[n].at.Before(c.since.Add(-2*time.Second)) {
			w.rarelyf("client %d, which came at %v, is given event %d of %v", c.number, c.since.Sub(w.began), n, w.made[n].at.Sub(w.began))
		}
		if n <= c.floor {
			w.wrongf("client %d, which came back, is given event %d again", c.number, n)
		}
		if w.app.kind == tellsHello && !c.greeted && !c.known && w.options.Join == joinAuto {
			w.rarelyf("client %d is given event %d and was not greeted", c.number, n)
		}
		had = -1
	case n == c.have && c.again && w.app.hasStateIDs(), c.again && w.app.repeats():
	case n <= c.have:
		w.rarelyf("client %d is given event %d after %d", c.number, n, c.have)
	}
	c.judgeMissed(had, n-1)
	c.have, c.fresh, c.again, c.told = n, false, false, false
	if at := w.made[n].at; w.calm && at.Sub(c.begun) > settledAfter && time.Since(at) > w.app.latency {
		w.wrongf("client %d is given event %d, of %v, late", c.number, n, at.Sub(w.began))
	}
}

// mayBeOld reports whether the first event for all that the client is given may
// be one of long before it came: because the application repeats some, or has
// gone on after an outage, or because its ID is one that the stream was opened
// with.
func (c *tab) mayBeOld() bool {
	a := &c.w.app
	switch {
	case a.kind == tellsLast, a.resumes && len(c.w.outages) > 0:
		return true
	}
	return c.known && !a.kind.countsIDs()
}

// settledAfter is how long after its head a client certainly is given events
// when they come.
const settledAfter = defaultSpliceTimeout + 10*time.Second

// snapshot takes the state of the application, which takes the place of all
// events up to n.
func (c *tab) snapshot(n int, words []string) {
	w := c.w
	w.counts.Greetings++
	if !c.fresh && !c.told && n < c.have {
		w.wrongf("client %d is given the state at event %d after event %d", c.number, n, c.have)
	}
	c.have, c.fresh = n, false
	c.greeted, c.told = true, false
	clear(c.state)
	for _, word := range words {
		var key, n int
		if _, err := fmt.Sscanf(word, "%d=%d", &key, &n); err != nil {
			w.wrongf("client %d is given the state %q", c.number, words)
		}
		c.state[key] = n
	}
}

// judgeCommon checks that the client has all that the application has told all.
func (c *tab) judgeCommon() {
	w := c.w
	had := c.have
	if c.fresh {
		had = -1
	}
	c.judgeMissed(had, len(w.made)-1)
	kind := w.app.kind
	if w.options.Join == JoinLive {
		return // nobody is greeted
	}
	if (kind == tellsHello || kind == tellsState || kind == tellsStateLate) && !c.greeted && !c.known {
		w.rarelyf("client %d was never greeted", c.number)
	}
	if kind.hasState() && c.greeted && !maps.Equal(c.state, w.state) {
		w.wrongf("client %d has the state %v, expected %v", c.number, c.state, w.state)
	}
}

// belongs takes note that the client was given what was made for one connection.
func (c *tab) belongs(conn *appConn) {
	if conn.givenTo != nil && conn.givenTo != c {
		c.w.wrongf("LEAK: client %d is given what was made for connection %d, and so was client %d", c.number, conn.number, conn.givenTo.number)
	}
	conn.givenTo = c
}

// ownEvent judges an event that was made for one connection.
func (c *tab) ownEvent(conn *appConn, i int) {
	w := c.w
	w.counts.Private++
	c.belongs(conn)
	if w.calm {
		c.got = true
	}
	if conn == c.conn {
		again := c.again && w.app.mixesIDs()
		if i > c.own || (i < c.own && !again) {
			w.wrongf("client %d is given event %d of connection %d, expected %d", c.number, i, conn.number, c.own)
		}
		c.own, c.again = i+1, false
		return
	}
	if i != 0 && !c.told {
		w.wrongf("client %d is given event %d of connection %d first", c.number, i, conn.number)
	}
	if w.app.kind == answersEach && c.tokens != answerPrefix {
		w.wrongf("client %d is given event %d of answer %d after %d events of the beginning", c.number, i, conn.number, c.tokens)
	}
	c.conn, c.own, c.told = conn, i+1, false
}

// judgeOwn checks that the client has all that was made for its connection.
func (c *tab) judgeOwn() {
	w := c.w
	switch {
	case c.conn == nil || !c.got:
		w.wrongf("client %d was given nothing of its own", c.number)
	case !c.conn.open:
		w.wrongf("client %d is given what connection %d has brought, which is over", c.number, c.conn.number)
	case c.own != c.conn.taken:
		w.wrongf("client %d was given %d of %d events of its own", c.number, c.own, c.conn.taken)
	}
}
