package stream

import (
	"container/list"
	"sync"
)

// Streams that linger.
//
// Who asks and leaves as soon as it has an event, again and again and each time for
// something else, has the gateway keep an upstream connection for each request: a
// stream with an event lingers. So lingering is earned, by the time in which clients
// were there, and used up by the time without them. Of streams that have not earned
// all of linger only so many linger, the newest. The others have cost somebody a
// connection for as long as they cost the gateway one.
//
// All of them give way, those that have earned the least and linger for longest first,
// where something runs short: max_streams, memory, files.

// maxYoung is how many streams may linger that have not earned all of linger. Where
// more clients than that come and leave within linger, the first of them find a new
// stream when they come back.
const maxYoung = 256

// lingering is the streams that linger, those that have for longest first.
type lingering struct {
	mu     sync.Mutex // a leaf: taken under a stream's
	young  list.List  // that have not earned it
	grown  list.List
	places map[string]*list.List // all of a place
	have   map[*Stream]lingerer
}

// lingerer is where a stream is in the lists.
type lingerer struct {
	list        *list.List
	at, inPlace *list.Element
}

func (l *lingering) add(s *Stream) {
	young, place := s.isYoung(), s.place
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.have[s]; ok {
		return
	}
	if l.have == nil {
		l.have, l.places = make(map[*Stream]lingerer), make(map[string]*list.List)
	}
	if l.places[place] == nil {
		l.places[place] = list.New()
	}
	e := lingerer{list: &l.grown, inPlace: l.places[place].PushBack(s)}
	if young {
		e.list = &l.young
	}
	e.at = e.list.PushBack(s)
	l.have[s] = e
}

func (l *lingering) remove(s *Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeLocked(s)
}

func (l *lingering) removeLocked(s *Stream) {
	e, ok := l.have[s]
	if !ok {
		return
	}
	delete(l.have, s)
	e.list.Remove(e.at)
	inPlace := l.places[s.place]
	if inPlace.Remove(e.inPlace); inPlace.Len() == 0 {
		delete(l.places, s.place)
	}
}

// take takes the first of a list off all of them; nil: it is empty.
func (l *lingering) take(of *list.List) *Stream {
	if of == nil || of.Len() == 0 {
		return nil
	}
	s := of.Front().Value.(*Stream)
	l.removeLocked(s)
	return s
}

// tooYoung takes the one that lingers for longest of those that have not earned it, if
// there are more than may be.
func (l *lingering) tooYoung() *Stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.young.Len() <= maxYoung {
		return nil
	}
	return l.take(&l.young)
}

// ofPlace takes the one of a place that lingers for longest.
func (l *lingering) ofPlace(place string) *Stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.take(l.places[place])
}

// count is how many there are.
func (l *lingering) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.have)
}

// first takes the one that is to give way first.
func (l *lingering) first() *Stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.take(&l.young); s != nil {
		return s
	}
	return l.take(&l.grown)
}
