package evidence

import (
	"cmp"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// began is when the stream's connection is opened.
var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// told is what a connection brings, and how long after began. A text of the form
// "1: a" is an event with the id 1 and the data a.
type told struct {
	after time.Duration
	text  string
}

// timeline is a connection that is opened, has its head, and brings something.
type timeline struct {
	opened time.Duration
	head   time.Duration // so long after that
	id     string        // the last event ID with which it is opened
	told   []told
	keeps  int // so many blocks; 0: all
}

// play lets two connections bring what they do, in the order of time, as a stream lets
// them.
func play(stream, beside timeline, shared bool) Pair {
	p := Pair{Stream: newTrack(stream), Beside: newTrack(beside), Likeness: new(Likeness), ID: beside.id, Shared: shared}
	one, two := stream.told, beside.told
	isOpen := false
	open := func() {
		if isOpen {
			return
		}
		isOpen, p.Said = true, p.Stream.Said
		at, known := p.Stream.Buffer.Find(beside.id)
		p.Current = known && at == p.Stream.Buffer.Newest
	}
	for len(one) > 0 || len(two) > 0 {
		if len(two) == 0 || (len(one) > 0 && one[0].after <= two[0].after) {
			b := block(one[0])
			one = one[1:]
			if b.At.Sub(began) >= beside.opened {
				open()
			}
			keep(p.Stream, b, func() {
				if isOpen {
					p.StreamBrings(b)
				}
			})
			continue
		}
		open()
		b := block(two[0])
		two = two[1:]
		keep(p.Beside, b, func() { p.Brings(b) })
	}
	return p
}

func newTrack(of timeline) *Track {
	at := began.Add(of.opened)
	limits := replay.Limits{Events: cmp.Or(of.keeps, 1000), Size: 1 << 20, Age: time.Hour}
	t := &Track{Buffer: &replay.Buffer{Limits: limits}, Conn: &Connection{Began: at}}
	t.Buffer.Indexed()
	t.Opened(at.Add(of.head))
	return t
}

func block(e told) *replay.Block {
	id, data, hasID := strings.Cut(e.text, ": ")
	if !hasID {
		id, data = "", e.text
	}
	lines := []byte("data: " + data + "\n")
	b := eventstream.Block{Lines: lines, HasData: true, ID: []byte(id), HasID: hasID}
	return replay.NewBlock(b, lines, nil, began.Add(e.after))
}

// keep is what a stream does with a block.
func keep(t *Track, b *replay.Block, compare func()) {
	b.Ordinal = len(t.Buffer.Blocks) + 1
	t.Conn.NoteLines(b.Wire[:b.Lines], b.At)
	t.Conn.Note(b, t)
	t.Note(b, true)
	compare()
	t.Buffer.Append(b)
	if b.HasID {
		t.Buffer.SetLastID(b.ID, b.Position)
	}
}

// each is a text at one moment after the other.
func each(from, apart time.Duration, texts ...string) (all []told) {
	for i, text := range texts {
		all = append(all, told{from + time.Duration(i)*apart, text})
	}
	return all
}

const second = time.Second

// Where a splice is in its stream: ADR 1.
func TestMeeting(t *testing.T) {
	for name, c := range map[string]struct {
		stream, beside []told
		look           time.Duration // after the last block of either
		position       uint64        // 0: they do not meet
	}{
		"the same id and bytes": {
			stream: each(20*second, second, "7: a"), beside: each(20*second, second, "7: a"), position: 1,
		},
		"the same id, other bytes": {
			stream: each(20*second, second, "7: a"), beside: each(20*second, second, "7: b"),
		},
		"the same id, told to the stream before": {
			stream: each(0, second, "7: a"), beside: each(20*second, second, "7: a"),
		},
		"the same id, told to the stream just before": {
			stream: each(9500*time.Millisecond, second, "7: a"), beside: each(10200*time.Millisecond, second, "7: a"),
		},
		"the same id, more than a second apart": {
			stream: each(20*second, second, "7: a"), beside: each(22*second, second, "7: a"),
		},
		"three that occur once": {
			stream: each(20*second, second/10, "a", "b", "c"), beside: each(20*second, second/10, "a", "b", "c"), position: 3,
		},
		"two that occur once": {
			stream: each(11*second, second/10, "x", "a", "b"), beside: each(11*second, second/10, "y", "a", "b"),
		},
		"one after a pause on both": {
			stream: each(20*second, second, "x", "a"), beside: each(20*second, second, "y", "a"), position: 2,
		},
		"few different words": {
			stream: each(11*second, second/10, "a", "b", "a", "b", "a", "b"), beside: each(11*second, second/10, "a", "b", "a", "b", "a", "b"),
		},
		"equal ones, when both are quiet": {
			stream: each(20*second, second, "t", "t", "t"), beside: each(20*second, second, "t", "t", "t"), look: MaxSettle, position: 3,
		},
		"equal ones, at once": {
			stream: each(20*second, second, "t", "t", "t"), beside: each(20*second, second, "t", "t", "t"),
		},
		"equal ones at other moments": {
			stream: each(20*second, second, "t", "t", "t"), beside: each(20*second+second/3, second, "t", "t", "t"), look: MaxSettle,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := play(timeline{told: c.stream}, timeline{opened: 10 * second, told: c.beside}, true)
			now := p.Stream.NewestAt
			if p.Beside.NewestAt.After(now) {
				now = p.Beside.NewestAt
			}
			again := now.Add(time.Hour)
			position, ok := p.Meeting(now.Add(c.look), &again)
			if position != c.position || ok != (c.position > 0) {
				t.Errorf("they meet at %d (%v), expected %d", position, ok, c.position)
			}
		})
	}
}

// Whether each of two connections is told its own: ADR 6.
func TestCompare(t *testing.T) {
	both := each(30*second, second, "a", "b")
	for name, c := range map[string]struct {
		stream, beside []told
		look           time.Duration // after began
		held, full     bool          // the stream has waited for room meanwhile, or still does
		probe          bool
		apart          bool
		own            int // blocks of the greeting that the stream did not get
	}{
		"the same events": {stream: both, beside: both, look: 34 * second},
		"an event beside the stream only": {
			stream: both, beside: append(each(30*second, second, "a", "b"), told{32 * second, "mine"}), look: 33*second + time.Millisecond, apart: true,
		},
		"an event beside the stream only, looked for too early": {
			stream: both, beside: append(each(30*second, second, "a", "b"), told{32 * second, "mine"}), look: 33 * second,
		},
		"an event beside the stream only, looked for late": {
			stream: both, beside: append(each(30*second, second, "a", "b"), told{32 * second, "mine"}), look: 34 * second,
		},
		"an event beside the stream only, which was not read": {
			stream: both, beside: append(each(30*second, second, "a", "b"), told{32 * second, "mine"}), look: 33*second + time.Millisecond, held: true,
		},
		"an event beside the stream only, which is not read yet": {
			stream: both, beside: append(each(30*second, second, "a", "b"), told{32 * second, "mine"}), look: 33*second + time.Millisecond, full: true,
		},
		"an event of the stream only": {
			stream: append(each(30*second, second, "a", "b"), told{32 * second, "other"}), beside: both, look: 33*second + time.Millisecond, apart: true,
		},
		"an event of the stream only, which a probe was not told": {
			stream: append(each(30*second, second, "a", "b"), told{32 * second, "other"}), beside: both, look: 33*second + time.Millisecond, probe: true,
		},
		"the same greeting": {stream: each(0, second, "hello"), beside: each(10*second, second, "hello"), look: 12 * second},
		"another greeting":  {stream: each(0, second, "hello 1"), beside: each(10*second, second, "hello 2"), look: 11*second + time.Millisecond, own: 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := play(timeline{told: c.stream}, timeline{opened: 10 * second, told: c.beside}, false)
			now := began.Add(c.look)
			p.Stream.Full = c.full
			if c.held {
				p.Stream.HeldUp(now)
			}
			again := now.Add(time.Hour)
			if apart := p.Compare(now, &again, c.probe); apart != c.apart {
				t.Errorf("each is told its own: %v, expected %v", apart, c.apart)
			}
			if len(p.Own) != c.own {
				t.Errorf("%d blocks of the greeting are its own, expected %d", len(p.Own), c.own)
			}
		})
	}
}

// A connection that was asked to go on after an ID, which the stream has at the
// position 1, and that is merged at the stream's newest block: ADR 5.
func TestSkips(t *testing.T) {
	stream := append(each(0, second, "1: a", "2: b"), told{30 * second, "9: now"})
	meanwhile := append(each(0, second, "1: a", "2: b"), each(10*second+second/10, 0, "5: c", "6: d", "7: e", "9: now")...)
	for name, c := range map[string]struct {
		beside []told
		stream []told // nil: as above
		keeps  int
		skips  bool
	}{
		"it went on":                           {beside: append(each(10*second, 0, "2: b"), told{30 * second, "9: now"})},
		"it was sent a history that is longer": {beside: append(each(10*second, 0, "0: z", "1: a", "2: b"), told{30 * second, "9: now"})},
		"only what comes now":                  {beside: each(30*second, 0, "9: now"), skips: true},
		"a greeting as the stream's":           {beside: append(each(10*second, 0, "1: a"), told{30 * second, "9: now"}), skips: true},
		"something from before":                {beside: append(each(10*second, 0, "5: old"), told{30 * second, "9: now"})},
		"what the stream got before its head": {
			stream: meanwhile, beside: each(10*second+second/5, 0, "5: c", "6: d", "7: e", "9: now"), skips: true,
		},
		"that, and the stream does not keep it": {
			stream: meanwhile, keeps: 2, beside: each(10*second+second/5, 0, "5: c", "6: d", "7: e", "9: now"), skips: true,
		},
		"that, and it is read late, as its client reads slowly": {
			stream: meanwhile, beside: each(15*second, 0, "5: c", "6: d", "7: e", "9: now"), skips: true,
		},
		"what the stream gets later, and does not keep": {
			stream: meanwhile, keeps: 2, beside: each(10*second+second/20, second/20, "5: c", "6: d", "7: e", "9: now"), skips: true,
		},
		"a history, which the stream does not keep": {
			stream: append(each(0, 0, "1: a", "2: b", "3: c"), each(9*second, 5*second, "4: d", "9: now")...), keeps: 2,
			beside: append(each(10*second+second/5, 0, "2: b", "3: c", "4: d"), told{14 * second, "9: now"}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.stream == nil {
				c.stream = stream
			}
			p := play(timeline{told: c.stream, keeps: c.keeps}, timeline{opened: 10 * second, head: second / 5, told: c.beside}, true)
			p.ID = "1"
			if _, skips := p.Skips(p.Stream.Buffer.Newest, 1, c.keeps == 0); skips != c.skips {
				t.Errorf("the upstream did not go on: %v, expected %v", skips, c.skips)
			}
		})
	}
}

// A client has all that the stream has when its connection is opened. What the stream gets before the application has
// that one is not sent to it by one that does not look at the ID; nor is it kept until the two are merged.
func TestSkipsOfWhoHadEverything(t *testing.T) {
	meanwhile := each(10*second+second/10, second/10, "3: c", "4: d", "5: e", "6: f", "7: g")
	oneID := each(9*second+second/2, second/5, "2: c", "2: d", "2: e", "2: f", "2: g")
	for name, c := range map[string]struct {
		stream, beside []told
		skips          bool
	}{
		"it is sent what comes from then on":          {stream: meanwhile, beside: meanwhile[2:], skips: true},
		"it is sent the rest, too":                    {stream: meanwhile, beside: append(each(10*second+2*second/10, 0, "3: c", "4: d"), meanwhile[2:]...)},
		"it is sent each at once":                     {stream: meanwhile, beside: meanwhile},
		"each reaches it before it reaches the other": {stream: meanwhile, beside: each(10*second+second/20, second/10, "3: c", "4: d", "5: e", "6: f", "7: g")},
		// The client may have any of these.
		"its ID is that of more events, of which it is sent the newest": {stream: oneID, beside: oneID[4:], skips: true},
	} {
		t.Run(name, func(t *testing.T) {
			stream := timeline{told: append(each(0, second, "1: a", "2: b"), c.stream...), keeps: 2}
			p := play(stream, timeline{opened: 10 * second, id: "2", told: c.beside}, true)
			if next, skips := p.Skips(p.Stream.Buffer.Newest, 0, false); skips != c.skips {
				t.Errorf("the upstream did not go on: %v, expected %v; next %q", skips, c.skips, next)
			}
		})
	}
}

// A stream goes on with another connection, and is about to be given what that has brought beside it. A splice that was
// told the same in that time has not brought anything from before it was opened.
func TestWhatASuccessorBroughtIsNotFromBefore(t *testing.T) {
	now := each(10*second, second/100, "8: h", "9: i")
	p := play(timeline{told: each(0, second, "1: a", "2: b", "3: c"), keeps: 2}, timeline{opened: 9 * second, told: now}, true)
	p.ID = "0"
	successor := newTrack(timeline{opened: 8 * second})
	for _, e := range now {
		keep(successor, block(e), func() {})
	}
	p.Stream.Conn = successor.Conn
	p.StreamSucceeded()
	for _, e := range now { // one after the other, and all is compared after each
		b := block(e)
		keep(p.Stream, b, func() { p.StreamBrings(b) })
		at := began.Add(11 * second)
		again := at.Add(time.Hour)
		if p.Compare(at, &again, false) {
			t.Error("each is told its own")
		}
	}
	if _, skips := p.Skips(p.Stream.Buffer.Newest, 0, false); !skips {
		t.Error("the upstream is taken for one that went on after the ID")
	}
}

// What a later connection repeats is dropped behind a gap, too, that the gateway has told
// among it.
func TestRepeatsBehindAToldGap(t *testing.T) {
	stream := newTrack(timeline{})
	keep(stream, block(told{0, "1: a"}), func() {})
	gap := block(told{0, "gap"})
	gap.Told = true
	stream.Buffer.Append(gap)
	keep(stream, block(told{0, "2: b"}), func() {})
	r := Repeats{Start: stream.Buffer.Newest}
	for _, text := range []string{"1: a", "2: b", "3: c"} {
		id, data, _ := strings.Cut(text, ": ")
		lines := []byte("data: " + data + "\n")
		b := eventstream.Block{Lines: lines, HasData: true, ID: []byte(id), HasID: true}
		if has := r.Has(stream.Buffer, b, lines, false); has != (id != "3") {
			t.Errorf("%q is taken for a repeat: %v", text, has)
		}
	}
}

// Events of a few different payloads that come fast show nothing of where a splice
// is. What is looked at to find that out is bounded, as the reader of the upstream
// waits meanwhile; three that are like no others are enough to find it.
func TestMergingLooksAtFewBlocks(t *testing.T) {
	p := play(timeline{}, timeline{opened: 10 * second}, true)
	now := began.Add(20 * second)
	bring := func(text string) {
		for _, track := range []*Track{p.Stream, p.Beside} {
			b := block(told{now.Sub(began), text})
			keep(track, b, func() {})
		}
	}
	again := now.Add(time.Hour)
	for i := range 6 { // of each, one is not the only one any more
		bring("round " + strconv.Itoa(i%2))
	}
	now = now.Add(Pause)
	const windows = 100
	looked := 0
	for range windows {
		p.steps = 0
		for i := range 40 {
			bring("round " + strconv.Itoa(i%2))
			if _, ok := p.Meeting(now, &again); ok {
				t.Fatal("they meet")
			}
		}
		looked += p.steps
		now = now.Add(2 * attemptWindow)
	}
	if looked == 0 {
		t.Error("nothing is looked at")
	}
	if most := windows * 2 * maxSteps; looked > most {
		t.Errorf("%d blocks were looked at, expected %d at most", looked, most)
	}
	for _, text := range []string{"like no other", "nor this", "nor that"} {
		bring(text)
	}
	if position, ok := p.Meeting(now, &again); !ok || position != p.Stream.Buffer.Newest {
		t.Errorf("they meet at %d (%v), expected %d", position, ok, p.Stream.Buffer.Newest)
	}
}

// Header fields that are of one response do not tell heads apart, nor their hashes.
func TestDifferingField(t *testing.T) {
	head := func(fields ...string) http.Header {
		h := http.Header{"Content-Type": {"text/event-stream"}}
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			h.Set(name, value)
		}
		return h
	}
	for _, c := range []struct {
		a, b http.Header
		want string
	}{
		{head(), head(), ""},
		{head("Date: 1", "X-Request-Id: 1"), head("Date: 2", "X-Request-Id: 2"), ""},
		{head("X-User: 1"), head("X-User: 2"), "X-User"},
		{head(), head("X-User: 2"), "X-User"},
	} {
		insignificant := func(name string) bool { return name == "X-Request-Id" }
		if got := DifferingField(c.a, c.b, insignificant); got != c.want {
			t.Errorf("%s: %q, expected %q", fmt.Sprint(c.a, c.b), got, c.want)
		}
		if alike := HashHead(c.a, insignificant) == HashHead(c.b, insignificant); alike != (c.want == "") {
			t.Errorf("%s: hashes are alike: %v", fmt.Sprint(c.a, c.b), alike)
		}
	}
}
