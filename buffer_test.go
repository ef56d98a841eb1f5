package caddysse

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
	limits bufferLimits
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
	block
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
		size += int64(len(b.wire))
	}
	return count > m.limits.events || size > m.limits.size
}

// crowded is over for blocks that are not comment-only, of which one may always
// stay.
func (m *bufferModel) crowded() bool {
	count, size := 0, int64(0)
	for _, b := range m.kept() {
		if !b.commentOnly {
			count++
			size += int64(len(b.wire))
		}
	}
	return count > 1 && (count > m.limits.events || size > m.limits.size)
}

func (m *bufferModel) append(b *block) {
	lastID := m.openID
	if n := len(m.all); n > 0 {
		lastID = m.all[n-1].lastID
	}
	if b.hasID {
		lastID = b.id
	}
	if b.dispatches {
		m.events++
	}
	c := modelBlock{block: *b, kept: true, lastID: lastID}
	c.position, c.events = m.newest()+1, m.events
	m.all = append(m.all, c)
	m.evict(b.at)
}

func (m *bufferModel) evict(now time.Time) {
	last := len(m.all) - 1
	if m.over() {
		for i := range m.all[:max(0, last)] {
			if m.all[i].commentOnly {
				m.all[i].kept = false
			}
		}
	}
	for i := range m.all[:max(0, last)] {
		b := &m.all[i]
		if !b.kept || (!m.crowded() && now.Sub(b.at) <= m.limits.age) {
			continue
		}
		b.kept = false
		if !b.commentOnly {
			m.lost = b.position
		}
	}
	// What is long lost is needed for no answer.
	for len(m.all) > 1 && !m.all[0].kept && !m.all[1].kept && m.all[1].position < m.lost {
		m.openID = m.all[0].lastID
		m.all = m.all[1:]
		m.base++
	}
}

func (m *bufferModel) after(position uint64) (positions []uint64) {
	for _, b := range m.kept() {
		if b.position > position {
			positions = append(positions, b.position)
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
		if b.position > m.forgotten && b.lastID == id && before != id {
			position, ok = b.position, true
		}
		before = b.lastID
	}
	return position, ok && position >= m.lost
}

func (m *bufferModel) eventsAfter(position uint64) (n uint64, ok bool) {
	for i := range m.all {
		if m.all[i].position > position && m.all[i].dispatches {
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
		if b.dispatches {
			n--
			if n == 0 {
				return b.position - 1
			}
		}
	}
	return m.lost
}

// bufferCheck holds a buffer to the model and to its own rules.
type bufferCheck struct {
	f *buffer
	m *bufferModel
}

// check returns what is wrong.
func (c bufferCheck) check(random *rand.Rand) error {
	if err := c.invariants(); err != nil {
		return err
	}
	f, m := c.f, c.m
	kept := m.kept()
	if len(f.blocks) != len(kept) {
		return fmt.Errorf("%d blocks kept, the model has %d", len(f.blocks), len(kept))
	}
	for i, b := range f.blocks {
		if b.position != kept[i].position || b.events != kept[i].events {
			return fmt.Errorf("block %d is %d (event %d), the model has %d (%d)",
				i, b.position, b.events, kept[i].position, kept[i].events)
		}
	}
	if f.lost != m.lost || f.newest != m.newest() || f.events != m.events {
		return fmt.Errorf("lost %d newest %d events %d, the model has %d %d %d",
			f.lost, f.newest, f.events, m.lost, m.newest(), m.events)
	}
	return c.queries(random)
}

// queries asks both a few questions.
func (c bufferCheck) queries(random *rand.Rand) error {
	f, m := c.f, c.m
	from := m.base
	for _, position := range []uint64{from + random.Uint64N(f.newest-from+3), f.lost} {
		var got []uint64
		for _, b := range f.after(position) {
			got = append(got, b.position)
		}
		if want := m.after(position); !slices.Equal(got, want) {
			return fmt.Errorf("after(%d) is %v, the model has %v", position, got, want)
		}
		n, ok := f.eventsAfter(position)
		want, known := m.eventsAfter(position)
		// The count may be known even where blocks are lost.
		if (known && !ok) || (ok && n != want && position >= from) {
			return fmt.Errorf("eventsAfter(%d) is %d, %v, the model has %d, %v", position, n, ok, want, known)
		}
	}
	n := random.IntN(len(f.blocks)+3) - 1
	want := m.lost
	if n >= 0 {
		want = m.tail(n)
	}
	if got := f.tail(n); got != want {
		return fmt.Errorf("tail(%d) is %d, the model has %d", n, got, want)
	}
	for range 2 {
		id := modelIDs[random.IntN(len(modelIDs))]
		position, ok := f.find(id)
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
	if f.newest > 0 && (len(f.blocks) == 0 || f.blocks[len(f.blocks)-1].position != f.newest) {
		return fmt.Errorf("the newest block, %d, is not kept", f.newest)
	}
	if f.crowded(math.MaxInt64) || (f.full() && f.comments > 1) {
		return fmt.Errorf("over the limits: %d blocks, %d bytes", len(f.blocks), f.size)
	}
	before, comments, size := f.lost, 0, int64(0)
	for i, b := range f.blocks {
		if i > 0 && b.position <= before {
			return fmt.Errorf("block %d has position %d, after %d", i, b.position, before)
		}
		for missing := before + 1; missing < b.position; missing++ {
			if missing > c.m.base && !c.m.all[missing-c.m.base-1].commentOnly {
				return fmt.Errorf("block %d is missing, lost is %d", missing, f.lost)
			}
		}
		before = max(before, b.position)
		size += int64(len(b.wire))
		if b.commentOnly {
			comments++
		} else if b.position <= f.lost {
			return fmt.Errorf("block %d is kept and lost", b.position)
		}
	}
	if comments != f.comments || size != f.size {
		return fmt.Errorf("%d comments, %d bytes; counted %d, %d", f.comments, f.size, comments, size)
	}
	for id, position := range f.byID {
		if position < f.lost {
			return fmt.Errorf("ID %q leads to %d, which is before %d", id, position, f.lost)
		}
		if !slices.Contains(f.runs, idRun{id: id, start: position}) {
			return fmt.Errorf("ID %q leads to %d, no run", id, position)
		}
	}
	if len(f.runs) > len(f.blocks)+2 {
		return fmt.Errorf("%d runs with %d blocks", len(f.runs), len(f.blocks))
	}
	return nil
}

// modelIDs are few, so that they repeat.
var modelIDs = []string{"a", "b", "c", "d", "e", "f", "open"}

// appendTo appends a block as upstreamConn does.
func (f *buffer) appendWithID(b *block) {
	f.append(b)
	if b.hasID {
		f.setLastID(b.id, b.position)
	}
}

// randomBlock makes a block of any kind.
func randomBlock(random *rand.Rand, now time.Time, wire []byte) *block {
	b := &block{wire: wire[:1+random.IntN(len(wire)-1)], at: now}
	switch random.IntN(10) {
	case 0, 1, 2:
		b.commentOnly = true
	case 3: // retry only
	case 4: // id only
		b.hasID = true
	case 5, 6, 7:
		b.dispatches, b.hasID = true, true
	default:
		b.dispatches = true
	}
	if b.hasID && random.IntN(8) > 0 {
		b.id = modelIDs[random.IntN(len(modelIDs)-1)]
	}
	return b
}

func randomLimits(random *rand.Rand) bufferLimits {
	return bufferLimits{
		events: 1 + random.IntN(24),
		size:   int64(20 + random.IntN(400)),
		age:    time.Duration(1+random.IntN(60)) * time.Second,
	}
}

// TestBufferModel compares the buffer with the model, in many lives.
func TestBufferModel(t *testing.T) {
	const steps, lives = 200_000, 400
	seed := rand.Uint64() //nolint:gosec // a test's choice of operations
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's choice of operations
	wire := make([]byte, 40)
	now := time.Unix(1e9, 0)
	var c bufferCheck
	for step := range steps {
		if step%(steps/lives) == 0 {
			limits := randomLimits(random)
			c = bufferCheck{&buffer{limits: limits}, &bufferModel{limits: limits}}
			if random.IntN(2) == 0 {
				c.f.setLastID("open", 0)
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
			c.f.evict(now)
			c.m.evict(now)
		case n < 95:
			what = "limits"
			limits := randomLimits(random)
			c.f.limits, c.m.limits = limits, limits
			c.f.evict(now)
			c.m.evict(now)
		case n < 97:
			// The upstream begins anew with a block whose ID is not the last.
			what = "forget"
			b := randomBlock(random, now, wire)
			b.commentOnly, b.hasID = false, true
			for b.id == "" || b.id == c.f.lastID {
				b.id = modelIDs[random.IntN(len(modelIDs)-1)]
			}
			of := *b
			c.m.forgotten, c.m.renewed = c.m.newest(), true
			c.f.forgetIDs(c.f.newest)
			c.m.append(&of)
			c.f.appendWithID(b)
		}
		if err := c.check(random); err != nil {
			t.Fatalf("seed %d, step %d, %s: %v", seed, step, what, err)
		}
	}
}

// event, comment and such make blocks for tests that follow.
func eventBlock(at time.Time, id string) *block {
	return &block{wire: []byte("data: 1\n\n"), at: at, dispatches: true, hasID: id != "", id: id}
}

func commentBlock(at time.Time) *block {
	return &block{wire: []byte(":\n\n"), at: at, commentOnly: true}
}

// layout shows a buffer: positions, comments in brackets.
func (f *buffer) layout() string {
	var text []string
	for _, b := range f.blocks {
		if b.commentOnly {
			text = append(text, fmt.Sprintf("(%d)", b.position))
			continue
		}
		text = append(text, strconv.FormatUint(b.position, 10))
	}
	return strings.Join(text, " ")
}

func TestBufferEvictsCommentsFirst(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := &buffer{limits: bufferLimits{events: 4, size: 1 << 20, age: time.Minute}}
	f.appendWithID(eventBlock(now, ""))
	f.appendWithID(commentBlock(now))
	f.appendWithID(eventBlock(now, ""))
	f.appendWithID(commentBlock(now))
	if got := f.layout(); got != "1 (2) 3 (4)" {
		t.Fatalf("kept %s", got)
	}
	f.appendWithID(commentBlock(now))
	if got := f.layout(); got != "1 3 (5)" || f.lost != 0 {
		t.Errorf("kept %s, lost %d, expected 1 3 (5), 0", got, f.lost)
	}
	f.appendWithID(eventBlock(now, ""))
	f.appendWithID(eventBlock(now, ""))
	if got := f.layout(); got != "1 3 6 7" || f.lost != 0 {
		t.Errorf("kept %s, lost %d, expected 1 3 6 7, 0", got, f.lost)
	}
	f.appendWithID(eventBlock(now, ""))
	if got := f.layout(); got != "3 6 7 8" || f.lost != 1 {
		t.Errorf("kept %s, lost %d, expected 3 6 7 8, 1", got, f.lost)
	}
	// A cursor at the lost block's own position has missed nothing.
	if n, ok := f.eventsAfter(1); n != 4 || !ok {
		t.Errorf("after position 1: %d events, %v", n, ok)
	}
}

// However many comments come, also ones larger than the buffer, all events stay
// that would have stayed without them.
func TestCommentsEvictNoEvent(t *testing.T) {
	now := time.Unix(1e9, 0)
	large := func(b *block) *block {
		b.wire = make([]byte, 100)
		return b
	}
	for name, test := range map[string]struct {
		limits  bufferLimits
		events  int
		comment func() *block
		want    string
	}{
		"by number":          {bufferLimits{events: 3, size: 1 << 20, age: time.Minute}, 3, func() *block { return commentBlock(now) }, "1 2 3 (103)"},
		"by size":            {bufferLimits{events: 9, size: 300, age: time.Minute}, 3, func() *block { return large(commentBlock(now)) }, "1 2 3 (103)"},
		"larger than limits": {bufferLimits{events: 9, size: 50, age: time.Minute}, 1, func() *block { return large(commentBlock(now)) }, "1 (101)"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &buffer{limits: test.limits}
			for range test.events {
				f.appendWithID(large(eventBlock(now, "")))
			}
			for range 100 {
				f.appendWithID(test.comment())
			}
			if got := f.layout(); got != test.want || f.lost != 0 {
				t.Errorf("kept %s, lost %d, expected %s, 0", got, f.lost, test.want)
			}
		})
	}
}

func TestBufferKeepsTheNewest(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := &buffer{limits: bufferLimits{events: 10, size: 4, age: time.Second}}
	for range 3 {
		f.appendWithID(eventBlock(now, "")) // alone over the size
	}
	if got := f.layout(); got != "3" || f.lost != 2 {
		t.Errorf("kept %s, lost %d, expected 3, 2", got, f.lost)
	}
	f.evict(now.Add(time.Hour))
	if got := f.layout(); got != "3" {
		t.Errorf("after an hour: kept %s, expected 3", got)
	}
	// Also when it is a comment.
	f.appendWithID(commentBlock(now.Add(time.Hour)))
	if got := f.layout(); got != "(4)" || f.lost != 3 {
		t.Errorf("kept %s, lost %d, expected (4), 3", got, f.lost)
	}
}

func TestBufferAge(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := &buffer{limits: bufferLimits{events: 10, size: 1 << 20, age: time.Minute}}
	for i := range 4 {
		f.appendWithID(eventBlock(now.Add(time.Duration(i)*20*time.Second), ""))
	}
	if got := f.layout(); got != "1 2 3 4" {
		t.Errorf("after exactly a minute: kept %s", got)
	}
	f.evict(now.Add(time.Minute + 1))
	if got := f.layout(); got != "2 3 4" || f.lost != 1 {
		t.Errorf("after a minute: kept %s, lost %d", got, f.lost)
	}
}

func TestBufferMixedIDs(t *testing.T) {
	now := time.Unix(1e9, 0)
	newBuffer := func(ids ...string) *buffer {
		f := &buffer{limits: bufferLimits{events: 100, size: 1 << 20, age: time.Minute}}
		for _, id := range ids {
			b := eventBlock(now, id)
			if id == "reset" {
				b.id = ""
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
		if position, ok := f.find("7"); position != test.position || !ok {
			t.Errorf("%s: goes on after %d, %v, expected %d", test.name, position, ok, test.position)
		}
	}
	f := newBuffer("1", "7")
	for _, id := range []string{"", "2", "reset"} {
		if position, ok := f.find(id); ok {
			t.Errorf("%q was found, at %d", id, position)
		}
	}
	// As soon as something after it is lost, an ID is unknown.
	f = newBuffer("1", "2", "3", "4")
	f.limits.events = 2
	f.evict(now)
	for id, known := range map[string]bool{"1": false, "2": true, "3": true, "4": true} {
		if _, ok := f.find(id); ok != known {
			t.Errorf("with 1 and 2 evicted: find(%q) is %v", id, ok)
		}
	}
}

func TestBufferTail(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := &buffer{limits: bufferLimits{events: 100, size: 1 << 20, age: time.Minute}}
	if got := f.tail(3); got != 0 {
		t.Errorf("of an empty buffer: %d", got)
	}
	f.append(eventBlock(now, ""))                // 1
	f.append(&block{wire: []byte("r"), at: now}) // 2: a retry
	f.append(eventBlock(now, ""))                // 3
	f.append(commentBlock(now))                  // 4
	for n, want := range map[int]uint64{-1: 0, 0: 4, 1: 2, 2: 0, 3: 0} {
		if got := f.tail(n); got != want {
			t.Errorf("tail(%d) is %d, expected %d", n, got, want)
		}
	}
}
