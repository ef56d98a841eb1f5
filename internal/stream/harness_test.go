package stream

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/meter"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// The times of the evidence, as tests of splices wait for them.
const (
	twinWindow      = evidence.TwinWindow
	splicePause     = evidence.Pause
	maxSettle       = evidence.MaxSettle
	slowestGreeting = evidence.SlowestGreeting
)

// errReset stands for whatever a connection breaks with.
var errReset = errors.New("connection reset")

// fakeSource is an upstream without Caddy and HTTP: each connection is handed
// to the test, which says what happens on it.
type fakeSource struct {
	t       testing.TB
	conns   chan *fakeConn
	running atomic.Int64 // connections there are
	retire  atomic.Bool
	deaf    atomic.Bool           // connections do not end when they are told to
	renewed func(q *Renewal) bool // what a reload finds; nil: nothing
}

// fakeConn is one upstream connection. Its methods return when the goroutine
// that runs the connection has done what they say.
type fakeConn struct {
	t           testing.TB
	at          time.Time // of being opened
	lastEventID string    // with which it was opened
	ctx         context.Context
	conn        *upstreams.Conn
	events      bool      // has the head of an event stream
	headAt      time.Time // when it had that
	do          chan func()
	end         chan upstreams.Ending
}

func (f *fakeSource) Open(ctx context.Context, lastEventID string, conn *upstreams.Conn) upstreams.Ending {
	f.running.Add(1)
	defer f.running.Add(-1)
	c := &fakeConn{
		t: f.t, at: time.Now(), lastEventID: lastEventID, ctx: ctx, conn: conn,
		do: make(chan func()), end: make(chan upstreams.Ending),
	}
	f.conns <- c
	done := ctx.Done()
	if f.deaf.Load() {
		done = nil
	}
	for {
		select {
		case do := <-c.do:
			do()
		case end := <-c.end:
			return end
		case <-done:
			return upstreams.Ending{Events: c.events, Err: ctx.Err()}
		}
	}
}

func (f *fakeSource) Retired() bool { return f.retire.Load() }

func (f *fakeSource) Renew(_ any, q *Renewal) bool { return f.renewed != nil && f.renewed(q) }

// intakeOf is the stream's side of a connection.
func intakeOf(conn *upstreams.Conn) *intake { return conn.Intake.(*intake) }

// accept waits for the stream to open a connection, in fake time.
func (f *fakeSource) accept() *fakeConn {
	f.t.Helper()
	select {
	case c := <-f.conns:
		return c
	case <-time.After(24 * time.Hour):
		f.t.Fatal("no upstream connection was opened")
	}
	panic("unreachable")
}

// acceptOpen is accept for a connection that gets the head of an event stream.
func (f *fakeSource) acceptOpen() *fakeConn {
	f.t.Helper()
	c := f.accept()
	c.open()
	return c
}

// expectNone checks that no connection was opened by now.
func (f *fakeSource) expectNone() {
	f.t.Helper()
	synctest.Wait()
	if len(f.conns) > 0 {
		f.t.Fatal("an upstream connection was opened")
	}
}

func (c *fakeConn) run(do func()) {
	c.t.Helper()
	done := make(chan struct{})
	select {
	case c.do <- func() { do(); close(done) }:
		<-done
	case <-c.ctx.Done():
		c.t.Fatal("the upstream connection was cancelled")
	}
}

// open sends the head of an event stream that may be shared.
func (c *fakeConn) open() {
	c.t.Helper()
	c.events, c.headAt = true, time.Now()
	c.run(func() {
		if err := c.conn.Keep(); err != nil {
			c.t.Error(err)
		}
		c.conn.Opened(&upstreams.Head{Header: http.Header{"Content-Type": {"text/event-stream"}}}, nil)
	})
}

// openAs answers with a head that names a session.
func (c *fakeConn) openAs(session string) {
	c.t.Helper()
	c.events, c.headAt = true, time.Now()
	c.run(func() { c.conn.Opened(&upstreams.Head{Header: http.Header{"X-Session": {session}}}, nil) })
}

// send sends bytes of the body.
func (c *fakeConn) send(text string) (err error) {
	c.t.Helper()
	c.run(func() { _, err = c.conn.Write([]byte(text)) })
	return err
}

// event sends events without ids.
func (c *fakeConn) event(data ...string) {
	c.t.Helper()
	for _, d := range data {
		if err := c.send("data: " + d + "\n\n"); err != nil {
			c.t.Fatal(err)
		}
	}
}

// numbered sends events whose ids are their data.
func (c *fakeConn) numbered(ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		if err := c.send("id: " + id + "\ndata: " + id + "\n\n"); err != nil {
			c.t.Fatal(err)
		}
	}
}

// close ends the body as HTTP says; breakOff does not.
func (c *fakeConn) close() {
	c.finish(upstreams.Ending{Events: true, Clean: true, Status: http.StatusOK})
}
func (c *fakeConn) breakOff() { c.fail(errReset) }

func (c *fakeConn) fail(err error) {
	c.finish(upstreams.Ending{Events: true, Status: http.StatusOK, Err: err})
}

// finish ends the connection, and waits for the stream to have seen it.
func (c *fakeConn) finish(end upstreams.Ending) {
	c.end <- end
	synctest.Wait()
}

// answer is the end of a connection without a stream: status 0 is a failure to
// connect.
func (c *fakeConn) answer(status int, retryAfter time.Duration) {
	c.t.Helper()
	c.run(func() {
		if c.conn.Opening() && !c.conn.Awaits(status) {
			c.conn.Refused(upstreams.Ending{Status: status}.Retriable() || c.conn.Asked(), nil)
		}
	})
	end := upstreams.Ending{Status: status, RetryAfter: retryAfter}
	if status == 0 {
		end.Err = errReset
	}
	c.finish(end)
}

// greeted lets the time pass in which a splice may still be greeted: before that it
// is not merged, whatever it has brought.
func (c *fakeConn) greeted() {
	c.t.Helper()
	left := time.Until(c.headAt.Add(splicePause))
	if left <= 0 {
		c.t.Fatal("the time in which the splice may be greeted is over")
	}
	time.Sleep(left - 1)
	c.expectGone(false)
	time.Sleep(time.Nanosecond)
	synctest.Wait()
}

// expectGone checks that the stream has given the connection up, or not.
func (c *fakeConn) expectGone(gone bool) {
	c.t.Helper()
	synctest.Wait()
	if (c.ctx.Err() != nil) != gone {
		c.t.Fatalf("connection cancelled: %v, expected %v", !gone, gone)
	}
}

// streamTest is a hub with one handler in a bubble of fake time.
type streamTest struct {
	t        *testing.T
	hub      *Hub
	source   *fakeSource
	instance *Instance
	options  *Options
	key      Key
	logs     *observer.ObservedLogs
	readers  []*reader
}

// inBubble runs a test of streams in fake time. When it ends, everybody leaves,
// and it is checked that nothing is left.
func inBubble(t *testing.T, set func(o *Options), test func(st *streamTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st := newStreamTest(t, set)
		t.Cleanup(st.stop)
		test(st)
	})
}

// testBufferAge is how long the replay buffers of tests keep a block.
const testBufferAge = 5 * time.Minute

// testOptions are the settings without any option.
func testOptions() *Options {
	o := Defaults()
	o.Buffer = replay.Limits{Events: 16384, Size: 4 << 20, Age: testBufferAge}
	return o
}

func newStreamTest(t *testing.T, set func(o *Options)) *streamTest {
	t.Helper()
	st := &streamTest{t: t, hub: NewHub(), options: testOptions()}
	st.options.Join, st.options.Vouched = JoinLive, true
	st.options.primeAfter = 0
	if set != nil {
		set(st.options)
	}
	st.source = &fakeSource{t: t, conns: make(chan *fakeConn, 1024)}
	st.instance = st.hub.Register("place", "server")
	return st
}

// stop lets everybody leave and ends what lingers.
func (st *streamTest) stop() {
	for _, r := range st.readers {
		r.leave()
	}
	st.hub.EndAll()
	st.hub.running.Wait()
	if n := st.source.running.Load(); n != 0 {
		st.t.Errorf("%d upstream connections are left", n)
	}
	st.expectStreams(0)
	if n := st.hub.Memory.Used.Load(); n != 0 {
		st.t.Errorf("%d bytes are counted in no replay buffer", n)
	}
}

// expectStreams checks how many streams there are.
func (st *streamTest) expectStreams(n int) {
	st.t.Helper()
	synctest.Wait()
	st.hub.mu.Lock()
	defer st.hub.mu.Unlock()
	if len(st.hub.Every()) != n || len(st.hub.streams) > n || st.hub.count["place"] > n {
		st.t.Fatalf("%d streams (%d keys, %d counted), expected %d",
			len(st.hub.Every()), len(st.hub.streams), st.hub.count["place"], n)
	}
}

// tryJoin asks for the stream.
func (st *streamTest) tryJoin(id string) (*reader, error) {
	core, logs := observer.New(zap.InfoLevel)
	if st.logs == nil {
		st.logs = logs
	}
	sub, err := st.hub.Join(&Request{
		Key:         st.key,
		Instance:    st.instance,
		LastEventID: id,
		Options:     st.options,
		Source:      func(bool) Source { return st.source },
		Logger:      zap.New(core),
	})
	if err != nil {
		return nil, err
	}
	sub.TellGap() // as with the head
	r := &reader{t: st.t, sub: sub}
	st.readers = append(st.readers, r)
	return r, nil
}

// join asks for the stream with a last event ID.
func (st *streamTest) join(id string) *reader {
	st.t.Helper()
	r, err := st.tryJoin(id)
	if err != nil {
		st.t.Fatal(err)
	}
	return r
}

// start is join for the first client of a stream, which is opened.
func (st *streamTest) start() (*reader, *fakeConn) {
	st.t.Helper()
	r := st.join("")
	return r, st.source.acceptOpen()
}

// renewal is what a reload finds when it leads to the handler of the newest
// configuration.
func (st *streamTest) renewal() func(q *Renewal) bool {
	inst, options, src := st.instance, st.options, st.source
	return func(q *Renewal) bool {
		q.Instance, q.Options, q.Source, q.Logger = inst, options, src, zap.NewNop()
		return q.Key == st.key
	}
}

// reload makes a new configuration take the place of the old one, and returns
// the source of the old one.
func (st *streamTest) reload() (old *fakeSource) {
	old = st.source
	older := st.instance
	st.source = &fakeSource{t: st.t, conns: make(chan *fakeConn, 1024)}
	st.instance = st.hub.Register("place", new(int))
	old.renewed = st.renewal()
	old.retire.Store(true)
	st.hub.Retire(older)
	synctest.Wait()
	return old
}

// logged returns how often something was logged about the first stream.
func (st *streamTest) logged(message string) int {
	synctest.Wait()
	return st.logs.FilterMessage(message).Len()
}

// reader is a client that reads when the test says so.
type reader struct {
	t    testing.TB
	sub  *Subscriber
	end  EndReason
	left bool
}

// hasHead reports whether the client may be sent a head, as the handler asks
// before it sends one.
func (r *reader) hasHead() bool {
	r.t.Helper()
	synctest.Wait()
	wake, _ := r.sub.held(time.Now())
	return wake == nil
}

// read returns what is there to be read, with E for the stream's epoch.
func (r *reader) read() string {
	r.t.Helper()
	synctest.Wait()
	var text strings.Builder
	for r.end == "" {
		now := time.Now()
		chunks, wake, at, end := r.sub.Next(nil, now)
		for _, chunk := range chunks {
			text.Write(chunk.Wire)
		}
		r.end = end
		if wake != nil {
			if !at.IsZero() && !at.After(now) {
				r.t.Errorf("at %v it is to look again at %v: it would do so all the time", now, at)
			}
			break
		}
	}
	return strings.ReplaceAll(text.String(), r.sub.stream.epoch, "E")
}

// expect checks what there is to be read.
func (r *reader) expect(blocks ...string) {
	r.t.Helper()
	if got, want := r.read(), strings.Join(blocks, ""); got != want {
		r.t.Fatalf("read %q\nexpected %q", got, want)
	}
}

// expectEnd checks what there is to be read, and why the response ends then.
func (r *reader) expectEnd(end EndReason, blocks ...string) {
	r.t.Helper()
	r.expect(blocks...)
	if r.end != end {
		r.t.Fatalf("end %q, expected %q", r.end, end)
	}
}

// expectOutcome checks what the client is told of resuming.
func (r *reader) expectOutcome(outcome string) {
	r.t.Helper()
	if r.sub.Outcome() != outcome {
		r.t.Fatalf("outcome %q, expected %q", r.sub.Outcome(), outcome)
	}
}

// leave goes away. It may be called again.
func (r *reader) leave() {
	if !r.left {
		r.left = true
		r.sub.Leave()
	}
}

// id is the gateway's ID of a position; E in what a reader reads.
func (r *reader) id(position uint64) string {
	return string(replay.AppendID(nil, r.sub.stream.epoch, position))
}

// Blocks as a reader gets them.
func given(position, data string) string {
	return "data: " + data + "\nid: sse1.E." + position + "\n\n"
}

// lost is an event as the client of a splice gets it, where the upstream gives no ids: with
// an ID that tells, when it comes back, that it may have missed something.
func lost(data string) string { return "data: " + data + "\n" + primed(nowhereID) }

// nowhereID is that ID.
const nowhereID = "sse1.E.18446744073709551615"

func primed(id string) string { return "id: " + id + "\n\n" }
func numbered(ids ...string) string {
	var text strings.Builder
	for _, id := range ids {
		text.WriteString("id: " + id + "\ndata: " + id + "\n\n")
	}
	return text.String()
}
func toldGap(reason, id, missed string) string {
	return `event: gap` + "\n" + `data: {"reason":"` + reason + `","last_event_id":"` + id + `","missed":` + missed + "}\n"
}

const newcomer = "id: sse1.E.0\n\n" // what the first client of a stream gets

// countsOf are what streams have done, by the names and labels of the metrics.
type countsOf map[string]float64

// countsNow are all counts.
func countsNow() countsOf {
	all := make(countsOf)
	for name, l := range map[string]*meter.Labelled{
		"upstream_connections_ended_total result": upstreams.Counts.Connections, "splices_total end": Counts.Splices,
		"gaps_total reason": Counts.Gaps, "memory_evictions_total evicted": Counts.Evictions,
	} {
		for label, n := range l.All() {
			all[name+"="+label] = n
		}
	}
	return all
}

// since returns what has been counted since before, and nothing that has not.
func (c countsOf) since(before countsOf) countsOf {
	changed := make(countsOf)
	for name, value := range c {
		if d := value - before[name]; d != 0 {
			changed[name] = d
		}
	}
	return changed
}

// counting returns "from" to "to", as texts.
func counting(from, to int) (texts []string) {
	for i := from; i <= to; i++ {
		texts = append(texts, strconv.Itoa(i))
	}
	return texts
}
