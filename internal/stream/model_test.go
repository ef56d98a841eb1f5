package stream

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
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

var (
	modelSteps = flag.Int("model.steps", 50_000, "random operations of TestModel")
	modelSeed  = flag.Uint64("model.seed", 1, "seed of TestModel; 0: a new one, as the weekly run has")
)

// modelEpisode is how many operations one upstream lives for.
const modelEpisode = 1000

// TestModel does random things to a stream and checks all that each client is
// given against histories that forget nothing.
//
// Every block of the upstream has a line "n: <serial>", which clients ignore,
// by which the model knows it. Three things are compared:
//   - what an upstream connection brings to a stream, and the stream's record of
//     it: nothing is lost or repeated but by the rules of DESIGN 8;
//   - what a client is given, and the record from the place where it has to
//     begin: the same blocks in the same order, comments apart;
//   - what a client is given next after it came back, or was merged, and what it
//     had before.
func TestModel(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-model.steps %d -model.seed %d", *modelSteps, seed)
	var total modelCounts
	for episode := 0; episode*modelEpisode < *modelSteps; episode++ {
		ok := t.Run(strconv.Itoa(episode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newModelWorld(t, rand.New(rand.NewPCG(seed, uint64(episode))))
				chanceOf(t, seed, uint64(episode))
				defer func() {
					if t.Failed() {
						t.Logf("-model.seed %d, episode %d, step %d: %s\n%s", seed, episode, w.step, w, strings.Join(w.log, "\n"))
					}
				}()
				for w.step = range modelEpisode {
					w.operate()
					w.settle()
				}
				w.finish()
				total.add(&w.counts)
			})
		})
		if !ok {
			t.Fatalf("repeat with -model.seed %d", seed)
		}
	}
	t.Logf("%+v", total)
}

// chanceOf makes the package's chance that of a seed until the test ends, so that the seed
// does the same again: else it would not, as reconnects come at random moments.
func chanceOf(t *testing.T, seed, episode uint64) {
	t.Helper()
	var mu sync.Mutex
	own, before := rand.New(rand.NewPCG(episode, seed)), random
	random = func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return own.Float64()
	}
	t.Cleanup(func() { random = before })
}

// modelCounts shows that what is to be tested was tested.
type modelCounts struct {
	Blocks, Joins, Live, Replayed, Gap, Spliced, Merged, Alone int
	Lagged, Skipped, Ended, Breaks, CleanEnds, Streams, Drops  int
	Reclaimed                                                  int
}

func (n *modelCounts) add(m *modelCounts) {
	for _, p := range []struct {
		to   *int
		from int
	}{
		{&n.Blocks, m.Blocks}, {&n.Joins, m.Joins}, {&n.Live, m.Live}, {&n.Replayed, m.Replayed}, {&n.Gap, m.Gap},
		{&n.Spliced, m.Spliced}, {&n.Merged, m.Merged}, {&n.Alone, m.Alone}, {&n.Lagged, m.Lagged}, {&n.Skipped, m.Skipped},
		{&n.Ended, m.Ended}, {&n.Breaks, m.Breaks}, {&n.CleanEnds, m.CleanEnds}, {&n.Streams, m.Streams}, {&n.Drops, m.Drops},
		{&n.Reclaimed, m.Reclaimed},
	} {
		*p.to += p.from
	}
}

// How a model's upstream gives ids.
type idStyle int

const (
	noIDs     idStyle = iota
	uniqueIDs         // every event has one of its own
	mixedIDs          // some events have none, some one that another has
)

// Serials of blocks that are not broadcast.
const (
	helloSerial = -1 // with which an upstream greets
	toldSerial  = -2 // a gap event of the stream
)

// truth is a block that the upstream broadcast; its serial is its index.
type truth struct {
	lines       string
	id          string
	hasID       bool
	dispatches  bool
	commentOnly bool
}

// modelWorld is an upstream, a hub, and clients.
type modelWorld struct {
	t       *testing.T
	rnd     *rand.Rand
	hub     *Hub
	inst    *Instance
	options *Options
	step    int
	log     []string
	counts  modelCounts

	style   idStyle
	resumes bool // the upstream goes on after a known ID
	greets  bool // the upstream sends hello to each connection
	last    int  // how many of its last blocks it sends to connections without an ID
	keeps   int  // how many blocks it knows by ID

	mu       sync.Mutex // of what follows, and of the upstream connections
	pumped   time.Time  // when nothing was under way any more
	arriving []*modelConn
	conns    []*modelConn
	truths   []truth
	records  map[*Stream]*record
	clients  []*modelClient
	usedIDs  []string // that clients had
}

// modelConn is an upstream connection.
type modelConn struct {
	ctx    context.Context
	lastID string
	conn   *upstreams.Conn
	end    chan upstreams.Ending
	do     chan func() error // what the connection does by itself: it may wait for clients
	wrote  chan error
	busy   func(error) // what to do when the block was taken
	behind bool        // it had to wait for clients, and what has come since waits too
	gone   bool
	queue  []int  // serials that are under way
	start  uint64 // what its stream had before
	since  int    // the newest serial when it began
	state  repeatState
	repeat int // index of the entry that it repeated last
}

// repeatState is what the model knows of what a later connection repeats.
type repeatState int

const (
	repeatAwaited repeatState = iota // no block with an id came yet
	repeatRunning
	repeatOver
)

// record is all that a stream was brought, by position.
type record struct {
	entries      []entry
	upstreamIDs  bool
	lastUpstream string // id of the upstream, with which it resumes
	lastID       string
	broke        bool
	gave         bool   // the upstream has sent an id
	newest       int    // serial of the newest block that is not comment-only
	told         bool   // a gap, after that block
	jumps        []jump // where it does not have what the upstream broadcast
	tails        []string
	ends         []int // where it ended cleanly
	connections  int
	connected    time.Time // when the newest of them began
	unknown      bool      // it was opened with an ID that the upstream does not go on from
	cut          int       // so many of the entries are lost for want of memory
	refusedAt    int       // of a splice that got no head: how many entries its stream had then
	refusedOn    int       // and how many connections
}

type entry struct {
	serial     int
	comment    bool
	dispatches bool
	lastID     string // what a client has there
	sets       bool   // the last event ID
	upstreamID string // what it has there by the upstream's ids alone
	size       int64
	at         time.Time
}

type jump struct{ from, to int }

// modelClient is a client as EventSource is one.
type modelClient struct {
	number int
	sub    *Subscriber // nil: away
	at     *Stream     // where it read when that was looked at last
	lastID string
	dec    eventstream.Decoder
	have   int // the newest serial that it needs no more; -1: not known
	seam   bool
	atMost bool // after the seam, older blocks may come again
	idSet  bool // in this response
	slow   bool
	headed bool // was sent its head
	begins int  // where the stream was then, if it waited still; -1: it did not
	outage bool // the upstream was away then
	waits  bool // for a place in a splice, or for the upstream

	seq    *record
	next   int // index of what it is to be given next
	live   int // comments before are not for it
	first  bool
	absent bool    // it came without an ID
	gaps   int     // told in band, by the gateway to this client alone
	asked  int     // the serial of the ID that its splice was asked with; -1: not known
	skips  bool    // it is yet to be told that the upstream did not go on there
	ending bool    // its response does, and what is being taken is the last of it
	left   *Stream // the splice that was left to it, of which it was told that the upstream did not go on there
	missed *int64
	skip   bool // after a gap event for lag
	older  bool // its last event ID is of before that
	lost   int  // index of the oldest entry that it may still be given
}

func newModelWorld(t *testing.T, rnd *rand.Rand) *modelWorld {
	t.Helper()
	w := &modelWorld{t: t, rnd: rnd, hub: NewHub(), records: make(map[*Stream]*record), truths: make([]truth, 1)}
	w.inst = w.hub.Register("place", "server")
	o := testOptions()
	o.Vouched = true // see TestSharingIsEarned for the others
	o.primeAfter = time.Duration(rnd.IntN(2)) * primeAfter
	o.IDs = []IDsMode{IDsAuto, IDsAuto, IDsUpstream, IDsGateway}[rnd.IntN(4)]
	o.Join = []joinMode{joinAuto, joinAuto, JoinLive, JoinReplay}[rnd.IntN(4)]
	o.JoinReplay = []int{-1, 1, 5, 50}[rnd.IntN(4)]
	o.Buffer.Events = 2 + rnd.IntN([]int{6, 60, 1000}[rnd.IntN(3)])
	if rnd.IntN(3) == 0 {
		o.Buffer.Size = int64(40 + rnd.IntN(3000))
	}
	if rnd.IntN(3) == 0 {
		o.Buffer.Age = time.Duration(1+rnd.IntN(20)) * time.Second
	}
	if rnd.IntN(4) > 0 {
		o.GapEvent = "gap"
		o.LagSkip = rnd.IntN(2) == 0
	}
	if rnd.IntN(4) == 0 {
		o.Linger = time.Duration(rnd.IntN(3)) * time.Second
	}
	o.SpliceLimit = 1 + rnd.IntN(4)
	w.options = o
	w.style = []idStyle{noIDs, uniqueIDs, mixedIDs}[rnd.IntN(3)]
	w.resumes = rnd.IntN(3) > 0
	w.greets = rnd.IntN(2) == 0
	if rnd.IntN(3) == 0 {
		w.last = 1 + rnd.IntN(8)
	}
	w.keeps = []int{5, 100, 1 << 30}[rnd.IntN(3)]
	return w
}

func (w *modelWorld) String() string {
	o := w.options
	return fmt.Sprintf("ids %d join %d replay %d buffer %+v gap_event %q lag skip %v linger %v splices %d; upstream: ids %d resumes %v greets %v last %d keeps %d",
		o.IDs, o.Join, o.JoinReplay, o.Buffer, o.GapEvent, o.LagSkip, o.Linger, o.SpliceLimit, w.style, w.resumes, w.greets, w.last, w.keeps)
}

func (w *modelWorld) logf(format string, args ...any) {
	if len(w.log) >= 400 {
		w.log = append(w.log[:0], w.log[200:]...)
	}
	w.log = append(w.log, fmt.Sprintf("%d: ", w.step)+fmt.Sprintf(format, args...))
}

func (w *modelWorld) Retired() bool { return false }

func (w *modelWorld) Renew(any, *Renewal) bool { return false }

func (w *modelWorld) Open(ctx context.Context, lastID string, conn *upstreams.Conn) (e upstreams.Ending) {
	c := &modelConn{
		ctx: ctx, lastID: lastID, conn: conn, end: make(chan upstreams.Ending, 1),
		do: make(chan func() error, 1), wrote: make(chan error, 1),
	}
	w.mu.Lock()
	w.arriving = append(w.arriving, c)
	w.mu.Unlock()
	for over := false; !over; {
		select {
		case do := <-c.do:
			c.wrote <- do()
		case e = <-c.end:
			over = true
		case <-ctx.Done():
			e.Err, over = ctx.Err(), true
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c.gone = true
	return e
}

// operate does something at random.
func (w *modelWorld) operate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch n := w.rnd.IntN(1000); {
	case n < 380:
		for range 1 + w.rnd.IntN(1+w.rnd.IntN(6)) {
			w.broadcast()
		}
		if w.rnd.IntN(4) > 0 {
			w.pumpAll()
		}
	case n < 480:
		w.pumpSome()
	case n < 700:
		if c := w.someClient(true); c != nil && (!c.slow || w.rnd.IntN(10) == 0) {
			w.read(c, 1+w.rnd.IntN(4))
		}
	case n < 745:
		if len(w.clients) < 14 {
			c := &modelClient{number: len(w.clients), have: -1, slow: w.rnd.IntN(4) == 0}
			w.clients = append(w.clients, c)
			w.join(c, w.anyID())
		}
	case n < 780:
		if c := w.someClient(true); c != nil {
			w.leave(c)
		}
	case n < 850:
		if c := w.someClient(false); c != nil {
			w.join(c, c.lastID)
		}
	case n < 860:
		if c := w.someClient(false); c != nil { // another client at the same place
			c.have, c.lastID = -1, w.anyID()
			w.join(c, c.lastID)
		}
	case n < 868:
		w.breakOff()
	case n < 870:
		w.reclaim()
	case n < 873:
		w.cleanEnd()
	case n < 970:
		w.sleep(time.Duration(1+w.rnd.IntN(100)) * time.Millisecond)
	case n < 995:
		w.pumpAll()
		w.sleep(time.Duration(w.rnd.IntN(3000)) * time.Millisecond)
	default:
		w.pumpAll()
		w.sleep(time.Duration(w.rnd.IntN(60)) * time.Second)
	}
}

// sleep lets time pass. No block is under way for longer than that half a second.
func (w *modelWorld) sleep(d time.Duration) {
	if time.Since(w.pumped) > time.Second/2 {
		w.pumpAll()
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
		pause := time.Until(end)
		behind := slices.ContainsFunc(w.conns, func(c *modelConn) bool { return c.behind })
		if behind {
			pause = min(pause, modelTurn)
		}
		w.mu.Unlock()
		time.Sleep(pause)
		w.mu.Lock()
		if behind {
			w.catchUp()
		}
	}
}

// modelTurn is how long a stream that had to wait for clients is left with what has
// come since.
const modelTurn = 10 * time.Millisecond

// catchUp lets streams that had to wait for clients take what has come since.
func (w *modelWorld) catchUp() {
	w.wait()
	w.collect()
	for _, c := range w.conns {
		for c.behind && c.busy == nil && !c.gone && len(c.queue) > 0 {
			w.pump(c)
		}
		c.behind = c.behind && !c.gone && (c.busy != nil || len(c.queue) > 0)
	}
}

// reclaim makes room for want of memory, and notes which blocks that has cost.
func (w *modelWorld) reclaim() {
	used := w.hub.Memory.Used.Load()
	if used < 2 {
		return
	}
	w.counts.Reclaimed++
	w.hub.LimitMemory(w.inst, 1+w.rnd.Int64N(used-1))
	w.wait()
	w.collect()
	w.hub.LimitMemory(w.inst, 0)
	for s, rec := range w.records {
		s.mu.Lock()
		rec.cut = max(rec.cut, int(s.buffer.Lost))
		s.mu.Unlock()
	}
	w.logf("room is made, from %d to %d bytes", used, w.hub.Memory.Used.Load())
}

// settle lets what was done have its effects, and answers upstream connections.
func (w *modelWorld) settle() {
	synctest.Wait()
	if used, sum := w.hub.Memory.Used.Load(), w.hub.measure(); used != sum {
		w.t.Errorf("%d bytes are counted in replay buffers that have %d", used, sum)
	}
	w.mu.Lock()
	w.catchUp()
	for w.rnd.IntN(4) > 0 && len(w.arriving) > 0 {
		c := w.arriving[0]
		w.arriving = w.arriving[1:]
		w.answer(c)
		w.mu.Unlock()
		synctest.Wait()
		w.mu.Lock()
	}
	w.conns = slices.DeleteFunc(w.conns, func(c *modelConn) bool { return c.gone })
	failed := w.t.Failed()
	w.mu.Unlock()
	if failed {
		w.abort()
		w.t.FailNow()
	}
}

// abort lets everything end, so that the bubble can.
func (w *modelWorld) abort() {
	for _, c := range w.clients {
		if c.sub != nil {
			c.sub.Leave()
		}
	}
	w.hub.EndAll()
	w.hub.running.Wait()
}

func (w *modelWorld) finish() {
	w.mu.Lock()
	w.pumpAll()
	for _, c := range w.clients {
		if c.sub != nil {
			w.read(c, 100)
		}
		if c.sub != nil {
			w.leave(c)
		}
		w.wait() // a splice that has waited for this client takes its next block
		w.collect()
	}
	w.mu.Unlock()
	for range 3 {
		time.Sleep(w.options.Linger + time.Minute)
	}
	w.hub.running.Wait()
	if used := w.hub.Memory.Used.Load(); used != 0 {
		w.t.Errorf("%d bytes are counted in no replay buffer", used)
	}
	if n := len(w.hub.Every()); n > 0 || len(w.hub.streams) > 0 {
		w.t.Errorf("%d streams are left", n)
	}
}

func (w *modelWorld) someClient(there bool) *modelClient {
	var some []*modelClient
	for _, c := range w.clients {
		if (c.sub != nil) == there {
			some = append(some, c)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return some[w.rnd.IntN(len(some))]
}

// anyID is a last event ID of any kind.
func (w *modelWorld) anyID() string {
	var epoch string
	var newest int
	for s, rec := range w.records {
		if !s.kind.beside && len(rec.entries) > newest {
			epoch, newest = s.epoch, len(rec.entries)
		}
	}
	gateway := func(position int) string {
		return string(replay.AppendID(nil, epoch, uint64(max(position, 0))))
	}
	switch w.rnd.IntN(14) {
	default:
		return ""
	case 6:
		return gateway(newest - w.rnd.IntN(20))
	case 7:
		return gateway(w.rnd.IntN(newest + 1))
	case 8:
		return gateway(newest + 1 + w.rnd.IntN(3))
	case 9:
		return replay.IDPrefix + strings.Repeat("ab", 16) + "." + strconv.Itoa(w.rnd.IntN(100))
	case 10, 11:
		return w.truths[len(w.truths)-1-w.rnd.IntN(min(len(w.truths), 30))].id
	case 12:
		if len(w.usedIDs) > 0 {
			return w.usedIDs[w.rnd.IntN(len(w.usedIDs))]
		}
		return w.truths[w.rnd.IntN(len(w.truths))].id
	case 13:
		return []string{
			"unknown", "sse1.", "sse1.x.7", replay.IDPrefix + epoch, "a\nb", "a\x00", strings.Repeat("y", replay.MaxID+1), strings.Repeat("z", replay.MaxID),
		}[w.rnd.IntN(8)]
	}
}

// broadcast makes a block and puts it on the way to all connections.
func (w *modelWorld) broadcast() {
	serial := len(w.truths)
	b := truth{}
	id := ""
	kind := w.rnd.IntN(20)
	switch w.style {
	case uniqueIDs:
		id = "u" + strconv.Itoa(serial)
	case mixedIDs:
		if w.rnd.IntN(2) == 0 {
			id = "m" + strconv.Itoa(serial-w.rnd.IntN(3))
		}
	case noIDs:
	}
	text := "n: " + strconv.Itoa(serial) + "\n"
	switch {
	case kind == 0:
		text += ": comment\n"
		b.commentOnly = true
		id = ""
	case kind == 1:
		text += "retry: " + strconv.Itoa(500+w.rnd.IntN(500)) + "\n"
		if w.style == mixedIDs {
			id = ""
		}
	case kind == 2 && id != "":
	default:
		text += "data: " + strings.Repeat("x", w.rnd.IntN(50)) + "\n"
		b.dispatches = true
		if w.style == mixedIDs && w.rnd.IntN(30) == 0 {
			text += "id\n"
			b.hasID = true
			id = ""
		}
	}
	if id != "" {
		text = "id: " + id + "\n" + text
		b.id, b.hasID = id, true
	}
	b.lines = text
	w.truths = append(w.truths, b)
	w.counts.Blocks++
	for _, c := range w.conns {
		c.queue = append(c.queue, serial)
	}
}

// after is the serial of the block that follows one, comments apart.
func (w *modelWorld) after(serial int) int {
	for {
		if serial++; serial >= len(w.truths) || !w.truths[serial].commentOnly {
			return serial
		}
	}
}

// knows returns the serial after which the upstream goes on for an ID.
func (w *modelWorld) knows(id string) (serial int, ok bool) {
	if !w.resumes || id == "" {
		return 0, false
	}
	current := ""
	for i := 1; i < len(w.truths); i++ {
		if b := &w.truths[i]; b.hasID && b.id != current {
			current = b.id
			if current == id {
				serial, ok = i, true
			}
		}
	}
	return serial, ok && len(w.truths)-serial <= w.keeps
}

// ambiguous reports whether the upstream gave an ID again, after another one: who
// has it goes on after the newest of them.
func (w *modelWorld) ambiguous(id string) bool {
	runs, current := 0, ""
	for i := 1; i < len(w.truths); i++ {
		if b := &w.truths[i]; b.hasID && b.id != current {
			current = b.id
			if current == id && id != "" {
				runs++
			}
		}
	}
	return runs > 1
}

// answer gives a new upstream connection a head, or none.
func (w *modelWorld) answer(c *modelConn) {
	s := intakeOf(c.conn).stream
	if c.gone || c.ctx.Err() != nil {
		return
	}
	rec := w.records[s]
	if rec == nil {
		rec = &record{lastUpstream: s.openID}
		w.records[s] = rec
		w.counts.Streams++
	}
	if rec.connections > 0 && c.lastID != rec.lastUpstream {
		w.t.Errorf("reconnects with %q, expected %q", c.lastID, rec.lastUpstream)
	}
	if w.rnd.IntN(12) == 0 && (rec.connections > 0 || w.rnd.IntN(10) == 0) {
		status := []int{0, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusNoContent}[w.rnd.IntN(4)]
		w.logf("upstream connection with %q: status %d", c.lastID, status)
		if c.conn.Opening() {
			c.conn.Refused(upstreams.Ending{Status: status}.Retriable(), nil)
		}
		end := upstreams.Ending{Status: status}
		if status == 0 {
			end.Err = errReset
		}
		if s.splice != nil {
			parent := w.records[s.splice.parent]
			rec.refusedAt, rec.refusedOn = len(parent.entries), parent.connections
		}
		c.end <- end
		c.gone = true
		return
	}
	c.start = uint64(len(rec.entries))
	c.since = len(w.truths) - 1
	gave := rec.gave || (s.kind.beside && s.said.gaveID) // as its stream did when it was opened
	if s.splice != nil {
		gave = gave || w.records[s.splice.parent].gave
	}
	told := rec.broke && (c.lastID == "" || !gave) && w.options.GapEvent != ""
	rec.broke = false
	first := rec.connections == 0
	rec.connections++
	rec.connected = time.Now()
	serial, known := w.knows(c.lastID)
	rec.unknown = rec.unknown || c.lastID != "" && (!known || (first && w.ambiguous(c.lastID))) && rec.newest == 0
	if w.greets && !known {
		c.queue = append(c.queue, helloSerial)
	}
	if !known {
		serial = len(w.truths) - 1
		if c.lastID == "" {
			serial = max(0, serial-w.last)
		}
	}
	for serial++; serial < len(w.truths); serial++ {
		c.queue = append(c.queue, serial)
	}
	w.conns = append(w.conns, c)
	w.logf("upstream connection %d of %p with %q (splice: %v): sends %v", rec.connections, s, c.lastID, s.kind.beside, c.queue)
	w.run(c, func() error {
		c.conn.Opened(&upstreams.Head{Header: http.Header{}}, nil)
		return nil
	}, func(error) {
		s.mu.Lock()
		for _, client := range w.clients {
			switch {
			case client.sub == nil || client.at != s:
			case first && s.kind.beside:
				w.expectMissed(client)
			case client.waits && !client.sub.waiting: // it goes on where it had its head
				w.moved(client, true)
			}
		}
		s.mu.Unlock()
		if told && c.ctx.Err() == nil {
			w.note(c, rec, toldSerial)
		}
	})
}

func (w *modelWorld) pumpAll() {
	w.pumped = time.Now()
	for _, i := range w.rnd.Perm(len(w.conns)) {
		for c := w.conns[i]; len(c.queue) > 0 && !c.gone && c.busy == nil; {
			w.pump(c)
		}
	}
}

func (w *modelWorld) pumpSome() {
	if len(w.conns) == 0 {
		return
	}
	c := w.conns[w.rnd.IntN(len(w.conns))]
	for n := 1 + w.rnd.IntN(5); n > 0 && len(c.queue) > 0 && !c.gone && c.busy == nil; n-- {
		w.pump(c)
	}
}

// pump brings one block to the gateway.
func (w *modelWorld) pump(c *modelConn) {
	s := intakeOf(c.conn).stream
	serial := c.queue[0]
	c.queue = c.queue[1:]
	if c.ctx.Err() != nil {
		c.gone = true
		return
	}
	rec := w.records[s]
	text := "n: -1\ndata: hello\n"
	if serial > 0 {
		text = w.truths[serial].lines
	}
	was, repeat := c.state, c.repeat
	expected := w.isRepeat(c, rec, serial)
	dropped := intakeOf(c.conn).dropped
	done := func(err error) {
		if err != nil {
			if !errors.Is(err, ErrStreamOver) {
				w.t.Errorf("write: %v", err)
			}
			c.gone = true
			return
		}
		repeated := intakeOf(c.conn).dropped > dropped
		if repeated != expected && c.behind { // what it repeats may have been evicted while it waited
			c.state, c.repeat = was, repeat
			expected = w.isRepeat(c, rec, serial)
		}
		if repeated != expected {
			w.t.Errorf("block %d dropped as repeated: %v, expected %v", serial, repeated, expected)
		}
		if !expected {
			w.note(c, rec, serial)
			return
		}
		w.counts.Drops++
		if serial > 0 && !w.truths[serial].commentOnly {
			rec.newest = serial
		}
	}
	w.run(c, func() error {
		_, err := c.conn.Write([]byte(text + "\n"))
		return err
	}, done)
}

// run lets a connection do something. It may have to wait for clients: then it is
// busy, and collect calls done. What others bring meanwhile comes in its time.
func (w *modelWorld) run(c *modelConn, do func() error, done func(error)) {
	c.busy = done
	c.do <- do
	w.wait()
	w.collect()
	c.behind = c.behind || (c.busy != nil && !intakeOf(c.conn).stream.kind.beside) // whose clients hold it up for as long as they like
}

// wait lets all others do what they can.
func (w *modelWorld) wait() {
	w.mu.Unlock()
	synctest.Wait()
	w.mu.Lock()
}

// collect takes note of the blocks that streams have taken meanwhile.
func (w *modelWorld) collect() {
	for _, c := range w.conns {
		if c.busy == nil {
			continue
		}
		select {
		case err := <-c.wrote:
			done := c.busy
			c.busy = nil
			done(err)
		default:
		}
	}
}

// isRepeat says whether a stream has to drop a block, by the letter of DESIGN 8.
func (w *modelWorld) isRepeat(c *modelConn, rec *record, serial int) bool {
	if rec.connections < 2 {
		return false
	}
	s := intakeOf(c.conn).stream
	s.mu.Lock()
	lost := int(s.buffer.Lost)
	s.mu.Unlock()
	switch c.state {
	case repeatAwaited:
		if serial < 0 || w.truths[serial].id == "" {
			return false
		}
		for i := lost; i < int(c.start); i++ {
			if rec.entries[i].serial != serial {
				continue
			}
			if w.repeatsUpTo(c, rec, i) {
				c.state = repeatOver
				return false
			}
			c.state, c.repeat = repeatRunning, i
			return true
		}
		c.state = repeatOver
	case repeatRunning:
		if serial > 0 && w.truths[serial].commentOnly {
			return false
		}
		for i := c.repeat + 1; i < int(c.start); i++ {
			if rec.entries[i].comment {
				continue
			}
			if rec.entries[i].serial == serial && i >= lost {
				c.repeat = i
				return true
			}
			break
		}
		c.state = repeatOver
	case repeatOver:
	}
	return false
}

// repeatsUpTo reports whether the newest entries of a connection are those before
// an older one that come after the ID that the connection was asked with.
func (w *modelWorld) repeatsUpTo(c *modelConn, rec *record, i int) bool {
	s := intakeOf(c.conn).stream
	s.mu.Lock()
	from, known := s.buffer.Find(c.lastID)
	lost := int(s.buffer.Lost)
	s.mu.Unlock()
	for j, other := int(c.start)-1, known; j >= lost && !other; j-- { // the newest blocks with that ID, unseen by clients
		if serial := rec.entries[j].serial; serial > 0 && w.truths[serial].hasID {
			same := w.truths[serial].id == c.lastID
			if other = known && !same; same {
				from, known = uint64(j+1), true
			}
		}
	}
	serials := func(entries []entry) (list []int) {
		for _, e := range entries {
			if !e.comment && e.serial != toldSerial {
				list = append(list, e.serial)
			}
		}
		return list
	}
	if !known || int(from) >= i {
		return false
	}
	kept, brought := serials(rec.entries[from:i]), serials(rec.entries[c.start:])
	return len(kept) > 0 && len(brought) >= len(kept) && slices.Equal(brought[len(brought)-len(kept):], kept)
}

// note appends a block to a stream's record.
func (w *modelWorld) note(c *modelConn, rec *record, serial int) {
	s := intakeOf(c.conn).stream
	e := entry{serial: serial, dispatches: true, at: time.Now()}
	var b truth
	if serial > 0 {
		b = w.truths[serial]
		e.dispatches, e.comment = b.dispatches, b.commentOnly
	}
	if b.hasID {
		rec.lastUpstream = b.id
	}
	if b.id != "" {
		rec.gave = true
		rec.upstreamIDs = rec.upstreamIDs || w.options.IDs != IDsGateway
	}
	if b.hasID && w.options.IDs != IDsGateway {
		rec.lastID = b.id
		e.sets = true
	}
	e.upstreamID = rec.lastID
	if _, _, ok := replay.ParseID(rec.lastID); ok {
		e.upstreamID = ""
	}
	if e.dispatches && !rec.upstreamIDs && w.options.IDs != IDsUpstream && !s.kind.beside {
		rec.lastID = string(replay.AppendID(nil, s.epoch, uint64(len(rec.entries)+1)))
		e.sets = true
	}
	e.lastID = rec.lastID
	s.mu.Lock()
	if n := len(s.buffer.Blocks); n > 0 {
		e.size, e.at = int64(len(s.buffer.Blocks[n-1].Wire)), s.buffer.Blocks[n-1].At
	}
	if newest := s.buffer.Newest; s.phase != phaseGone && newest != uint64(len(rec.entries)+1) {
		w.t.Errorf("position %d, expected %d", newest, len(rec.entries)+1)
	}
	s.mu.Unlock()
	rec.entries = append(rec.entries, e)
	switch {
	case serial == toldSerial:
		rec.told = true
	case serial > 0 && !e.comment:
		want := w.after(rec.newest)
		if rec.newest > 0 && serial != want {
			rec.jumps = append(rec.jumps, jump{rec.newest, serial})
			if serial > want && !rec.told && c.lastID == "" && w.options.GapEvent != "" {
				w.t.Errorf("after block %d comes %d and no gap is told", rec.newest, serial)
			}
			if serial < want && w.style == uniqueIDs && w.last == 0 {
				w.t.Errorf("after block %d comes %d again", rec.newest, serial)
			}
		}
		rec.newest = serial
		rec.told = false
	}
}

func (w *modelWorld) someConn() *modelConn {
	live := slices.DeleteFunc(slices.Clone(w.conns), func(c *modelConn) bool { return c.gone || c.busy != nil || c.ctx.Err() != nil })
	if len(live) == 0 {
		return nil
	}
	return live[w.rnd.IntN(len(live))]
}

func (w *modelWorld) breakOff() {
	if c := w.someConn(); c != nil {
		w.logf("upstream connection of %p breaks", intakeOf(c.conn).stream)
		w.counts.Breaks++
		c.gone = true
		w.records[intakeOf(c.conn).stream].broke = true
		c.end <- upstreams.Ending{Events: true, Status: http.StatusOK, Err: errReset}
	}
}

func (w *modelWorld) cleanEnd() {
	if c := w.someConn(); c != nil {
		for len(c.queue) > 0 && !c.gone && c.busy == nil {
			w.pump(c)
		}
		if c.gone || c.busy != nil || c.ctx.Err() != nil {
			return
		}
		w.logf("upstream connection of %p ends", intakeOf(c.conn).stream)
		w.counts.CleanEnds++
		c.gone = true
		rec := w.records[intakeOf(c.conn).stream]
		rec.broke = true
		tail := ""
		if w.rnd.IntN(3) == 0 {
			tail = "data: [DONE]"
			if _, err := c.conn.Write([]byte(tail)); err != nil {
				w.t.Errorf("write: %v", err)
			}
		}
		rec.tails = append(rec.tails, tail)
		rec.ends = append(rec.ends, len(rec.entries))
		c.end <- upstreams.Ending{Events: true, Clean: true, Status: http.StatusOK}
	}
}

// join lets a client ask for the stream.
func (w *modelWorld) join(c *modelClient, id string) {
	sub, err := w.hub.Join(&Request{
		Instance: w.inst, LastEventID: id, Options: w.options, Logger: zap.NewNop(),
		Source: func(bool) Source { return w },
	})
	if errors.Is(err, ErrUnshareable) {
		return // by a 204
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.counts.Joins++
	rec := w.records[sub.Origin]
	if rec == nil {
		rec = &record{lastUpstream: sub.Origin.openID}
		rec.lastID = sub.Origin.openID
		w.records[sub.Origin] = rec
		w.counts.Streams++
	}
	had := c.have
	if id != c.lastID || w.ambiguous(id) {
		had = -1
	}
	*c = modelClient{
		number: c.number, slow: c.slow, sub: sub, at: sub.stream, waits: sub.waiting, lastID: id, have: -1,
		seq: rec, live: len(rec.entries), first: true, absent: id == "",
	}
	w.expectOutcome(c, id, had)
	if sub.stream != sub.Origin {
		w.spliced(c)
	}
	w.logf("client %d comes with %q (have %d): %s of %p, waiting %v, next %d of %d, have %d", c.number, replay.Clip(id), had, sub.outcome(), sub.Origin,
		sub.waiting, c.next, len(rec.entries), c.have)
}

// locate says after which entry a client with an ID goes on.
func (rec *record) locate(s *Stream, mode IDsMode, id string) (next int, ok bool) {
	if mode != IDsUpstream {
		if epoch, position, ok := replay.ParseID(id); ok {
			return int(position), epoch == s.epoch && position <= uint64(len(rec.entries))
		}
	}
	if id == s.openID && id != "" {
		next, ok = 0, rec.gave || len(rec.entries) == 0 // else it means nothing to the upstream
	}
	current := s.openID
	for i := range rec.entries {
		if e := &rec.entries[i]; e.upstreamID != current {
			current = e.upstreamID
			if current == id && id != "" {
				next, ok = i+1, true
			}
		}
	}
	return next, ok
}

// fits reports whether a buffer with these limits certainly keeps all entries
// from an index on, and bursts whether it certainly does not.
func (rec *record) fits(from int, limits replay.Limits) bool {
	if from < rec.cut {
		return false
	}
	rest := rec.entries[min(from, len(rec.entries)):]
	size := int64(0)
	for i := range rest {
		size += rest[i].size
	}
	return len(rest) <= limits.Events && size <= limits.Size && (len(rest) == 0 || time.Since(rest[0].at) <= limits.Age)
}

func (rec *record) bursts(from int, limits replay.Limits) bool {
	n, size := 0, int64(0)
	for _, e := range rec.entries[min(from, len(rec.entries)):] {
		if !e.comment {
			n++
			size += e.size
		}
	}
	return n > limits.Events || (n > 1 && size > limits.Size)
}

// eventsFrom counts events of the upstream.
func (rec *record) eventsFrom(from, to int) (n int) {
	for _, e := range rec.entries[from:to] {
		if e.dispatches && e.serial != toldSerial {
			n++
		}
	}
	return n
}

// newestBefore is the serial of the newest broadcast block before an index, -1
// if there is none.
func (rec *record) newestBefore(i int) int {
	for i--; i >= 0; i-- {
		if e := &rec.entries[i]; e.serial > 0 && !e.comment {
			return e.serial
		}
	}
	return -1
}

// expectOutcome checks what a client is told when it joins and sets where it
// has to begin. had is what it needs no more.
func (w *modelWorld) expectOutcome(c *modelClient, id string, had int) {
	sub, rec, o := c.sub, c.seq, w.options
	s := sub.Origin
	s.mu.Lock()
	defer s.mu.Unlock()
	next, located := rec.locate(s, o.IDs, id)
	valid := len(id) <= replay.MaxID && !strings.ContainsAny(id, "\r\n\x00")
	_, _, shape := replay.ParseID(id)
	own := shape && o.IDs != IDsUpstream
	may := func(outcomes ...string) {
		w.t.Helper()
		if got, _, _ := strings.Cut(sub.outcome(), ";"); !slices.Contains(outcomes, got) {
			w.t.Errorf("client %d with %q: outcome %q, expected one of %q", c.number, replay.Clip(id), sub.outcome(), outcomes)
		}
	}
	switch {
	case id == "":
		may(ResumeLive)
	case !valid:
		may(ResumeGap)
	case own && !located, own && rec.bursts(next, o.Buffer):
		may(ResumeGap)
	case own && rec.fits(next, o.Buffer):
		may(ResumeReplayed)
	case own:
		may(ResumeReplayed, ResumeGap)
	case id == s.openID && len(rec.entries) == 0:
		may(ResumeSpliced)
	case !located, rec.bursts(next, o.Buffer):
		given := !s.said.showsIDs && o.IDs != IDsUpstream && rec.eventsFrom(0, len(rec.entries)) > 0
		switch {
		case o.IDs == IDsGateway, given:
			may(ResumeGap)
		case located && w.style == mixedIDs && rec.connections > 1:
			may(ResumeSpliced, ResumeReplayed) // the ID came anew after a reconnect: the newest match wins
		default:
			may(ResumeSpliced)
		}
	case w.style == uniqueIDs && rec.fits(next, o.Buffer) && s.learned.unmerged == 0 && w.last == 0:
		may(ResumeReplayed)
	}

	newest := len(rec.entries)
	switch outcome, _, _ := strings.Cut(sub.outcome(), ";"); outcome {
	case ResumeReplayed:
		w.counts.Replayed++
		if at := int(sub.cursor); w.style == mixedIDs && at > next && rec.entries[at-1].upstreamID == id && rec.connections > 1 {
			next = at // the upstream gave the ID anew after a reconnect: the newest match wins
		}
		if want := fmt.Sprintf("replayed; events=%d", rec.eventsFrom(next, newest)); sub.outcome() != want {
			w.t.Errorf("client %d with %q: outcome %q, expected %q", c.number, id, sub.outcome(), want)
		}
		c.next = next
		c.have, c.seam, c.atMost = had, true, w.style == mixedIDs
		if before := rec.newestBefore(next); had < 0 || (w.style == mixedIDs && before > had) {
			c.have = before // the ID is that of a later block too
		}
		c.idSet = true
		return
	case ResumeSpliced:
		w.counts.Spliced++
		if serial, ok := w.knows(id); ok && !w.ambiguous(id) {
			c.have, c.seam, c.atMost = serial, true, w.style == mixedIDs
			if had >= 0 && w.style == uniqueIDs {
				c.have = had
			}
		}
		return
	case ResumeGap:
		w.counts.Gap++
		whole := !rec.bursts(0, o.Buffer) && (rec.fits(0, o.Buffer) || s.buffer.Lost == 0)
		if _, position, _ := replay.ParseID(id); whole && position != nowhere {
			c.next = 0
			break
		}
		w.begin(c)
	case ResumeLive:
		w.counts.Live++
		w.begin(c)
	}
	if o.GapEvent != "" && sub.outcome() == ResumeGap {
		c.gaps = 1
	}
}

// says reports whether an entry says something, which a reconnection time does not.
func (w *modelWorld) says(e entry) bool {
	return e.serial < 0 || w.truths[e.serial].dispatches || w.truths[e.serial].hasID
}

// begin sets where a client without a known ID begins.
func (w *modelWorld) begin(c *modelClient) {
	rec, o := c.seq, w.options
	c.next = len(rec.entries)
	if o.Join != JoinReplay {
		return
	}
	if o.JoinReplay >= 0 {
		n := o.JoinReplay
		for c.next > 0 && n > 0 {
			c.next--
			if rec.entries[c.next].dispatches {
				n--
			}
		}
		if n > 0 {
			c.next = 0
		}
	} else {
		c.next = 0
	}
	if !rec.fits(c.next, o.Buffer) {
		c.next = max(c.next, int(c.sub.Origin.buffer.Lost))
	}
}

func (w *modelWorld) leave(c *modelClient) {
	w.logf("client %d leaves with %q", c.number, c.lastID)
	c.sub.Leave()
	c.sub = nil
	if c.lastID != "" && len(w.usedIDs) < 1000 {
		w.usedIDs = append(w.usedIDs, c.lastID)
	}
	if c.lastID == "" || c.older {
		c.have = -1
	}
}

// read lets a client take what there is, in at most n writes.
func (w *modelWorld) read(c *modelClient, n int) {
	sub := c.sub
	select {
	case <-sub.Origin.ready:
	default:
		return
	}
	if _, err := sub.Origin.verdict(); err != nil {
		w.leave(c)
		return
	}
	if !c.headed {
		sub.Origin.mu.Lock()
		waiting := sub.waiting
		sub.Origin.mu.Unlock()
		held, _ := sub.held(time.Now())
		sub.Origin.mu.Lock()
		w.moved(c, waiting)
		sub.Origin.mu.Unlock()
		if held != nil {
			return
		}
		if end := sub.TurnedAway(); end != "" {
			w.ended(c, end)
			return
		}
		c.headed, c.begins = true, -1
		if sub.waiting && sub.id() == "" {
			c.begins = len(w.records[sub.Origin].entries)
			sub.Origin.mu.Lock()
			c.outage = sub.Origin.phase != phaseLive
			sub.Origin.mu.Unlock()
		}
	}
	for range n {
		sub.Origin.mu.Lock()
		waiting, from := sub.waiting, sub.stream
		lost, lostHome := from.buffer.Lost, sub.Origin.buffer.Lost
		sub.Origin.mu.Unlock()
		chunks, wake, _, end := sub.Next(nil, time.Now())
		sub.Origin.mu.Lock()
		w.moved(c, waiting)
		if sub.stream == sub.Origin {
			lost = lostHome
		}
		c.lost = int(lost)
		onSplice := sub.stream.kind.beside
		c.ending = end != ""
		sub.Origin.mu.Unlock()
		for _, chunk := range chunks {
			if err := c.dec.Write(chunk.Wire, func(b eventstream.Block) error { return w.take(c, b) }); err != nil {
				w.t.Errorf("client %d: %v", c.number, err)
				return
			}
		}
		w.checkID(c, onSplice)
		if end != "" {
			w.ended(c, end)
			return
		}
		if wake != nil {
			w.expectAll(c)
		}
		w.wait() // who has waited for this client takes its next block
		w.collect()
		if wake != nil {
			return
		}
	}
}

// moved takes note of where a client reads now: in a splice, or no longer.
func (w *modelWorld) moved(c *modelClient, waiting bool) {
	sub, from := c.sub, c.at
	c.at, c.waits = sub.stream, sub.waiting
	rec := w.records[sub.Origin]
	switch {
	case waiting && !sub.waiting && sub.stream == sub.Origin:
		w.logf("client %d waits no more, id %q", c.number, sub.id())
		if next, ok := rec.locate(sub.Origin, w.options.IDs, sub.id()); ok {
			c.next = next
			if w.ambiguous(sub.id()) { // by now
				c.have, c.seam = -1, false
			}
		} else {
			c.next, c.live = len(rec.entries), len(rec.entries)
			if c.headed && c.begins >= 0 {
				c.next, c.first = c.begins, false
				if lost := int(min(sub.Origin.buffer.Lost, sub.cursor)); c.next < lost {
					c.next = lost
					c.expectGap()
				}
			}
		}
	case waiting && !sub.waiting:
		w.spliced(c)
	}
	switch {
	case from == sub.stream || !from.kind.beside:
	case from.splice.merged:
		w.merged(c, from)
	case sub.waiting:
		w.logf("client %d waits again: its splice could not reach the upstream", c.number)
		c.seq, c.next, c.live, c.first, c.idSet = rec, 0, len(rec.entries), true, false
	case sub.stream.kind.beside:
		w.logf("client %d waited again, and has another splice", c.number)
		c.first = true
		w.spliced(c)
	default:
		w.logf("client %d begins at the newest event: its splice was refused", c.number)
		c.seq = w.records[sub.Origin]
		c.next, c.live = int(sub.live), int(sub.live)
		// It may have waited for another connection of the stream since, without a head.
		if r := w.records[from]; r.refusedAt > 0 && c.next > r.refusedAt && r.refusedOn == c.seq.connections {
			at := r.refusedAt
			w.t.Errorf("client %d begins at %d, its splice was refused at %d", c.number, c.next, at)
		}
		c.have, c.seam, c.first, c.idSet = -1, false, false, false
		if sub.outcome() == ResumeGap && w.options.GapEvent != "" {
			c.gaps = 1
		}
	}
}

// expectGap takes note that a client is to be told a gap before anything else.
func (c *modelClient) expectGap() {
	if c.sub.Origin.options.GapEvent != "" {
		c.gaps++
	}
}

// expectMissed takes note that a client's splice has its head: a client that had one
// before is told what it may have missed until then.
func (w *modelWorld) expectMissed(c *modelClient) {
	if !c.headed || c.begins < 0 || c.sub.id() != "" {
		return
	}
	if c.outage || c.begins < int(c.sub.Origin.buffer.Lost) || slices.ContainsFunc(w.records[c.sub.Origin].entries[c.begins:], w.says) {
		c.expectGap()
	}
}

// spliced takes note that a client reads a splice.
func (w *modelWorld) spliced(c *modelClient) {
	sub := c.sub
	sp := w.records[sub.stream]
	if sp == nil {
		sp = &record{lastUpstream: sub.stream.openID, lastID: sub.stream.openID, upstreamIDs: sub.stream.said.showsIDs}
		w.records[sub.stream] = sp
	}
	c.seq, c.next, c.live, c.idSet = sp, 0, 0, false
	if !sub.stream.track.HeadAt.IsZero() {
		w.expectMissed(c)
	}
	if w.ambiguous(sub.id()) { // by now
		c.have, c.seam = -1, false
	}
	c.asked = -1
	if serial, ok := w.knows(sub.id()); ok && !w.ambiguous(sub.id()) {
		c.asked = serial
	}
	if sub.id() != sub.stream.openID { // it shares one that has brought its ID
		if next, ok := sp.locate(sub.stream, w.options.IDs, sub.id()); ok {
			c.next = next
			if before := sp.newestBefore(next); w.style == mixedIDs && before > c.have {
				c.have = before // the ID is that of a later block too
			}
		} else if sub.id() != "" {
			w.t.Errorf("client %d with %q: came to a splice with %q, which has not brought that", c.number, sub.id(), sub.stream.openID)
		}
	}
	if sub.id() == "" {
		c.next, c.live = len(sp.entries), len(sp.entries)
		if slices.ContainsFunc(sp.entries, func(e entry) bool { // retry alone is no beginning
			return e.serial > 0 && (w.truths[e.serial].dispatches || w.truths[e.serial].hasID)
		}) {
			w.t.Errorf("client %d: came to a splice that has begun", c.number)
		}
	}
}

// merged takes note that a client went over from a splice to the stream.
func (w *modelWorld) merged(c *modelClient, sp *Stream) {
	w.counts.Merged++
	rec := w.records[c.sub.Origin]
	w.expectAll(c)
	to := int(sp.splice.to)
	w.logf("client %d (have %d) is merged after %d of %d", c.number, c.have, to, len(rec.entries))
	c.seq, c.next, c.live = rec, to, to
	c.seam, c.idSet = c.have >= 0 && !w.records[sp].unknown, false
	c.atMost = w.style == mixedIDs
	c.skip = false
	if c.skips = sp.splice.gap != nil; c.skips {
		w.checkSkip(c, sp, to)
	}
}

// checkSkip checks that an upstream did not go on after the ID that a splice was opened
// with, which is told to a client; to is where that goes on in the stream.
func (w *modelWorld) checkSkip(c *modelClient, sp *Stream, to int) {
	if c.asked < 0 {
		return
	}
	rec := w.records[c.sub.Origin]
	first := 0 // event of the splice
	for _, e := range w.records[sp].entries {
		if e.serial > 0 && !e.comment {
			first = e.serial
			break
		}
	}
	// Else nobody can know that the ID is not older than all there is, or that
	// what came to both was not new.
	_, had := rec.locate(c.sub.Origin, w.options.IDs, c.sub.id())
	had = had && sp.born.Sub(rec.connected) > 2*twinWindow && !slices.ContainsFunc(rec.entries, func(e entry) bool {
		return e.serial == first && first > 0 && !e.at.After(sp.track.HeadAt)
	})
	if missing := w.after(c.asked); had && (missing == first || (first == 0 && rec.newestBefore(to) <= c.asked)) {
		w.t.Errorf("client %d is told a gap after %d, and the upstream went on with %d", c.number, c.asked, first)
	}
}

// expectAll checks that a client was given all that there is.
func (w *modelWorld) expectAll(c *modelClient) {
	if c.sub.waiting || c.sub.stream != c.sub.Origin && w.records[c.sub.stream] != c.seq {
		return
	}
	for i := c.next; i < len(c.seq.entries); i++ {
		if e := &c.seq.entries[i]; !e.comment && !c.skip {
			w.t.Errorf("client %d was not given block %d at index %d of %d", c.number, e.serial, i, len(c.seq.entries))
			return
		}
	}
}

// take checks a block that a client is given.
func (w *modelWorld) take(c *modelClient, b eventstream.Block) error {
	if b.HasID {
		c.lastID = string(b.ID)
		c.idSet, c.older = true, false
	}
	serial := 0
	for name, value := range eventstream.Fields(b.Lines) {
		if string(name) == "n" {
			serial, _ = strconv.Atoi(string(value))
			break
		}
	}
	if string(b.Type) == "gap" {
		var gap struct {
			Reason string `json:"reason"`
			Missed *int64 `json:"missed"`
		}
		if err := json.Unmarshal(b.AppendData(nil), &gap); err != nil {
			return err
		}
		if c.gaps > 0 { // it goes out before anything else
			c.gaps--
			return nil
		}
		switch gap.Reason {
		case GapUpstream:
			if c.skips {
				c.skips = false
				return nil
			}
			if c.ending && c.sub.stream.kind.beside && c.next == len(c.seq.entries) {
				w.checkSkip(c, c.sub.stream, len(w.records[c.sub.Origin].entries))
				return nil // before it was merged
			}
			if sp := c.sub.stream; sp.kind.beside && sp.splice == nil && c.left != sp && !c.tellsNext() {
				c.left = sp // to its clients
				sp.mu.Lock()
				behind := sp.track.Full || !sp.track.HeldAt.IsZero() // the stream may have evicted what it is yet to read
				sp.mu.Unlock()
				if !behind {
					w.checkSkip(c, sp, len(w.records[c.sub.Origin].entries))
				}
				return nil
			}
			serial = toldSerial
		case gapLag:
			if c.seq.fits(c.next, w.options.Buffer) || w.neverLags(c) {
				return fmt.Errorf("gap for lag at index %d of %d", c.next, len(c.seq.entries))
			}
			w.counts.Skipped++
			if c.skip && c.missed != nil && gap.Missed != nil { // it fell behind again before it was given an event
				*gap.Missed += *c.missed
			}
			c.skip, c.missed, c.first = true, gap.Missed, false
			return nil
		default:
			return fmt.Errorf("a gap is told that is none: %s", gap.Reason)
		}
	}
	if serial == 0 {
		if b.Dispatches() {
			return fmt.Errorf("unknown event %q", b.Lines)
		}
		return nil
	}
	return w.takeSerial(c, serial, b)
}

// tellsNext reports whether what comes next is a gap that all readers of the sequence are told.
func (c *modelClient) tellsNext() bool {
	rest := c.seq.entries[c.next:]
	if c.next < c.lost {
		if !c.skip {
			return false // that it is behind comes first
		}
		rest = c.seq.entries[c.lost:]
	}
	i := slices.IndexFunc(rest, func(e entry) bool { return !e.comment })
	return i >= 0 && rest[i].serial == toldSerial
}

func (w *modelWorld) takeSerial(c *modelClient, serial int, b eventstream.Block) error {
	if c.gaps > 0 {
		return errors.New("the gap was not told")
	}
	if serial > 0 {
		want := w.truths[serial].lines
		if w.options.IDs == IDsGateway {
			want = string(withoutIDs([]byte(want)))
		}
		if lines := string(b.Lines); lines != want {
			rest, ok := strings.CutPrefix(lines, want)
			if _, _, own := replay.ParseID(strings.TrimSuffix(strings.TrimPrefix(rest, "id: "), "\n")); !ok || !own {
				return fmt.Errorf("given %q, expected %q", lines, want)
			}
		}
	}
	entries := c.seq.entries
	i := c.next
	if c.skip {
		i = max(i, c.lost)
	}
	comment := serial > 0 && w.truths[serial].commentOnly
	for ; i < len(entries) && (entries[i].serial != serial || comment && i < c.live); i++ {
		if !entries[i].comment && !c.skip {
			return fmt.Errorf("given block %d, expected %d (index %d of %d)", serial, entries[i].serial, i, len(entries))
		}
	}
	if i == len(entries) {
		return fmt.Errorf("given block %d, which is not there to be given: index %d of %d", serial, c.next, len(entries))
	}
	e := &entries[i]
	if c.skip {
		if n := c.seq.eventsFrom(c.next, i); c.missed != nil && *c.missed != int64(n) {
			return fmt.Errorf("told that %d events are missing, but they are %d, from index %d to %d of %d", *c.missed, n, c.next, i, len(entries))
		}
		c.skip, c.seam, c.idSet, c.have = false, false, b.HasID, c.seq.newestBefore(i)
		c.older = !b.HasID
	}
	c.next = i + 1
	if e.comment {
		return nil
	}
	if c.first && c.absent && w.greets && w.options.Join == joinAuto && serial != toldSerial {
		if serial != helloSerial {
			return fmt.Errorf("first given block %d, and no greeting", serial)
		}
		c.first = false
	}
	if serial < 0 {
		return nil
	}
	again := serial <= c.have && (c.atMost || !w.truths[serial].dispatches)
	if want := w.after(c.have); c.seam && c.have >= 0 && serial != want && !again && !c.seq.unknown && !w.jumped(c, serial) {
		return fmt.Errorf("given block %d after %d", serial, c.have)
	}
	c.seam, c.have = false, serial
	return nil
}

// jumped reports whether the stream itself does not have what is before a block.
func (w *modelWorld) jumped(c *modelClient, serial int) bool {
	return slices.ContainsFunc(c.seq.jumps, func(j jump) bool {
		return j.to == serial && (j.from <= c.have || w.style == mixedIDs)
	})
}

// checkID checks that a client's last event ID is that of the last block that
// it was given.
func (w *modelWorld) checkID(c *modelClient, onSplice bool) {
	if !c.idSet || onSplice || c.sub.waiting || c.next == 0 || c.skip {
		return
	}
	if c.seq.entries[c.next-1].lastID == c.lastID {
		return
	}
	// The gateway's ID of a later block that is no event is as good.
	if epoch, position, ok := replay.ParseID(c.lastID); ok && epoch == c.sub.Origin.epoch && int(position) <= c.next {
		if !slices.ContainsFunc(c.seq.entries[position:c.next], func(e entry) bool { return e.sets }) {
			return
		}
	}
	w.t.Errorf("client %d has last event ID %q, expected %q after index %d", c.number, c.lastID, c.seq.entries[c.next-1].lastID, c.next-1)
}

// neverLags reports whether a client reads a splice that waits for it.
func (w *modelWorld) neverLags(c *modelClient) bool {
	return c.sub.stream.kind.beside && c.next >= c.seq.cut && w.options.Buffer.Age == testBufferAge
}

// ended checks how a client's response ends.
func (w *modelWorld) ended(c *modelClient, end EndReason) {
	w.counts.Ended++
	w.logf("client %d: end %s", c.number, end)
	switch end {
	case EndPerClient:
		w.counts.Alone++
	case endLag:
		w.counts.Lagged++
		if c.seq.fits(c.next, w.options.Buffer) || w.neverLags(c) {
			w.t.Errorf("client %d ended for lag at index %d of %d", c.number, c.next, len(c.seq.entries))
		}
	case EndUpstream:
		i := slices.IndexFunc(c.seq.ends, func(end int) bool { return end >= c.next })
		if !c.sub.waiting && !c.skip && (i < 0 || slices.ContainsFunc(c.seq.entries[c.next:c.seq.ends[i]], func(e entry) bool { return !e.comment })) {
			w.t.Errorf("client %d ended at index %d, expected one of %d", c.number, c.next, c.seq.ends)
		}
		if rest := string(c.dec.Rest()); !slices.Contains(c.seq.tails, rest) {
			w.t.Errorf("client %d: tail %q, expected one of %q (%p of %p)", c.number, rest, c.seq.tails, c.sub.stream, c.sub.Origin)
		}
	case EndAskAgain:
		if c.headed {
			w.t.Errorf("client %d is to ask again, though it was sent its head", c.number)
		}
	case endGaveUp, EndRefused, EndBroken:
		if c.headed { // else it asks on its own
			w.expectAll(c)
		}
	default:
		w.t.Errorf("client %d ended for %q", c.number, end)
	}
	w.leave(c)
}
