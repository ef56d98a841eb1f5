package stream

import (
	"container/list"
	"sync"
)

// Who asks and leaves as soon as it has an event, again and again and each time for
// something else, has the gateway keep an upstream connection for each request: a
// stream with an event lingers. So of the streams whose one client has left soon only
// so many linger, the newest. Those that had two clients, or one that has stayed, have
// cost somebody a connection for as long as they cost the gateway one.

// maxYoung is how many streams may linger whose one client was there for less than
// linger. Where more clients than that leave so soon within linger, the first of them
// find a new stream when they come back.
const maxYoung = 256

// young is the streams of the process that linger so, longest first.
type young struct {
	mu   sync.Mutex // a leaf: taken under a stream's
	all  list.List
	have map[*Stream]*list.Element
}

// isYoung reports whether the stream's one client has left soon. The lock is held.
func (s *Stream) isYoung() bool {
	return !s.Detached && s.arrivals == 1 && s.alone.Sub(s.born) < s.options.Linger
}

func (h *Hub) addYoung(s *Stream)    { h.young.add(s) }
func (h *Hub) removeYoung(s *Stream) { h.young.remove(s) }

func (y *young) add(s *Stream) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.have == nil {
		y.have = make(map[*Stream]*list.Element)
	}
	if y.have[s] == nil {
		y.have[s] = y.all.PushBack(s)
	}
}

func (y *young) remove(s *Stream) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if e := y.have[s]; e != nil {
		y.all.Remove(e)
		delete(y.have, s)
	}
}

// pop returns the one that lingers for longest, if there are more than may be.
func (y *young) pop() *Stream {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.all.Len() <= maxYoung {
		return nil
	}
	s := y.all.Remove(y.all.Front()).(*Stream)
	delete(y.have, s)
	return s
}

// endYoung ends the streams that linger above the bound. No lock is held.
func (h *Hub) endYoung() {
	for s := h.young.pop(); s != nil; s = h.young.pop() {
		if s.expire() {
			Counts.Young.Inc()
		}
	}
}
