package replay

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bufferModel is a replay buffer that keeps every block ever appended and
// answers by looking at all of them: slow, and obvious.
type bufferModel struct {
	limits Limits
	all    []modelBlock
	lost   uint64 // the newest evicted block that is not comment-only
	events uint64 // among those in all and before
	base   uint64 // blocks before all[0], which are not needed any more
	openID string // what clients had before the first block

	// Blocks up to here are not found by ID: the upstream began anew.
	forgotten uint64
	renewed   bool
}

type modelBlock struct {
	Block
	kept   bool
	lastID string // what a client has after it
}

func (m *bufferModel) newest() uint64 { return m.base + uint64(len(m.all)) }

func (m *bufferModel) kept() (kept []*modelBlock) {
	for i := range m.all {
		if m.all[i].kept {
			kept = append(kept, &m.all[i])
		}
	}
	return kept
}

func (m *bufferModel) over() bool {
	count, size := 0, int64(0)
	for _, b := range m.kept() {
		count++
		size += int64(len(b.Wire))
	}
	return count > m.limits.Events || size > m.limits.Size
}

// crowded is over for blocks that are not comment-only, of which one may always
// stay.
func (m *bufferModel) crowded() bool {
	count, size := 0, int64(0)
	for _, b := range m.kept() {
		if !b.CommentOnly {
			count++
			size += int64(len(b.Wire))
		}
	}
	return count > 1 && (count > m.limits.Events || size > m.limits.Size)
}

func (m *bufferModel) append(b *Block) {
	lastID := m.openID
	if n := len(m.all); n > 0 {
		lastID = m.all[n-1].lastID
	}
	if b.HasID {
		lastID = b.ID
	}
	if b.Dispatches {
		m.events++
	}
	c := modelBlock{Block: *b, kept: true, lastID: lastID}
	c.Position, c.Events = m.newest()+1, m.events
	m.all = append(m.all, c)
	m.evict(b.At)
}

func (m *bufferModel) evict(now time.Time) {
	last := len(m.all) - 1
	if m.over() {
		for i := range m.all[:max(0, last)] {
			if m.all[i].CommentOnly {
				m.all[i].kept = false
			}
		}
	}
	for i := range m.all[:max(0, last)] {
		b := &m.all[i]
		if !b.kept || (!m.crowded() && now.Sub(b.At) <= m.limits.Age) {
			continue
		}
		b.kept = false
		if !b.CommentOnly {
			m.lost = b.Position
		}
	}
	// What is long lost is needed for no answer.
	for len(m.all) > 1 && !m.all[0].kept && !m.all[1].kept && m.all[1].Position < m.lost {
		m.openID = m.all[0].lastID
		m.all = m.all[1:]
		m.base++
	}
}

func (m *bufferModel) after(position uint64) (positions []uint64) {
	for _, b := range m.kept() {
		if b.Position > position {
			positions = append(positions, b.Position)
		}
	}
	return positions
}

// find returns the first block of the newest run of blocks after which a
// client has the ID.
func (m *bufferModel) find(id string) (position uint64, ok bool) {
	if id == "" {
		return 0, false
	}
	before := m.openID
	if id == before && m.base == 0 && !m.renewed {
		ok = true // position 0: what the stream was opened with
	}
	for i := range m.all {
		b := &m.all[i]
		if b.Position > m.forgotten && b.lastID == id && before != id {
			position, ok = b.Position, true
		}
		before = b.lastID
	}
	return position, ok && position >= m.lost
}

func (m *bufferModel) eventsAfter(position uint64) (n uint64, ok bool) {
	for i := range m.all {
		if m.all[i].Position > position && m.all[i].Dispatches {
			n++
		}
	}
	return n, position >= m.lost
}

func (m *bufferModel) tail(n int) uint64 {
	if n == 0 {
		return m.newest()
	}
	kept := m.kept()
	for _, b := range slices.Backward(kept) {
		if b.Dispatches {
			n--
			if n == 0 {
				return b.Position - 1
			}
		}
	}
	return m.lost
}

// bufferCheck holds a buffer to the model and to its own rules.
type bufferCheck struct {
	f *Buffer
	m *bufferModel
}

// check returns what is wrong.
func (c bufferCheck) check(random *rand.Rand) error {
	if err := c.invariants(); err != nil {
		return err
	}
	f, m := c.f, c.m
	kept := m.kept()
	if len(f.Blocks) != len(kept) {
		return fmt.Errorf("%d blocks kept, the model has %d", len(f.Blocks), len(kept))
	}
	for i, b := range f.Blocks {
		if b.Position != kept[i].Position || b.Events != kept[i].Events {
			return fmt.Errorf("block %d is %d (event %d), the model has %d (%d)",
				i, b.Position, b.Events, kept[i].Position, kept[i].Events)
		}
	}
	if f.Lost != m.lost || f.Newest != m.newest() || f.Events != m.events {
		return fmt.Errorf("lost %d newest %d events %d, the model has %d %d %d",
			f.Lost, f.Newest, f.Events, m.lost, m.newest(), m.events)
	}
	return c.queries(random)
}

// queries asks both a few questions.
func (c bufferCheck) queries(random *rand.Rand) error {
	f, m := c.f, c.m
	from := m.base
	for _, position := range []uint64{from + random.Uint64N(f.Newest-from+3), f.Lost} {
		var got []uint64
		for _, b := range f.After(position) {
			got = append(got, b.Position)
		}
		if want := m.after(position); !slices.Equal(got, want) {
			return fmt.Errorf("after(%d) is %v, the model has %v", position, got, want)
		}
		n, ok := f.EventsAfter(position)
		want, known := m.eventsAfter(position)
		// The count may be known even where blocks are lost.
		if (known && !ok) || (ok && n != want && position >= from) {
			return fmt.Errorf("eventsAfter(%d) is %d, %v, the model has %d, %v", position, n, ok, want, known)
		}
	}
	n := random.IntN(len(f.Blocks)+3) - 1
	want := m.lost
	if n >= 0 {
		want = m.tail(n)
	}
	if got := f.Tail(n); got != want {
		return fmt.Errorf("tail(%d) is %d, the model has %d", n, got, want)
	}
	for range 2 {
		id := modelIDs[random.IntN(len(modelIDs))]
		position, ok := f.Find(id)
		want, known := m.find(id)
		if ok != known || (ok && position != want) {
			return fmt.Errorf("find(%q) is %d, %v, the model has %d, %v", id, position, ok, want, known)
		}
	}
	return nil
}

// invariants are those of the buffer's own comments.
func (c bufferCheck) invariants() error {
	f := c.f
	if f.Newest > 0 && (len(f.Blocks) == 0 || f.Blocks[len(f.Blocks)-1].Position != f.Newest) {
		return fmt.Errorf("the newest block, %d, is not kept", f.Newest)
	}
	if f.crowded(math.MaxInt64) || (f.full() && f.comments > 1) {
		return fmt.Errorf("over the limits: %d blocks, %d bytes", len(f.Blocks), f.Size)
	}
	before, comments, size := f.Lost, 0, int64(0)
	for i, b := range f.Blocks {
		if i > 0 && b.Position <= before {
			return fmt.Errorf("block %d has position %d, after %d", i, b.Position, before)
		}
		for missing := before + 1; missing < b.Position; missing++ {
			if missing > c.m.base && !c.m.all[missing-c.m.base-1].CommentOnly {
				return fmt.Errorf("block %d is missing, lost is %d", missing, f.Lost)
			}
		}
		before = max(before, b.Position)
		size += int64(len(b.Wire))
		if b.CommentOnly {
			comments++
		} else if b.Position <= f.Lost {
			return fmt.Errorf("block %d is kept and lost", b.Position)
		}
	}
	if comments != f.comments || size != f.Size {
		return fmt.Errorf("%d comments, %d bytes; counted %d, %d", f.comments, f.Size, comments, size)
	}
	for id, position := range f.byID {
		if position < f.Lost {
			return fmt.Errorf("ID %q leads to %d, which is before %d", id, position, f.Lost)
		}
		if !slices.Contains(f.runs, idRun{id: id, start: position}) {
			return fmt.Errorf("ID %q leads to %d, no run", id, position)
		}
	}
	if len(f.runs) > len(f.Blocks)+2 {
		return fmt.Errorf("%d runs with %d blocks", len(f.runs), len(f.Blocks))
	}
	return nil
}

// modelIDs are few, so that they repeat.
var modelIDs = []string{"a", "b", "c", "d", "e", "f", "open"}

// appendTo appends a block as upstreamConn does.
func (f *Buffer) appendWithID(b *Block) {
	f.Append(b)
	if b.HasID {
		f.SetLastID(b.ID, b.Position)
	}
}

// randomBlock makes a block of any kind.
func randomBlock(random *rand.Rand, now time.Time, wire []byte) *Block {
	b := &Block{Wire: wire[:1+random.IntN(len(wire)-1)], At: now}
	switch random.IntN(10) {
	case 0, 1, 2:
		b.CommentOnly = true
	case 3: // retry only
	case 4: // id only
		b.HasID = true
	case 5, 6, 7:
		b.Dispatches, b.HasID = true, true
	default:
		b.Dispatches = true
	}
	if b.HasID && random.IntN(8) > 0 {
		b.ID = modelIDs[random.IntN(len(modelIDs)-1)]
	}
	return b
}

func randomLimits(random *rand.Rand) Limits {
	return Limits{
		Events: 1 + random.IntN(24),
		Size:   int64(20 + random.IntN(400)),
		Age:    time.Duration(1+random.IntN(60)) * time.Second,
	}
}

// TestBufferModel compares the buffer with the model, in many lives.
func TestBufferModel(t *testing.T) {
	const steps, lives = 200_000, 400
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	wire := make([]byte, 40)
	now := time.Unix(1e9, 0)
	var c bufferCheck
	for step := range steps {
		if step%(steps/lives) == 0 {
			limits := randomLimits(random)
			c = bufferCheck{&Buffer{Limits: limits}, &bufferModel{limits: limits}}
			if random.IntN(2) == 0 {
				c.f.SetLastID("open", 0)
				c.m.openID = "open"
			}
		}
		what := "append"
		switch n := random.IntN(100); {
		case n < 80:
			b := randomBlock(random, now, wire)
			of := *b
			c.m.append(&of)
			c.f.appendWithID(b)
		case n < 92:
			what = "evict"
			now = now.Add(time.Duration(random.IntN(8)) * time.Second)
			c.f.Evict(now)
			c.m.evict(now)
		case n < 95:
			what = "limits"
			limits := randomLimits(random)
			c.f.Limits, c.m.limits = limits, limits
			c.f.Evict(now)
			c.m.evict(now)
		case n < 97:
			// The upstream begins anew with a block whose ID is not the last.
			what = "forget"
			b := randomBlock(random, now, wire)
			b.CommentOnly, b.HasID = false, true
			for b.ID == "" || b.ID == c.f.LastID {
				b.ID = modelIDs[random.IntN(len(modelIDs)-1)]
			}
			of := *b
			c.m.forgotten, c.m.renewed = c.m.newest(), true
			c.f.ForgetIDs(c.f.Newest)
			c.m.append(&of)
			c.f.appendWithID(b)
		}
		if err := c.check(random); err != nil {
			t.Fatalf("seed %d, step %d, %s: %v", seed, step, what, err)
		}
	}
}

// event, comment and such make blocks for tests that follow.
func eventBlock(at time.Time, id string) *Block {
	return &Block{Wire: []byte("data: 1\n\n"), At: at, Dispatches: true, HasID: id != "", ID: id}
}

func commentBlock(at time.Time) *Block {
	return &Block{Wire: []byte(":\n\n"), At: at, CommentOnly: true}
}

// layout shows a buffer: positions, comments in brackets.
func (f *Buffer) layout() string {
	var text []string
	for _, b := range f.Blocks {
		if b.CommentOnly {
			text = append(text, fmt.Sprintf("(%d)", b.Position))
			continue
		}
		text = append(text, strconv.FormatUint(b.Position, 10))
	}
	return strings.Join(text, " ")
}

func TestBufferEvictsCommentsFirst(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := &Buffer{Limits: Limits{Events: 4, Size: 1 << 20, Age: time.Minute}}
	f.appendWithID(eventBlock(now, ""))
	f.appendWithID(commentBlock(now))
	f.appendWithID(eventBlock(now, ""))
	f.appendWithID(commentBlock(now))
	if got := f.layout(); got != "1 (2) 3 (4)" {
		t.Fatalf("kept %s", got)
	}
	f.appendWithID(commentBlock(now))
	if got := f.layout(); got != "1 3 (5)" || f.Lost != 0 {
		t.Errorf("kept %s, lost %d, expected 1 3 (5), 0", got, f.Lost)
	}
	f.appendWithID(eventBlock(now, ""))
	f.appendWithID(eventBlock(now, ""))
	if got := f.layout(); got != "1 3 6 7" || f.Lost != 0 {
		t.Errorf("kept %s, lost %d, expected 1 3 6 7, 0", got, f.Lost)
	}
	f.appendWithID(eventBlock(now, ""))
	if got := f.layout(); got != "3 6 7 8" || f.Lost != 1 {
		t.Errorf("kept %s, lost %d, expected 3 6 7 8, 1", got, f.Lost)
	}
	// A cursor at the lost block's own position has missed nothing.
	if n, ok := f.EventsAfter(1); n != 4 || !ok {
		t.Errorf("after position 1: %d events, %v", n, ok)
	}
}

// However many comments come, also ones larger than the buffer, all events stay
// that would have stayed without them.
func TestCommentsEvictNoEvent(t *testing.T) {
	now := time.Unix(1e9, 0)
	large := func(b *Block) *Block {
		b.Wire = make([]byte, 100)
		return b
	}
	for name, test := range map[string]struct {
		limits  Limits
		events  int
		comment func() *Block
		want    string
	}{
		"by number":          {Limits{Events: 3, Size: 1 << 20, Age: time.Minute}, 3, func() *Block { return commentBlock(now) }, "1 2 3 (103)"},
		"by size":            {Limits{Events: 9, Size: 300, Age: time.Minute}, 3, func() *Block { return large(commentBlock(now)) }, "1 2 3 (103)"},
		"larger than limits": {Limits{Events: 9, Size: 50, Age: time.Minute}, 1, func() *Block { return large(commentBlock(now)) }, "1 (101)"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &Buffer{Limits: test.limits}
			for range test.events {
				f.appendWithID(large(eventBlock(now, "")))
			}
			for range 100 {
				f.appendWithID(test.comment())
			}
			if got := f.layout(); got != test.want || f.Lost != 0 {
				t.Errorf("kept %s, lost %d, expected %s, 0", got, f.Lost, test.want)
			}
		})
	}
}

func TestBufferKeepsTheNewest(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := &Buffer{Limits: Limits{Events: 10, Size: 4, Age: time.Second}}
	for range 3 {
		f.appendWithID(eventBlock(now, "")) // alone over the size
	}
	if got := f.layout(); got != "3" || f.Lost != 2 {
		t.Errorf("kept %s, lost %d, expected 3, 2", got, f.Lost)
	}
	f.Evict(now.Add(time.Hour))
	if got := f.layout(); got != "3" {
		t.Errorf("after an hour: kept %s, expected 3", got)
	}
	// Also when it is a comment.
	f.appendWithID(commentBlock(now.Add(time.Hour)))
	if got := f.layout(); got != "(4)" || f.Lost != 3 {
		t.Errorf("kept %s, lost %d, expected (4), 3", got, f.Lost)
	}
}

func TestBufferAge(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := &Buffer{Limits: Limits{Events: 10, Size: 1 << 20, Age: time.Minute}}
	for i := range 4 {
		f.appendWithID(eventBlock(now.Add(time.Duration(i)*20*time.Second), ""))
	}
	if got := f.layout(); got != "1 2 3 4" {
		t.Errorf("after exactly a minute: kept %s", got)
	}
	f.Evict(now.Add(time.Minute + 1))
	if got := f.layout(); got != "2 3 4" || f.Lost != 1 {
		t.Errorf("after a minute: kept %s, lost %d", got, f.Lost)
	}
}

func TestBufferMixedIDs(t *testing.T) {
	now := time.Unix(1e9, 0)
	newBuffer := func(ids ...string) *Buffer {
		f := &Buffer{Limits: Limits{Events: 100, Size: 1 << 20, Age: time.Minute}}
		for _, id := range ids {
			b := eventBlock(now, id)
			if id == "reset" {
				b.ID = ""
			}
			f.appendWithID(b)
		}
		return f
	}
	for _, test := range []struct {
		name     string
		ids      []string
		position uint64
	}{
		{"own run of one", []string{"1", "7", "8"}, 2},
		{"events without id follow", []string{"1", "7", "", "", "8"}, 2},
		{"the same id again is the same run", []string{"1", "7", "7", "", "7"}, 2},
		{"the newest run", []string{"7", "", "1", "7", "", ""}, 4},
		{"a reset ends a run", []string{"7", "", "reset", "7", ""}, 4},
		{"at the end", []string{"1", "7"}, 2},
	} {
		f := newBuffer(test.ids...)
		if position, ok := f.Find("7"); position != test.position || !ok {
			t.Errorf("%s: goes on after %d, %v, expected %d", test.name, position, ok, test.position)
		}
	}
	f := newBuffer("1", "7")
	for _, id := range []string{"", "2", "reset"} {
		if position, ok := f.Find(id); ok {
			t.Errorf("%q was found, at %d", id, position)
		}
	}
	// As soon as something after it is lost, an ID is unknown.
	f = newBuffer("1", "2", "3", "4")
	f.Limits.Events = 2
	f.Evict(now)
	for id, known := range map[string]bool{"1": false, "2": true, "3": true, "4": true} {
		if _, ok := f.Find(id); ok != known {
			t.Errorf("with 1 and 2 evicted: find(%q) is %v", id, ok)
		}
	}
}

func TestBufferTail(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := &Buffer{Limits: Limits{Events: 100, Size: 1 << 20, Age: time.Minute}}
	if got := f.Tail(3); got != 0 {
		t.Errorf("of an empty buffer: %d", got)
	}
	f.Append(eventBlock(now, ""))                // 1
	f.Append(&Block{Wire: []byte("r"), At: now}) // 2: a retry
	f.Append(eventBlock(now, ""))                // 3
	f.Append(commentBlock(now))                  // 4
	for n, want := range map[int]uint64{-1: 0, 0: 4, 1: 2, 2: 0, 3: 0} {
		if got := f.Tail(n); got != want {
			t.Errorf("tail(%d) is %d, expected %d", n, got, want)
		}
	}
}
