package stream

import "time"

// Waiter is a connection that waits for something new, without a goroutine.
type Waiter interface {
	Slot() *Slot  // its place in a bell
	Waker() Waker // who looks at it then; always the same
}

// Waker looks at connections. Both methods are called under a stream's lock: they
// must not wait.
type Waker interface {
	Wake(all []Waiter) // looks at all of them, soon; the list is its own then
	Spare() []Waiter   // an empty list, with room if there is one
}

// Bell wakes those who wait for something new in a stream: goroutines, by a
// channel, and connections, by their writers. The stream's lock guards it.
type Bell struct {
	channel chan struct{} // closed and dropped by ring; nil: no goroutine waits
	lists   []bellList
	rung    uint64 // how often
}

// bellList is the connections that wait of one writer.
type bellList struct {
	waker   Waker
	waiting []Waiter
}

// Slot is a connection's place in a bell. The stream's lock guards it.
type Slot struct {
	bell  *Bell  // in which it is, if that was not rung since
	rung  uint64 // by this count
	index int    // in its writer's list
}

// wait returns what is closed when the bell is rung.
func (b *Bell) wait() <-chan struct{} {
	if b.channel == nil {
		b.channel = make(chan struct{})
	}
	return b.channel
}

// add lets a connection be looked at by its writer when the bell is rung. It is
// for the writer.
func (b *Bell) add(c Waiter) {
	entry := c.Slot()
	if entry.bell == b && entry.rung == b.rung {
		return
	}
	entry.remove(c)
	by := c.Waker()
	l := b.list(by)
	if l.waiting == nil {
		l.waiting = by.Spare()
	}
	*entry = Slot{bell: b, rung: b.rung, index: len(l.waiting)}
	l.waiting = append(l.waiting, c)
}

// list returns a writer's list.
func (b *Bell) list(w Waker) *bellList {
	for i := range b.lists {
		if b.lists[i].waker == w {
			return &b.lists[i]
		}
	}
	b.lists = append(b.lists, bellList{waker: w})
	return &b.lists[len(b.lists)-1]
}

// remove takes a connection out of the bell that it waits for.
func (e *Slot) remove(c Waiter) {
	b := e.bell
	e.bell = nil
	if b == nil || e.rung != b.rung {
		return // its writer has the list
	}
	l := b.list(c.Waker())
	last := len(l.waiting) - 1
	moved := l.waiting[last]
	l.waiting[e.index] = moved
	moved.Slot().index = e.index
	l.waiting[last] = nil
	l.waiting = l.waiting[:last]
}

// Ring wakes all who wait.
func (b *Bell) Ring() {
	if b.channel != nil {
		close(b.channel)
		b.channel = nil
	}
	waits := false
	for i := range b.lists {
		l := &b.lists[i]
		if len(l.waiting) > 0 {
			waits = true
			l.waker.Wake(l.waiting)
			l.waiting = nil
		}
	}
	if waits {
		b.rung++
	}
}

// seats are rung for those who wait for a place in a splice: they look again. The
// stream's lock guards them.
type seats struct {
	news   chan struct{} // closed and dropped then; nil: nobody waits
	at     time.Time     // when they were rung for a block
	fellAt time.Time     // when the newest client that had waited went upstream on its own
}

// seatInterval is how often, at most, those who wait for a splice look whether
// their ID has come into the replay buffer meanwhile.
const seatInterval = 100 * time.Millisecond

// wait returns what is closed when a waiting subscriber is to look again.
func (q *seats) wait() <-chan struct{} {
	if q.news == nil {
		q.news = make(chan struct{})
	}
	return q.news
}

// ring lets those who wait look again.
func (q *seats) ring() {
	if q.news != nil {
		close(q.news)
		q.news = nil
	}
}

// offer does so after a block, unless it was done a moment ago.
func (q *seats) offer(now time.Time) {
	if q.news != nil && now.Sub(q.at) >= seatInterval {
		q.at = now
		q.ring()
	}
}
