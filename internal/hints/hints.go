// Package hints keeps what the gateway has noticed of its configuration: that something is without effect, or probably not
// as it is meant, and what to write instead. Each is told once in the log, and listed for operators as long as it holds.
//
// Clients choose paths, so nothing here grows with what they ask for: a source, which is one provisioned handler, has at
// most maxPlaces hints of each kind, and logs no more than that in hintTime. All methods may be called from any goroutine,
// under any lock: they take one of their own, and call nothing that takes another.
package hints

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Kind is what a hint is about, as a label.
type Kind string

// Kinds of hints.
const (
	// Of the configuration: as long as it is there.
	Unreached   Kind = "unreached"    // no handler behind sse can answer, or the requests do not come to it
	GracePeriod Kind = "grace_period" // shorter than drain
	Linger      Kind = "linger"       // so short that clients do not come back within it
	Heartbeat   Kind = "heartbeat"    // rarer than proxies on the way wait
	Names       Kind = "names"        // several sse of a server without names
	Detach      Kind = "detach"       // without a matcher
	Memory      Kind = "memory"       // stated differently
	Wrapper     Kind = "wrapper"      // the listener wrapper has nothing to do; also seen of what has passed

	// Of what has passed: for hintTime after it was last seen.
	Unseen    Kind = "unseen"     // no request comes to sse, and clients ask for event streams past it
	NotShared Kind = "not_shared" // the answer forbids it
	Withheld  Kind = "withheld"   // what the application asks for is not sent to it
	Query     Kind = "query"      // the key leaves it out
	FewShare  Kind = "few_share"  // streams have one subscriber each
	Delivery  Kind = "delivery"   // the fast one cannot be used
	NoNode    Kind = "no_node"    // of a cluster is reached
	Apart     Kind = "apart"      // no other node has such a handler
)

// Kinds are all of them.
var Kinds = []Kind{
	Unreached, GracePeriod, Linger, Heartbeat, Names, Detach, Memory, Wrapper,
	Unseen, NotShared, Withheld, Query, FewShare, Delivery, NoNode, Apart,
}

const (
	// hintTime is how long a hint of what has passed is kept after that was last seen.
	hintTime = 15 * time.Minute

	// maxPlaces bounds how many hints of a kind a source has.
	maxPlaces = 8

	// maxText bounds a text of a hint, in bytes: names in it come from outside.
	maxText = 1 << 10
)

// Hint is one of them, as it is listed.
type Hint struct {
	Kind    Kind      `json:"kind"`
	Listen  string    `json:"listen"`  // addresses of the handler's server
	Handler string    `json:"handler"` // its name
	Place   string    `json:"place"`   // a path, or where the handler stands
	Text    string    `json:"text"`    // what is the matter
	Remedy  string    `json:"remedy"`  // what to write
	Count   uint64    `json:"count"`   // how often it was seen
	First   time.Time `json:"first_at"`
	Last    time.Time `json:"last_at"`

	lasts   bool // as long as the configuration
	settled bool // it does not hold, unless it is seen again
}

// over reports whether the hint is forgotten.
func (h *Hint) over(now time.Time) bool { return !h.lasts && now.Sub(h.Last) >= hintTime }

// Store has the hints of all handlers of the process. The zero value is ready to use.
type Store struct {
	mu      sync.Mutex
	sources map[*Source]struct{}
	told    uint64
}

// Process is that of all handlers of all configurations of the process.
var Process = new(Store)

// Source gives the hints of one provisioned handler. A nil one gives none.
type Source struct {
	store   *Store
	listen  string
	handler string
	logger  *zap.Logger
	noticed atomic.Bool // there was a hint of what has passed

	of map[Kind]*places // guarded by the store's lock
}

// places are the hints of one kind of a source.
type places struct {
	hints  map[string]*Hint // by place
	logged []time.Time      // when the newest lines were written, at most maxPlaces
}

// Source makes a handler known. Its hints go with Close.
func (s *Store) Source(listen, handler string, logger *zap.Logger) *Source {
	src := &Source{store: s, listen: listen, handler: handler, logger: logger, of: make(map[Kind]*places)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sources == nil {
		s.sources = make(map[*Source]struct{})
	}
	s.sources[src] = struct{}{}
	return src
}

// Close ends the source: its configuration went, and with it all hints.
func (src *Source) Close() {
	if src == nil {
		return
	}
	src.store.mu.Lock()
	defer src.store.mu.Unlock()
	delete(src.store.sources, src)
}

// Doubt gives a hint of the configuration: it holds until Close.
func (src *Source) Doubt(kind Kind, place, text, remedy string) {
	if src == nil {
		return
	}
	if h := src.note(kind, place, true, func() (string, string) { return text, remedy }); h != nil {
		src.logger.Warn("doubtful configuration",
			zap.String("kind", string(kind)), zap.String("place", h.Place), zap.String("hint", h.Text), zap.String("remedy", h.Remedy))
	}
}

// Notice gives a hint of what has passed. say is called for its text and remedy if there is no such hint.
func (src *Source) Notice(kind Kind, place string, say func() (text, remedy string)) {
	if src == nil {
		return
	}
	if h := src.note(kind, place, false, say); h != nil {
		src.logger.Info("hint",
			zap.String("kind", string(kind)), zap.String("place", h.Place), zap.String("hint", h.Text), zap.String("remedy", h.Remedy))
	}
}

// Any reports whether there has been a hint of what has passed. It is cheap.
func (src *Source) Any() bool { return src != nil && src.noticed.Load() }

// Settled takes a hint back of something that was not seen for a while, quiet, and now was seen to be otherwise. If it is
// seen again within hintTime the hint is there again, and no other line is logged. It is cheap where there are no hints.
func (src *Source) Settled(kind Kind, place string, quiet time.Duration) {
	if !src.Any() {
		return
	}
	now := time.Now()
	src.store.mu.Lock()
	defer src.store.mu.Unlock()
	if p := src.of[kind]; p != nil {
		if h := p.hints[clip(place)]; h != nil && now.Sub(h.Last) >= quiet {
			h.settled = true
		}
	}
}

// Kinds returns the kinds of the source's hints that hold, in the order of all.
func (src *Source) Kinds() (kinds []Kind) {
	if src == nil {
		return nil
	}
	now := time.Now()
	src.store.mu.Lock()
	defer src.store.mu.Unlock()
	for _, kind := range Kinds {
		if p := src.of[kind]; p != nil {
			maps.DeleteFunc(p.hints, func(_ string, h *Hint) bool { return h.over(now) })
			if slices.ContainsFunc(slices.Collect(maps.Values(p.hints)), func(h *Hint) bool { return !h.settled }) {
				kinds = append(kinds, kind)
			}
		}
	}
	return kinds
}

// note counts a hint, and returns a copy of it if it is to be logged.
func (src *Source) note(kind Kind, place string, lasts bool, say func() (text, remedy string)) *Hint {
	now := time.Now()
	place = clip(place)
	src.store.mu.Lock()
	defer src.store.mu.Unlock()
	p := src.of[kind]
	if p == nil {
		p = &places{hints: make(map[string]*Hint)}
		src.of[kind] = p
	}
	if h := p.hints[place]; h != nil && !h.over(now) {
		h.Count++
		h.Last = now
		h.settled = false
		return nil
	}
	if !lasts {
		src.noticed.Store(true)
	}
	p.makeRoom(now)
	text, remedy := say()
	h := &Hint{
		Kind: kind, Listen: src.listen, Handler: src.handler, Place: place, Text: clip(text), Remedy: clip(remedy),
		Count: 1, First: now, Last: now, lasts: lasts,
	}
	p.hints[place] = h
	src.store.told++
	if !p.mayLog(now) {
		return nil
	}
	told := *h
	return &told
}

// makeRoom drops what is over, and then, if there are too many, one that is settled, or the hint that was seen least: of
// many places that come once each, none drives out one that comes again and again.
func (p *places) makeRoom(now time.Time) {
	maps.DeleteFunc(p.hints, func(_ string, h *Hint) bool { return h.over(now) })
	for len(p.hints) >= maxPlaces {
		least := slices.MinFunc(slices.Collect(maps.Values(p.hints)), func(a, b *Hint) int {
			return cmp.Or(cmp.Compare(holding(a), holding(b)), cmp.Compare(a.Count, b.Count), a.Last.Compare(b.Last), strings.Compare(a.Place, b.Place))
		})
		delete(p.hints, least.Place)
	}
}

// holding is 1 for a hint that holds, 0 for one that is settled.
func holding(h *Hint) int {
	if h.settled {
		return 0
	}
	return 1
}

// mayLog reports whether another line may be written: in hintTime no more than there may be hints.
func (p *places) mayLog(now time.Time) bool {
	p.logged = slices.DeleteFunc(p.logged, func(at time.Time) bool { return now.Sub(at) >= hintTime })
	if len(p.logged) >= maxPlaces {
		return false
	}
	p.logged = append(p.logged, now)
	return true
}

// List returns all hints that hold, those of the configuration first, then the newest.
func (s *Store) List() []Hint {
	now := time.Now()
	all := []Hint{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for src := range s.sources {
		for _, p := range src.of {
			maps.DeleteFunc(p.hints, func(_ string, h *Hint) bool { return h.over(now) })
			for _, h := range p.hints {
				if !h.settled {
					all = append(all, *h)
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b Hint) int {
		if a.lasts != b.lasts {
			if a.lasts {
				return -1
			}
			return 1
		}
		return cmp.Or(b.First.Compare(a.First), strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Place, b.Place))
	})
	return all
}

// Told is how many hints there have been, those that do not hold any more too.
func (s *Store) Told() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

// Counts returns how many hints there are of each kind.
func (s *Store) Counts() map[Kind]int {
	counts := make(map[Kind]int, len(Kinds))
	for _, kind := range Kinds {
		counts[kind] = 0
	}
	for _, h := range s.List() {
		counts[h.Kind]++
	}
	return counts
}

// clip shortens a text, and makes it one line: it may come from outside.
func clip(text string) string {
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}
