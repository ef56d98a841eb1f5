// Package access knows whose responses last, and asks again whether they may. It knows neither Caddy nor a request nor a
// stream: a Guest's Subject does. One set is the process's.
//
// What it promises:
//
//  1. A guest is asked about at its interval, drawn anew each time from its last fifth, and never twice at once.
//  2. After Stale all guests of an owner are asked about within spread.
//  3. A guest that was refused is dismissed once. One of which nothing is found out stays, and is asked about again.
//  4. No method of a Subject runs under the set's lock.
package access

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"
)

// Verdict is what is found out about a guest.
type Verdict int

// Verdicts.
const (
	Stays   Verdict = iota // it is let in as before
	Refused                // it is not
	Unknown                // nobody has said so or so: it is asked about again
	Unasked                // it is not asked about any more
)

// Subject is what a guest stands for: a client's response.
type Subject interface {
	// Ask finds out whether the client would be let in now. It may take a while.
	Ask() Verdict

	// Dismiss ends the response at a random moment within the time; 0: now.
	Dismiss(within time.Duration)
}

const (
	// spread is the time over which all guests of an owner are asked about.
	spread = 5 * time.Second

	// jitter is the part of an interval that is drawn at random, so that guests
	// that came together are not asked about together.
	jitter = 0.2

	// againAfter is when a guest is asked about again of which nothing was found
	// out, if that is sooner than its interval says.
	againAfter = 15 * time.Second

	// maxAsking bounds how many are asked about at once: an authentication
	// service that hangs is not to have all of them.
	maxAsking = 64
)

// Guest is one response that lasts. The zero value with a subject is ready to be
// added.
type Guest struct {
	Subject Subject // fixed

	// Guarded by Set.mu.
	of     *guests       // those of its owner; nil: it was not added, or was removed
	every  time.Duration // 0: it is asked about after Stale only
	key    *Key          // nil: it cannot be revoked
	turn   *turn         // to be asked about; nil: it has none
	asking bool
	stale  bool // its owner is over
}

// guests are those of an owner.
type guests struct {
	owner any
	set   map[*Guest]struct{}
}

// turn is when a guest is to be asked about.
type turn struct {
	guest *Guest
	due   time.Time
	index int // in the heap
}

// Set is the guests that there are.
type Set struct {
	mu      sync.Mutex
	owners  map[any]*guests
	keys    map[Key]map[*Guest]struct{}
	due     dueHeap
	timer   *time.Timer
	working int // goroutines that ask
	said    revocations
	names   map[string]int // what guests can be revoked by, and how many say so
}

// Process is the process's.
var Process Set

// Add adds a guest of an owner, to be asked about at an interval; 0: never by
// itself.
func (s *Set) Add(g *Guest, owner any, every time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.join(g, owner)
	g.every = every
	s.schedule(g, first(every))
}

// first is when a guest is asked about for the first time: those that came
// together, as after a restart, are spread over the interval at once.
func first(every time.Duration) time.Duration {
	return time.Duration((jitter + (1-jitter)*rand.Float64()) * float64(every))
}

// next is when it is asked about after that.
func next(every time.Duration) time.Duration {
	return time.Duration((1 - jitter*rand.Float64()) * float64(every))
}

// Remove removes a guest whose response is over. It may be called again.
func (s *Set) Remove(g *Guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.of == nil {
		return
	}
	s.leave(g)
	s.unkey(g)
	if g.turn != nil {
		heap.Remove(&s.due, g.turn.index)
	}
}

// Move gives a guest to another owner, with another interval: a new configuration
// has let it in.
func (s *Set) Move(g *Guest, owner any, every time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.of == nil || g.of.owner == owner {
		return
	}
	s.leave(g)
	s.join(g, owner)
	g.every, g.stale = every, false
}

// Stale has all guests of an owner that is over asked about, soon.
func (s *Set) Stale(owner any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.owners[owner]
	if of == nil {
		return
	}
	for g := range of.set {
		g.stale = true
		s.schedule(g, time.Duration(rand.Float64()*float64(spread)))
	}
}

// StaleOne is Stale for a guest that has come since.
func (s *Set) StaleOne(g *Guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.of != nil {
		g.stale = true
		s.schedule(g, time.Duration(rand.Float64()*float64(spread)))
	}
}

// Len is how many guests there are.
func (s *Set) Len() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.owners {
		n += len(of.set)
	}
	return n
}

// Each calls look for each guest; it must not call the set.
func (s *Set) Each(look func(*Guest)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.owners {
		for g := range of.set {
			look(g)
		}
	}
}

// join and leave are for the owner's guests. The lock is held, as in all that
// follows.
func (s *Set) join(g *Guest, owner any) {
	if s.owners == nil {
		s.owners = make(map[any]*guests)
	}
	if s.owners[owner] == nil {
		s.owners[owner] = &guests{owner, make(map[*Guest]struct{}, 1)}
	}
	g.of = s.owners[owner]
	g.of.set[g] = struct{}{}
}

func (s *Set) leave(g *Guest) {
	of := g.of
	g.of = nil
	delete(of.set, g)
	if len(of.set) == 0 {
		delete(s.owners, of.owner)
	}
}

// schedule has a guest asked about in a while, if anything is to be asked.
func (s *Set) schedule(g *Guest, in time.Duration) {
	if g.every == 0 && !g.stale {
		return
	}
	due := time.Now().Add(in)
	switch {
	case g.asking: // whoever asks schedules it
	case g.turn != nil:
		g.turn.due = due
		heap.Fix(&s.due, g.turn.index)
	default:
		g.turn = &turn{guest: g, due: due}
		heap.Push(&s.due, g.turn)
	}
	s.wake()
}

// wake has the guests that are due asked about, as many at once as may be.
func (s *Set) wake() {
	for s.working < maxAsking {
		g := s.pop()
		if g == nil {
			break
		}
		s.working++
		go s.work(g)
	}
	if len(s.due) == 0 || s.working == maxAsking {
		return // who works looks again
	}
	in := time.Until(s.due[0].due)
	if s.timer != nil {
		s.timer.Reset(in)
		return
	}
	s.timer = time.AfterFunc(in, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wake()
	})
}

// pop takes the next guest to be asked about, nil if none is due.
func (s *Set) pop() *Guest {
	if len(s.due) == 0 || s.due[0].due.After(time.Now()) {
		return nil
	}
	g := heap.Pop(&s.due).(*turn).guest
	g.asking = true
	return g
}

// work asks about guests that are due, one after the other.
func (s *Set) work(g *Guest) {
	for g != nil {
		verdict := g.Subject.Ask()
		if verdict == Refused {
			g.Subject.Dismiss(0)
		}
		s.mu.Lock()
		g.asking = false
		s.after(g, verdict)
		if g = s.pop(); g == nil {
			s.working--
			s.wake()
		}
		s.mu.Unlock()
	}
}

// after schedules the next time that a guest is asked about.
func (s *Set) after(g *Guest, verdict Verdict) {
	if g.of == nil || verdict == Refused || verdict == Unasked {
		return
	}
	in := next(g.every)
	if (verdict == Unknown || g.stale) && (g.every == 0 || g.every > againAfter) {
		in = next(againAfter)
	}
	s.schedule(g, in)
}

// dueHeap is the turns by when they are due.
type dueHeap []*turn

func (h *dueHeap) Len() int           { return len(*h) }
func (h *dueHeap) Less(i, j int) bool { return (*h)[i].due.Before((*h)[j].due) }
func (h *dueHeap) Swap(i, j int) {
	all := *h
	all[i], all[j] = all[j], all[i]
	all[i].index, all[j].index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	t := x.(*turn)
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.guest.turn = nil
	return t
}
