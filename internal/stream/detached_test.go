package stream

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// detachTime is how long detached streams go on in these tests.
const detachTime = 10 * time.Minute

// detachedTest is a streamTest with detached streams.
type detachedTest struct {
	*streamTest
	epoch string // of the newest stream
}

func detachedInBubble(t *testing.T, set func(o *Options), test func(dt *detachedTest)) {
	t.Helper()
	inBubble(t, func(o *Options) {
		if set != nil {
			set(o)
		}
		*o = *o.Detached(detachTime)
	}, func(st *streamTest) { test(&detachedTest{streamTest: st}) })
}

func (dt *detachedTest) request(id string) *Request {
	return &Request{
		Key:         dt.key,
		Instance:    dt.instance,
		LastEventID: id,
		Options:     dt.options,
		Source:      func(bool) Source { return dt.source },
		Logger:      zap.NewNop(),
	}
}

// open makes a request whose answer may be detached.
func (dt *detachedTest) open() *reader {
	dt.t.Helper()
	sub, err := dt.hub.OpenDetached(dt.request(""))
	if err != nil {
		dt.t.Fatal(err)
	}
	dt.epoch = sub.Origin.epoch
	r := &reader{t: dt.t, sub: sub}
	dt.readers = append(dt.readers, r)
	return r
}

// start is open for a request that is answered with an event stream.
func (dt *detachedTest) start() (*reader, *fakeConn) {
	dt.t.Helper()
	r := dt.open()
	return r, dt.source.acceptOpen()
}

func (dt *detachedTest) id(position uint64) string {
	return string(replay.AppendID(nil, dt.epoch, position))
}

// resume comes back; nil if the stream is not found.
func (dt *detachedTest) resume(req *Request) *reader {
	dt.t.Helper()
	epoch, _, _ := replay.ParseID(req.LastEventID)
	sub, err := dt.hub.ResumeDetached(epoch, req)
	if err != nil {
		dt.t.Fatal(err)
	}
	if sub == nil {
		return nil
	}
	r := &reader{t: dt.t, sub: sub}
	dt.readers = append(dt.readers, r)
	return r
}

// comeBack is resume for a stream that has to be found.
func (dt *detachedTest) comeBack(position uint64) *reader {
	dt.t.Helper()
	r := dt.resume(dt.request(dt.id(position)))
	if r == nil {
		dt.t.Fatal("the stream was not found")
	}
	return r
}

func (dt *detachedTest) expectUnknown() {
	dt.t.Helper()
	if dt.resume(dt.request(dt.id(0))) != nil {
		dt.t.Fatal("the stream was found")
	}
}

// After its client has left, a stream goes on for the time that is configured;
// whoever comes back stops the clock.
func TestDetachedAlone(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		a, up := dt.start()
		a.expect(newcomer)
		up.event("1")
		a.expect(given("1", "1"))
		a.leave()
		time.Sleep(detachTime - time.Second)
		up.event("2")
		b := dt.comeBack(1)
		b.expectOutcome("replayed; events=1")
		b.expect(given("2", "2"))
		time.Sleep(2 * detachTime)
		up.expectGone(false)
		up.event("3")
		b.expect(given("3", "3"))
		b.leave()
		time.Sleep(detachTime - time.Second)
		up.expectGone(false)
		dt.expectStreams(1)
		time.Sleep(2 * time.Second)
		up.expectGone(true)
		dt.expectStreams(0)
		dt.expectUnknown()
		dt.source.expectNone()
	})
}

// The ids of the upstream are replaced, so that each event can be resumed from.
func TestDetachedIDs(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		a, up := dt.start()
		a.expect(newcomer)
		up.numbered("a", "a")
		a.expect(given("1", "a"), given("2", "a"))
		dt.comeBack(0).expect(given("1", "a"), given("2", "a"))
		dt.comeBack(1).expect(given("2", "a"))
	})
}

// An answer that has ended can be had until the age of the buffer is over, and
// it ends again for each who comes back.
func TestDetachedEnd(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		a, up := dt.start()
		up.event("1")
		a.leave()
		time.Sleep(time.Minute)
		up.event("2")
		if err := up.send("data: tail"); err != nil {
			t.Fatal(err)
		}
		up.close()
		if s := a.sub.Origin; s.source != nil {
			t.Error("the request is kept longer than the upstream connection")
		}
		for range 2 {
			time.Sleep(time.Minute)
			b := dt.comeBack(0)
			b.expectEnd(EndUpstream, given("1", "1"), given("2", "2"), "data: tail")
			b.leave()
		}
		end := dt.comeBack(2)
		end.expectOutcome("replayed; events=0")
		end.expectEnd(EndUpstream, "data: tail")
		end.leave()
		time.Sleep(testBufferAge - 2*time.Minute - time.Second)
		old := dt.comeBack(0) // what is older than the buffer's age is gone
		old.expectOutcome(ResumeGap)
		old.expectEnd(EndUpstream, given("2", "2"), "data: tail")
		old.leave()
		time.Sleep(2 * time.Second)
		dt.expectStreams(0)
		dt.expectUnknown()
		dt.source.expectNone()
	})
}

// Its client may be there when the answer ends; it can come back all the same.
func TestDetachedEndWithClient(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		a, up := dt.start()
		up.event("1")
		up.close()
		a.expectEnd(EndUpstream, newcomer, given("1", "1"))
		time.Sleep(2 * testBufferAge) // it reads slowly
		a.leave()
		time.Sleep(time.Millisecond)
		dt.expectStreams(0)

		a, up = dt.start()
		time.Sleep(testBufferAge)
		up.close() // without a block
		a.expectEnd(EndUpstream, newcomer)
		a.leave()
		time.Sleep(time.Millisecond)
		dt.expectStreams(0)
	})
}

// A stream that breaks off does so for everybody, after all that there is. It
// is never opened again.
func TestDetachedBreaks(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		a, up := dt.start()
		up.event("1", "2")
		up.breakOff()
		a.expectEnd(EndBroken, newcomer, given("1", "1"), given("2", "2"))
		a.leave()
		time.Sleep(time.Minute)
		b := dt.comeBack(1)
		b.expectEnd(EndBroken, given("2", "2"))
		b.leave()
		dt.source.expectNone()
		time.Sleep(testBufferAge)
		dt.expectStreams(0)
		dt.source.expectNone()
	})
}

// What shared streams do at an upstream's end, detached ones do not.
func TestDetachedIsNotReconnected(t *testing.T) {
	for _, mode := range []reconnectMode{reconnectBroken, ReconnectAlways, ReconnectResumable, ReconnectNever} {
		detachedInBubble(t, func(o *Options) { o.Reconnect = mode }, func(dt *detachedTest) {
			a, up := dt.start()
			up.numbered("1")
			up.close()
			a.expectEnd(EndUpstream, newcomer, given("1", "1"))
			a.leave()
			dt.comeBack(0).expectEnd(EndUpstream, given("1", "1"))
			a, up = dt.start()
			up.numbered("1")
			up.breakOff()
			a.expectEnd(EndBroken, newcomer, given("1", "1"))
			dt.comeBack(0).expectEnd(EndBroken, given("1", "1"))
			dt.source.expectNone()
		})
	}
}

// An event type of a protocol for shared streams is one like others.
func TestDetachedEndpoint(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		_, up := dt.start()
		if err := up.send("event: endpoint\ndata: 1\n\n"); err != nil {
			t.Fatal(err)
		}
		dt.comeBack(0).expect("event: endpoint\n" + given("1", "1"))
	})
}

// Without a head nobody has an ID to come back with.
func TestDetachedClientLeavesBeforeHead(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		a := dt.open()
		up := dt.source.accept()
		a.leave()
		up.expectGone(true)
		dt.expectStreams(0)
		dt.expectUnknown()

		// At the very moment when the head comes.
		b := dt.open()
		up = dt.source.accept()
		var err error
		up.run(func() {
			b.leave()
			err = up.conn.Keep()
		})
		if !errors.Is(err, ErrStreamOver) {
			t.Errorf("error %v", err)
		}
		dt.expectStreams(0)
	})
}

// Of two streams of one client each is found by its own ID only.
func TestDetachedEpochs(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		_, up := dt.start()
		up.event("one")
		first := dt.epoch
		_, up = dt.start()
		up.event("two")
		dt.comeBack(0).expect(given("1", "two"))
		dt.epoch = first
		dt.comeBack(0).expect(given("1", "one"))
		dt.epoch = replay.NewEpoch()
		dt.expectUnknown()
	})
}

// The right ID is worth nothing with another key, or at another place.
func TestDetachedStrangers(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		_, up := dt.start()
		up.event("1")
		mine := dt.request(dt.id(0))
		stranger := *mine
		stranger.Key[5] ^= 1
		if dt.resume(&stranger) != nil {
			t.Error("a stranger was given the stream")
		}
		for name, found := range map[string]struct {
			place, server string
			expected      bool
		}{
			"another handler of the configuration": {"place", "server", false},
			"another place":                        {"elsewhere", "after", false},
			"after a reload":                       {"place", "after", true},
		} {
			other := *mine
			other.Instance = dt.hub.Register(found.place, found.server)
			if got := dt.resume(&other) != nil; got != found.expected {
				t.Errorf("%s: found %v", name, got)
			}
			if !found.expected && dt.cancel(&other) {
				t.Errorf("%s: cancelled", name)
			}
			dt.hub.Retire(other.Instance)
		}
		up.expectGone(false)
	})
}

// cancel ends the stream for a request. It returns false if there is none for it.
func (dt *detachedTest) cancel(req *Request) bool {
	head, ok := dt.hub.CancelDetached(dt.epoch, req)
	return ok && head != nil
}

// After a reload a stream goes on as it was.
func TestDetachedReload(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		a, up := dt.start()
		up.event("1")
		a.leave()
		dt.source.retire.Store(true)
		old := dt.instance
		dt.instance = dt.hub.Register("place", "after")
		dt.hub.Retire(old)
		b := dt.comeBack(0)
		up.event("2")
		b.expect(given("1", "1"), given("2", "2"))
		up.close()
		b.expectEnd(EndUpstream)
		dt.source.expectNone()
	})
}

// A client that is behind the oldest kept block is told.
func TestDetachedGap(t *testing.T) {
	detachedInBubble(t, func(o *Options) {
		o.Buffer.Events = 3
		o.GapEvent = "gap"
	}, func(dt *detachedTest) {
		a, up := dt.start()
		up.event("1")
		a.leave()
		up.event(counting(2, 6)...) // nobody is waited for
		b := dt.comeBack(1)
		b.expectOutcome(ResumeGap)
		b.expect(toldGap(GapEvicted, "sse1.E.1", "5")+"\n", given("4", "4"), given("5", "5"), given("6", "6"))
		c := dt.comeBack(3)
		c.expectOutcome("replayed; events=3")
		c.expect(given("4", "4"), given("5", "5"), given("6", "6"))
		dt.comeBack(77).expectOutcome(ResumeGap)
	})
}

// The upstream waits for clients that are there: their answer is whole, however
// small the buffer is.
func TestDetachedWaitsForClient(t *testing.T) {
	detachedInBubble(t, func(o *Options) { o.Buffer.Events = 3 }, func(dt *detachedTest) {
		a, up := dt.start()
		sent := make(chan struct{})
		go func() {
			up.event(counting(1, 20)...)
			close(sent)
		}()
		var want strings.Builder
		want.WriteString(newcomer)
		for i := 1; i <= 20; i++ {
			want.WriteString(given(strconv.Itoa(i), strconv.Itoa(i)))
		}
		var got strings.Builder
		for range 10 {
			got.WriteString(a.read())
		}
		if got.String() != want.String() {
			t.Errorf("read %q", got.String())
		}
		<-sent
		go up.event(counting(21, 40)...)
		a.read()
		synctest.Wait()
		a.leave() // while the upstream waits for it
		time.Sleep(time.Second)
		b := dt.comeBack(37)
		b.expect(given("38", "38"), given("39", "39"), given("40", "40"))
	})
}

// Two clients may read a stream; it goes on while one is there.
func TestDetachedTwoReaders(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		a, up := dt.start()
		b := dt.comeBack(0)
		up.event("1")
		a.expect(newcomer, given("1", "1"))
		b.expect(given("1", "1"))
		a.leave()
		time.Sleep(2 * detachTime)
		up.event("2")
		b.expect(given("2", "2"))
		up.close()
		b.expectEnd(EndUpstream)
	})
}

// Cancelling breaks off what is being read, after all that there is.
func TestDetachedCancel(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		a, up := dt.start()
		up.event("1")
		if !dt.cancel(dt.request(dt.id(0))) {
			t.Fatal("not cancelled")
		}
		up.expectGone(true)
		dt.expectUnknown()
		if dt.cancel(dt.request(dt.id(0))) {
			t.Error("cancelled twice")
		}
		a.expectEnd(EndBroken, newcomer, given("1", "1"))
		a.leave()
		dt.expectStreams(0)

		// Without a client, and after its end.
		for _, ended := range []bool{false, true} {
			a, up = dt.start()
			a.leave()
			if ended {
				up.close()
			}
			if !dt.cancel(dt.request(dt.id(0))) {
				t.Error("not cancelled")
			}
			if !ended {
				up.expectGone(true)
			}
			dt.expectStreams(0)
		}
	})
}

// The limits count what is detached, and what is not yet is not counted.
func TestDetachedLimits(t *testing.T) {
	detachedInBubble(t, func(o *Options) { o.MaxStreams, o.MaxSubscribers = 2, 2 }, func(dt *detachedTest) {
		a, _ := dt.start()
		b, _ := dt.start()
		epoch := dt.epoch
		c := dt.open()
		up := dt.source.accept()
		up.run(func() {
			if err := up.conn.Keep(); !errors.Is(err, errTooManyStreams) {
				t.Errorf("error %v", err)
			}
		})
		c.leave()
		a.leave()
		dt.epoch = epoch
		dt.comeBack(0)
		if _, err := dt.hub.ResumeDetached(dt.epoch, dt.request(dt.id(0))); !errors.Is(err, ErrTooManySubscribers) {
			t.Errorf("error %v", err)
		}
		b.leave()
		dt.comeBack(0)
		time.Sleep(2 * detachTime)
		dt.expectStreams(1)
		dt.start()
		dt.expectStreams(2)
	})
}

// At the process's stop, detached streams break off at the end of the time that
// others end in.
func TestDetachedStop(t *testing.T) {
	detachedInBubble(t, nil, func(dt *detachedTest) {
		alone, upAlone := dt.start()
		alone.leave()
		a, up := dt.start()
		pending := dt.open()
		upPending := dt.source.accept()
		dt.hub.Stop()
		upAlone.expectGone(true)
		upPending.expectGone(false) // its answer may be no stream
		up.event("1")
		a.expect(newcomer, given("1", "1"))
		time.Sleep(2900 * time.Millisecond)
		if a.expect(); a.end != "" {
			t.Error("the response ended early")
		}
		time.Sleep(100 * time.Millisecond)
		a.expectEnd(EndStopping)
		a.leave()
		up.expectGone(true)
		upPending.run(func() {
			if err := upPending.conn.Keep(); !errors.Is(err, ErrStopping) {
				t.Errorf("error %v", err)
			}
		})
		pending.leave()
		dt.expectUnknown()
		dt.expectStreams(0)
	})
}
