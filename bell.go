package caddysse

// waiter is a connection that waits for something new, without a goroutine.
type waiter interface {
	slot() *bellEntry // its place in a bell
	waker() waker     // who looks at it then; always the same
}

// waker looks at connections. Both methods are called under a stream's lock: they
// must not wait.
type waker interface {
	wake(all []waiter) // looks at all of them, soon; the list is its own then
	spare() []waiter   // an empty list, with room if there is one
}

// bell wakes those who wait for something new in a stream: goroutines, by a
// channel, and connections, by their writers. The stream's lock guards it.
type bell struct {
	channel chan struct{} // closed and dropped by ring; nil: no goroutine waits
	lists   []bellList
	rung    uint64 // how often
}

// bellList is the connections that wait of one writer.
type bellList struct {
	waker   waker
	waiting []waiter
}

// bellEntry is a connection's place in a bell. The stream's lock guards it.
type bellEntry struct {
	bell  *bell  // in which it is, if that was not rung since
	rung  uint64 // by this count
	index int    // in its writer's list
}

// wait returns what is closed when the bell is rung.
func (b *bell) wait() <-chan struct{} {
	if b.channel == nil {
		b.channel = make(chan struct{})
	}
	return b.channel
}

// add lets a connection be looked at by its writer when the bell is rung. It is
// for the writer.
func (b *bell) add(c waiter) {
	entry := c.slot()
	if entry.bell == b && entry.rung == b.rung {
		return
	}
	entry.remove(c)
	by := c.waker()
	l := b.list(by)
	if l.waiting == nil {
		l.waiting = by.spare()
	}
	*entry = bellEntry{bell: b, rung: b.rung, index: len(l.waiting)}
	l.waiting = append(l.waiting, c)
}

// list returns a writer's list.
func (b *bell) list(w waker) *bellList {
	for i := range b.lists {
		if b.lists[i].waker == w {
			return &b.lists[i]
		}
	}
	b.lists = append(b.lists, bellList{waker: w})
	return &b.lists[len(b.lists)-1]
}

// remove takes a connection out of the bell that it waits for.
func (e *bellEntry) remove(c waiter) {
	b := e.bell
	e.bell = nil
	if b == nil || e.rung != b.rung {
		return // its writer has the list
	}
	l := b.list(c.waker())
	last := len(l.waiting) - 1
	moved := l.waiting[last]
	l.waiting[e.index] = moved
	moved.slot().index = e.index
	l.waiting[last] = nil
	l.waiting = l.waiting[:last]
}

// ring wakes all who wait.
func (b *bell) ring() {
	if b.channel != nil {
		close(b.channel)
		b.channel = nil
	}
	waits := false
	for i := range b.lists {
		l := &b.lists[i]
		if len(l.waiting) > 0 {
			waits = true
			l.waker.wake(l.waiting)
			l.waiting = nil
		}
	}
	if waits {
		b.rung++
	}
}
