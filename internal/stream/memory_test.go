package stream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// memoryTest is a streamTest with several streams, each of which has had events
// of 100 bytes.
type memoryTest struct{ *streamTest }

func memoryInBubble(t *testing.T, set func(o *Options), test func(mt memoryTest)) {
	t.Helper()
	inBubble(t, set, func(st *streamTest) { test(memoryTest{st}) })
}

// hundred is what an event has as data so that it takes 100 bytes in a buffer
// with upstream ids of one digit.
var hundred = strings.Repeat("x", 100-len("id: 1\ndata: \n\n"))

// unit is how many bytes such an event takes in memory.
const unit = 100 + replay.BlockOverhead

// open opens a stream and sends it n events. It takes n units.
func (mt memoryTest) open(key byte, n int) (*reader, *fakeConn) {
	mt.t.Helper()
	mt.key[0] = key
	r, up := mt.start()
	up.hundreds(1, n)
	return r, up
}

// hundreds sends events with consecutive ids.
func (c *fakeConn) hundreds(from, n int) {
	c.t.Helper()
	for i := range n {
		if err := c.send(hundredth(from + i)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// hundredth is the event with an id.
func hundredth(id int) string {
	return fmt.Sprintf("id: %d\ndata: %s\n\n", id, hundred[:len(hundred)+1-len(strconv.Itoa(id))])
}

// limit sets the limit, in events, and lets room be made.
func (mt memoryTest) limit(events int) {
	mt.t.Helper()
	mt.hub.LimitMemory(mt.instance, int64(unit*events))
	mt.expectCounted()
}

// expectCounted checks the running total.
func (st *streamTest) expectCounted() {
	st.t.Helper()
	synctest.Wait()
	if used, sum := st.hub.Memory.Used.Load(), st.hub.measure(); used != sum {
		st.t.Fatalf("%d bytes are counted, but there are %d", used, sum)
	}
}

// measure adds up what is in all replay buffers.
func (h *Hub) measure() (sum int64) {
	size := func(s *Stream) (size int64) {
		for _, b := range s.buffer.Blocks {
			size += int64(len(b.Wire)) + replay.BlockOverhead
		}
		return size
	}
	for _, s := range h.Every() {
		s.mu.Lock()
		sum += size(s)
		if s.successor != nil {
			sum += size(s.successor)
		}
		s.mu.Unlock()
	}
	return sum
}

// expectKept checks how many events a reader's stream keeps.
func (mt memoryTest) expectKept(r *reader, n int) {
	mt.t.Helper()
	synctest.Wait()
	s := r.sub.Origin
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := len(s.buffer.Blocks); got != n || s.buffer.Newest-s.buffer.Lost != uint64(n) {
		mt.t.Fatalf("%d blocks kept, lost up to %d of %d, expected %d kept", got, s.buffer.Lost, s.buffer.Newest, n)
	}
}

// expectGone checks whether a reader's stream is over.
func (mt memoryTest) expectGone(r *reader, gone bool) {
	mt.t.Helper()
	synctest.Wait()
	s := r.sub.Origin
	s.mu.Lock()
	defer s.mu.Unlock()
	if (s.phase == phaseGone) != gone {
		mt.t.Fatalf("over: %v, expected %v", !gone, gone)
	}
}

// Streams that only linger go first, and of them those without subscribers for
// longest, as many as it takes; not those that hold nothing.
func TestMemoryLingeringFirst(t *testing.T) {
	memoryInBubble(t, func(o *Options) { o.Linger = time.Hour }, func(mt memoryTest) {
		busy, _ := mt.open(0, 40)
		var lingering []*reader
		for i, n := range []int{10, 0, 10, 10, 10} {
			r, _ := mt.open(byte(1+i), n)
			lingering = append(lingering, r)
			mt.join("").leave() // with a second client it has earned to linger
		}
		for _, i := range []int{2, 1, 0, 4, 3} { // not in the order of coming
			lingering[i].leave()
			time.Sleep(time.Second)
		}
		// Who comes back and leaves again is the newest.
		mt.key[0] = 3
		mt.join("").leave()
		time.Sleep(time.Second)
		before := countsNow()
		mt.limit(80) // is what there is
		mt.expectStreams(6)
		mt.limit(79) // room is made down to 69: two of 10 have to go
		for i, gone := range []bool{true, false, false, false, true} {
			mt.expectGone(lingering[i], gone)
		}
		mt.expectKept(busy, 40)
		want := countsOf{"memory_evictions_total evicted=stream": 2, "replay_buffer_bytes": 0}
		got := countsNow().since(before)
		if got["memory_evictions_total evicted=stream"] != want["memory_evictions_total evicted=stream"] || got["memory_evictions_total evicted=block"] != 0 {
			t.Errorf("counted %v", got)
		}
		mt.limit(50) // to 43: both others, but for what holds nothing, and nothing of the busy one
		for i, gone := range []bool{true, false, true, true, true} {
			mt.expectGone(lingering[i], gone)
		}
		mt.expectKept(busy, 40)
	})
}

// Then the largest buffers lose their oldest blocks, until they are as large as
// the next largest.
func TestMemoryLargest(t *testing.T) {
	memoryInBubble(t, nil, func(mt memoryTest) {
		a, _ := mt.open(0, 100)
		b, _ := mt.open(1, 40)
		c, _ := mt.open(2, 20)
		d, _ := mt.open(3, 40)
		before := countsNow()
		mt.limit(160) // to 140
		for r, n := range map[*reader]int{a: 40, b: 40, c: 20, d: 40} {
			mt.expectKept(r, n)
		}
		if got := countsNow().since(before)["memory_evictions_total evicted=block"]; got != 60 {
			t.Errorf("%v blocks are counted", got)
		}
		mt.limit(104) // to 91: 20 and three of 23
		for r, n := range map[*reader]int{a: 23, b: 23, c: 20, d: 23} {
			mt.expectKept(r, n)
		}
		mt.limit(1) // the newest block always stays
		for _, r := range []*reader{a, b, c, d} {
			mt.expectKept(r, 1)
		}
		mt.expectStreams(4)
	})
}

// An upstream's own traffic makes room, and only as much as is said.
func TestMemoryAppend(t *testing.T) {
	memoryInBubble(t, nil, func(mt memoryTest) {
		mt.hub.LimitMemory(mt.instance, 80*unit)
		a, up := mt.open(0, 40)
		_, other := mt.open(1, 1)
		passes, last := 0, int64(0)
		for id := 41; id <= 1000; id++ {
			up.hundreds(id, 1)
			mt.expectCounted()
			used := mt.hub.Memory.Used.Load()
			if used > 80*unit || (id > 80 && used < 70*unit) {
				t.Fatalf("%d bytes after event %d", used, id)
			}
			if used < last {
				passes++
			}
			last = used
			a.expect(slices.Concat(conditional(id == 41, newcomer, 40), []string{hundredth(id)})...)
		}
		if passes != 84 { // once in eleven events: from 70 to 81
			t.Errorf("room was made %d times", passes)
		}
		// With what others bring, too.
		other.hundreds(2, 100)
		mt.expectCounted()
		if used := mt.hub.Memory.Used.Load(); used > 80*unit {
			t.Errorf("%d bytes", used)
		}
	})
}

// conditional is what a newcomer has not read yet: n events.
func conditional(first bool, text string, n int) (blocks []string) {
	if !first {
		return nil
	}
	blocks = []string{text}
	for id := range n {
		blocks = append(blocks, hundredth(id+1))
	}
	return blocks
}

// givenSize is how many bytes of memory an event takes with an ID of the gateway.
const givenSize = replay.BlockOverhead + int64(len("data: 1\nid: sse1.0123456789abcdef0123456789abcdef.1\n\n"))

// What was evicted is told: to who comes back, and to a subscriber behind it.
func TestMemoryTold(t *testing.T) {
	for _, skip := range []bool{false, true} {
		memoryInBubble(t, func(o *Options) {
			o.GapEvent, o.LagSkip, o.IDs = "gap", skip, IDsGateway
		}, func(mt memoryTest) {
			slow, up := mt.start()
			quick := mt.join("")
			slow.expect(newcomer)
			quick.expect(newcomer)
			up.event("1", "2", "3", "4")
			quick.expect(given("1", "1"), given("2", "2"), given("3", "3"), given("4", "4"))
			mt.hub.LimitMemory(mt.instance, 3*givenSize)
			mt.expectKept(quick, 2)
			up.event("5")
			mt.hub.LimitMemory(mt.instance, 1<<20)
			quick.expect(given("5", "5"))
			if skip {
				slow.expect(toldGap(gapLag, "sse1.E.0", "2")+"\n", given("3", "3"), given("4", "4"), given("5", "5"))
			} else {
				slow.expectEnd(endLag)
			}
			back := mt.join(quick.id(1))
			back.expectOutcome(ResumeGap)
			back.expect(toldGap(GapEvicted, "sse1.E.1", "4")+"\n", primed("sse1.E.5"))
			known := mt.join(quick.id(2))
			known.expectOutcome("replayed; events=3")
			known.expect(given("3", "3"), given("4", "4"), given("5", "5"))
			if mt.logged("client missed events") == 0 {
				t.Error("the gap is not in the log")
			}
		})
	}
}

// Who comes back to a stream that was ended is told too.
func TestMemoryLingeringTold(t *testing.T) {
	memoryInBubble(t, func(o *Options) { o.GapEvent = "gap" }, func(mt memoryTest) {
		a, up := mt.start()
		up.event("1", "2")
		a.expect(newcomer, given("1", "1"), given("2", "2"))
		a.leave()
		id := a.id(1)
		mt.hub.LimitMemory(mt.instance, 10)
		up.expectGone(true)
		mt.expectStreams(0)
		if mt.hub.Memory.Used.Load() != 0 {
			t.Error("something is counted")
		}
		if mt.logged("replay buffers over memory") != 1 {
			t.Error("nothing is logged")
		}
		b := mt.join(id)
		b.expectOutcome(ResumeGap)
		mt.source.acceptOpen().event("3")
		b.expect(toldGap(GapEpoch, id, "null")+"\n", "id: sse1.E.0\n\n", given("1", "3"))
	})
}

// A detached stream that goes on without its client is like one with
// subscribers; one that has ended only lingers.
func TestMemoryDetached(t *testing.T) {
	detachedInBubble(t, func(o *Options) { o.GapEvent = "gap" }, func(dt *detachedTest) {
		t := dt.t
		a, up := dt.start()
		up.event("1", "2", "3", "4")
		a.leave()
		running := dt.epoch
		time.Sleep(time.Second)
		b, ended := dt.start()
		ended.event("1", "2")
		ended.close()
		b.leave()
		dt.hub.LimitMemory(dt.instance, 4*givenSize)
		dt.expectCounted()
		up.expectGone(false)
		dt.expectStreams(1)
		dt.expectUnknown() // the second, though its client left later
		dt.epoch = running
		up.event("5")
		dt.expectCounted()
		up.expectGone(false)
		c := dt.comeBack(0)
		c.expectOutcome(ResumeGap)
		if text := c.read(); !strings.HasPrefix(text, toldGap(GapEvicted, "sse1.E.0", "5")) || !strings.HasSuffix(text, given("5", "5")) {
			t.Errorf("read %q", text)
		}
		up.event("6")
		c.expect(given("6", "6"))
		// Once it has ended too, it goes.
		up.close()
		c.expectEnd(EndUpstream)
		c.leave()
		dt.hub.LimitMemory(dt.instance, givenSize)
		dt.expectStreams(0)
	})
}

// Splices count, and give room like streams: their clients are told. One that
// waits for a client goes on.
func TestMemorySplice(t *testing.T) {
	memoryInBubble(t, func(o *Options) { o.Join, o.Buffer.Events = joinAuto, 20 }, func(mt memoryTest) {
		_, up := mt.open(0, 10)
		c := mt.join("")
		sp := mt.source.acceptOpen()
		sp.hundreds(101, 20)
		mt.expectCounted()
		if used := mt.hub.Memory.Used.Load(); used != 30*unit {
			t.Fatalf("%d bytes, expected %d", used, 30*unit)
		}
		mt.hub.LimitMemory(mt.instance, 24*unit) // to 21: a splice of 11, a stream of 10
		mt.expectCounted()
		mt.expectKept(mt.readers[0], 10)
		if got := c.sub.stream; !got.kind.beside || len(got.buffer.Blocks) != 11 {
			t.Fatalf("%d blocks in the splice", len(got.buffer.Blocks))
		}
		c.expectEnd(endLag)
		c.leave()
		sp.expectGone(true)
		mt.expectCounted()
		up.expectGone(false)
	})
}

// The smallest value that is stated counts, of handlers that are not retired.
func TestMemoryLimit(t *testing.T) {
	memoryInBubble(t, nil, func(mt memoryTest) {
		expect := func(limit int64) {
			t.Helper()
			if got := mt.hub.Memory.limit.Load(); got != limit {
				t.Fatalf("limit %d, expected %d", got, limit)
			}
		}
		expect(DefaultMemory)
		mt.hub.LimitMemory(mt.instance, 2*DefaultMemory)
		expect(2 * DefaultMemory)
		other := mt.hub.Register("other", "server")
		mt.hub.LimitMemory(other, 0)
		expect(2 * DefaultMemory)
		mt.hub.LimitMemory(other, 5000)
		expect(5000)
		third := mt.hub.Register("third", "server")
		mt.hub.LimitMemory(third, 6000)
		expect(5000)
		mt.hub.Retire(other)
		expect(6000)
		mt.hub.Retire(third)
		expect(2 * DefaultMemory)

		// A reload: a stream goes on with what the new configuration states.
		r, up := mt.open(0, 50)
		mt.reload()
		expect(DefaultMemory)
		next := mt.source.acceptOpen()
		next.hundreds(51, 1)
		time.Sleep(overlap)
		up.expectGone(true)
		mt.expectKept(r, 51)
		mt.limit(32)
		mt.expectKept(r, 28)
	})
}

// What a successor brings before it takes over is counted, and then not twice.
func TestMemorySuccessor(t *testing.T) {
	memoryInBubble(t, nil, func(mt memoryTest) {
		r, up := mt.start()
		up.event("1", "2", "3") // no upstream ids
		mt.reload()
		next := mt.source.acceptOpen()
		next.event("4", "5")
		if used := mt.hub.Memory.Used.Load(); used <= 3*givenSize {
			t.Errorf("%d bytes: the successor's are not counted", used)
		}
		mt.expectCounted()
		time.Sleep(meetingTime + time.Second)
		mt.expectCounted()
		if r.sub.Origin.successor != nil {
			t.Error("it did not take over")
		}
		up.expectGone(true)
	})
	// One that breaks begins anew.
	memoryInBubble(t, nil, func(mt memoryTest) {
		_, up := mt.start()
		up.event("1")
		mt.reload()
		next := mt.source.acceptOpen()
		next.event("2")
		next.breakOff()
		mt.expectCounted()
	})
	// What it has brought stays, and the stream's blocks go for it.
	memoryInBubble(t, nil, func(mt memoryTest) {
		r, _ := mt.open(0, 20)
		mt.reload()
		mt.source.acceptOpen().hundreds(21, 10)
		mt.limit(24) // to 21
		mt.expectKept(r, 11)
	})
}

// If the newest blocks alone are over the limit, room is not looked for all the
// time, and it is made as soon as there is some.
func TestMemoryNotEnough(t *testing.T) {
	memoryInBubble(t, nil, func(mt memoryTest) {
		mt.hub.LimitMemory(mt.instance, unit+50)
		a, up := mt.open(0, 1)
		b, _ := mt.open(1, 1)
		synctest.Wait()
		up.hundreds(2, 50)
		mt.expectKept(a, 51) // nothing is tried for a while
		time.Sleep(memoryPause)
		mt.expectKept(a, 1)
		up.hundreds(52, 50)
		b.leave() // now it lingers: that is room
		time.Sleep(memoryPause)
		mt.expectKept(a, 1)
		mt.expectGone(b, true)
		time.Sleep(time.Second)
		if mt.hub.Memory.reclaiming.Load() {
			t.Error("a goroutine runs below the limit")
		}
		// Nor is it if there is nothing to evict at all.
		mt.hub.Memory.Used.Add(1 << 30)
		mt.hub.reclaimSoon()
		mt.expectKept(a, 1)
		mt.hub.Memory.Used.Add(-1 << 30)
	})
}

// Blocks over their age in quiet streams go before anything else.
func TestMemoryAge(t *testing.T) {
	memoryInBubble(t, func(o *Options) { o.Linger = time.Hour }, func(mt memoryTest) {
		old, _ := mt.open(0, 50)
		time.Sleep(testBufferAge + time.Second)
		r, _ := mt.open(1, 20)
		r.leave()
		mt.expectKept(old, 50)
		mt.limit(60)
		mt.expectKept(old, 1)
		mt.expectGone(r, false)
	})
}

// What a stream was greeted with holds the blocks as well: it goes with them,
// unless newcomers are to have it.
func TestMemoryGreeting(t *testing.T) {
	for _, join := range []joinMode{JoinLive, JoinGreeting} {
		memoryInBubble(t, func(o *Options) { o.Join = join }, func(mt memoryTest) {
			r, _ := mt.open(0, 20)
			mt.limit(10)
			mt.expectKept(r, 8)
			if n := len(r.sub.Origin.greeting.blocks); (n > 0) != (join == JoinGreeting) {
				t.Errorf("join %d: %d blocks of the greeting are held", join, n)
			}
		})
	}
}

// levelOf is compared with evicting byte for byte of what is the largest.
func TestLevelOf(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 5000 {
		held := make([]holding, random.IntN(8))
		var left []int64
		for i := range held {
			held[i].size = random.Int64N(30)
			held[i].least = random.Int64N(held[i].size + 1)
			left = append(left, held[i].size)
		}
		target := random.Int64N(100)
		enough := true
		for enough && sumOf(left) > target {
			largest := -1
			for i := range held {
				if left[i] > held[i].least && (largest < 0 || left[i] > left[largest]) {
					largest = i
				}
			}
			if enough = largest >= 0; enough {
				left[largest]--
			}
		}
		level, ok := levelOf(held, target)
		if ok != enough {
			t.Fatalf("%+v to %d: enough %v, expected %v", held, target, ok, enough)
		}
		for i, o := range held {
			// Of several that are the largest some have to give one byte more.
			if got := min(o.size, max(o.least, level)); got != left[i] && got != left[i]-1 {
				t.Fatalf("%+v to %d: %d of the buffer %d are kept, expected %d", held, target, got, i, left[i])
			}
		}
	}
}

func sumOf(sizes []int64) (sum int64) {
	for _, n := range sizes {
		sum += n
	}
	return sum
}

// Many streams append, linger, end and come while room is made. The total is
// exact in the end.
func TestMemoryConcurrent(t *testing.T) {
	const streams, lives, events, limit = 40, 4, 300, 64 << 10
	h := NewHub()
	inst := h.Register("place", "server")
	h.LimitMemory(inst, limit)
	options := testOptions()
	options.Join, options.Linger, options.LagSkip, options.GapEvent = JoinLive, time.Hour, true, "gap"
	before := countsNow()
	var half [lives]sync.WaitGroup
	live := func(i, life byte) {
		src := newBenchSource()
		sub, err := h.Join(&Request{
			Key: Key{i, life}, Instance: inst, Options: options, Logger: zap.NewNop(),
			Source: func(bool) Source { return src },
		})
		if err != nil {
			t.Error(err)
			return
		}
		conn := <-src.conns
		write := func(n int) {
			if _, err := conn.Write(benchBytes(100 + n)); err != nil && !errors.Is(err, ErrStreamOver) {
				t.Error(err)
			}
			if i%2 == 1 {
				_, _, _, _ = sub.Next(nil, time.Now())
			}
		}
		for n := range events / 2 {
			write(n)
		}
		if i%4 == 0 {
			sub.Leave()
		}
		half[life].Done()
		half[life].Wait()
		for h.Memory.over() {
			time.Sleep(time.Millisecond) // polls; nothing depends on how long
		}
		for n := range events / 2 {
			write(n)
		}
		if i%4 != 0 {
			sub.Leave()
		}
	}
	var wg sync.WaitGroup
	for life := range lives {
		half[life].Add(streams)
	}
	for i := range byte(streams) {
		wg.Go(func() {
			for life := range byte(lives) {
				live(i, life)
			}
		})
	}
	wg.Wait()
	h.EndAll()
	h.running.Wait()
	if n := h.Memory.Used.Load(); n != 0 || h.Memory.reclaiming.Load() {
		t.Errorf("%d bytes are counted in no buffer, reclaiming %v", n, h.Memory.reclaiming.Load())
	}
	got := countsNow().since(before)
	if got["memory_evictions_total evicted=stream"] == 0 || got["memory_evictions_total evicted=block"] == 0 {
		t.Errorf("evicted: %v", got)
	}
}

// What has come of a block counts while it comes, and what a content coding needs: an
// application that never ends its blocks takes no more than memory says.
func TestDecodersCountInMemory(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		inst := st.instance
		st.hub.LimitMemory(inst, 4<<20)
		defer st.hub.LimitMemory(inst, 0)
		used := func() int64 { synctest.Wait(); return st.hub.Memory.Used.Load() }
		st.key = Key{1}
		lingers, left := st.start()
		left.event(strings.Repeat("x", 1<<20))
		lingers.leave()
		st.key = Key{2}
		r, up := st.start()
		if err := up.send("data: " + strings.Repeat("x", 1<<20)); err != nil {
			t.Fatal(err)
		}
		if got := used(); got < 2<<20 || got > 4<<20 {
			t.Errorf("%d bytes are counted", got)
		}
		left.expectGone(false)
		up.run(func() { up.conn.Coding(2 << 20) })
		time.Sleep(time.Second)
		if got := used(); got < 3<<20 || got > 4<<20 {
			t.Errorf("%d bytes are counted with a coding", got)
		}
		left.expectGone(true)                                // it gave way
		for _, size := range []int64{1 << 20, 3 << 20 / 2} { // in place of what it needed before
			before, had := used(), intakeOf(up.conn).coding.Load()
			up.run(func() { up.conn.Coding(size) })
			if got := used() - before; got != size-had {
				t.Errorf("a coding that needed %d bytes, and needs %d, counts %d more", had, size, got)
			}
		}
		up.breakOff()
		if got := used(); got > 1<<10 {
			t.Errorf("%d bytes are counted when it has ended", got)
		}
		r.leave()
	})
}
