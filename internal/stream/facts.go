package stream

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// factTime is how long it is remembered what connections have shown of an
	// application, after it was last seen.
	factTime = 10 * time.Minute

	// maxFacts bounds of how many keys and of how many paths something is
	// remembered, because clients choose them. What is forgotten is learnt again.
	maxFacts = 1 << 14
)

// ownReason is why an upstream is taken to tell each connection its own.
type ownReason string

const (
	ownGreeting ownReason = "greeting"        // two connections opened at the same moment were greeted differently
	ownHead     ownReason = "response_header" // or had different fields in their heads
	ownEvent    ownReason = "event"           // an event came on one of two connections only
	ownSession  ownReason = "endpoint"        // the first event opens a session
)

// facts are what was learnt of applications, outliving streams. That a key is
// shared holds for this key only; that each connection is told its own holds for
// all keys of the path. The zero value knows nothing.
//
// Its lock comes after all others.
type facts struct {
	mu     sync.Mutex
	shared map[Key]sharedFact
	own    map[string]ownFact // by path
	paths  atomic.Int64       // how many are in own
}

type sharedFact struct {
	until    time.Time
	head     uint64        // of the stream that has shown it; see evidence.HashHead
	greeting time.Duration // how long after its head a connection was given to be greeted
	greets   bool          // connections were greeted
	doubted  bool          // a later stream has begun otherwise
}

type ownFact struct {
	until time.Time
	why   ownReason
}

// noteShared takes note that two connections with a key were told the same.
func (f *facts) noteShared(key Key, fact sharedFact) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shared == nil {
		f.shared = make(map[Key]sharedFact)
	}
	fact.until = time.Now().Add(factTime)
	f.shared[key] = fact
	for k := range f.shared { // any other makes room
		if len(f.shared) <= maxFacts {
			break
		}
		if k != key {
			delete(f.shared, k)
		}
	}
}

// sharedBy returns what is known of a key.
func (f *facts) sharedBy(key Key) (fact sharedFact, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fact, ok = f.shared[key]
	if !ok {
		return sharedFact{}, false
	}
	if !time.Now().Before(fact.until) {
		delete(f.shared, key)
		return sharedFact{}, false
	}
	return fact, true
}

// doubt takes note that a stream of a key has begun otherwise than was remembered: no
// later one is taken to be shared before two of its connections have shown it.
func (f *facts) doubt(key Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fact, ok := f.shared[key]; ok {
		fact.doubted = true
		f.shared[key] = fact
	}
}

// believes reports whether a key is known to be shared, and there is no doubt.
func (f *facts) believes(key Key) bool {
	fact, ok := f.sharedBy(key)
	return ok && !fact.doubted
}

// forget takes note that it is not known any more whether a key is shared.
func (f *facts) forget(key Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.shared, key)
}

// noteOwn takes note that each connection with a path is told its own, and
// forgets that those with one of its keys were told the same.
func (f *facts) noteOwn(key Key, path string, why ownReason) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.shared, key)
	if f.own == nil {
		f.own = make(map[string]ownFact)
	}
	f.own[path] = ownFact{until: time.Now().Add(factTime), why: why}
	for p := range f.own {
		if len(f.own) <= maxFacts {
			break
		}
		if p != path {
			delete(f.own, p)
		}
	}
	f.paths.Store(int64(len(f.own)))
}

// ownBy reports whether each connection with the path of a key is told its own,
// and why. A key that was itself seen to be shared is not meant.
func (f *facts) ownBy(key Key, parts []Part) (why Private, ok bool) {
	if f.paths.Load() == 0 {
		return Private{}, false
	}
	path := pathOf(parts)
	f.mu.Lock()
	defer f.mu.Unlock()
	fact, ok := f.own[path]
	if !ok {
		return Private{}, false
	}
	now := time.Now()
	if !now.Before(fact.until) {
		delete(f.own, path)
		f.paths.Store(int64(len(f.own)))
		return Private{}, false
	}
	if shared, ok := f.shared[key]; ok && now.Before(shared.until) {
		return Private{}, false
	}
	if fact.why == ownSession {
		return Private{Reason: PrivateEndpoint, Until: fact.until}, true
	}
	return Private{Reason: PrivatePerConnection, Detail: string(fact.why), Until: fact.until}, true
}
