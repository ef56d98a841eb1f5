package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/meter"
)

// Revoking ends the responses of all guests that have a key. A key is a keyed
// hash: what it was made of is not kept.
//
// A request that is on its way to a response is no guest yet. So it takes note of
// the Clock when it comes, and when it becomes a guest what was revoked since is
// looked at.

// Who has revoked, as a label.
const (
	ByAdmin       = "admin"
	ByApplication = "application"
)

// Revoked counts revocations.
var Revoked = meter.NewLabelled(ByAdmin, ByApplication)

// Key is what a guest can be revoked by.
type Key [16]byte

// keySecret is of the keyed hashes; it is the process's.
var keySecret = sync.OnceValue(func() []byte {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails: crypto/rand
	return secret
})

// KeyOf makes a key of what names a value, and of the hash of that.
func KeyOf(name string, value [sha256.Size]byte) (key Key) {
	mac := hmac.New(sha256.New, keySecret())
	mac.Write(value[:])
	mac.Write([]byte(name))
	copy(key[:], mac.Sum(nil))
	return key
}

// Clock is a moment in the order of revocations.
type Clock uint64

// maxRevocations bounds how many revocations are known to requests on their way.
// One that has seen more pass is revoked: that is the safe side.
const maxRevocations = 1 << 14

// revocations are the newest ones.
type revocations struct {
	now    Clock        // how many there were
	newest []revocation // by their number, modulo maxRevocations
}

type revocation struct {
	key  Key
	fits func(*Guest) bool
}

// Now is the moment for a request that comes now.
func (s *Set) Now() Clock {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.now
}

// Key gives a guest that was added the key that it can be revoked by. It reports
// whether that was revoked after the moment since; then it is to be dismissed.
func (s *Set) Key(g *Guest, key Key, since Clock) (revoked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.of == nil {
		return false
	}
	s.unkey(g)
	if key == (Key{}) {
		return false
	}
	if s.keys == nil {
		s.keys = make(map[Key]map[*Guest]struct{})
	}
	if s.keys[key] == nil {
		s.keys[key] = make(map[*Guest]struct{}, 1)
	}
	s.keys[key][g] = struct{}{}
	g.key = &key
	return s.revokedSince(g, since)
}

// unkey takes a guest's key from it. The lock is held.
func (s *Set) unkey(g *Guest) {
	if g.key == nil {
		return
	}
	key := *g.key
	g.key = nil
	delete(s.keys[key], g)
	if len(s.keys[key]) == 0 {
		delete(s.keys, key)
	}
}

// revokedSince reports whether a guest's key was revoked after a moment. The lock
// is held.
func (s *Set) revokedSince(g *Guest, since Clock) bool {
	if s.said.now-since > maxRevocations {
		return true
	}
	for at := since; at < s.said.now; at++ {
		if r := &s.said.newest[at%maxRevocations]; r.key == *g.key && r.fits(g) {
			return true
		}
	}
	return false
}

// Revoke dismisses all guests with a key that fit, each at a random moment within
// the time, and returns how many there were. fits may be asked of guests to come.
func (s *Set) Revoke(key Key, fits func(*Guest) bool, within time.Duration) int {
	s.mu.Lock()
	if s.said.newest == nil {
		s.said.newest = make([]revocation, maxRevocations)
	}
	s.said.newest[s.said.now%maxRevocations] = revocation{key, fits}
	s.said.now++
	var all []*Guest
	for g := range s.keys[key] {
		if fits(g) {
			all = append(all, g)
		}
	}
	s.mu.Unlock()
	for _, g := range all {
		g.Subject.Dismiss(within)
	}
	return len(all)
}

// Offer makes known that guests can be revoked by a value of this name; "" offers
// nothing. What it returns takes that back, and may be called again.
func (s *Set) Offer(name string) (withdraw func()) {
	if name == "" {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names == nil {
		s.names = make(map[string]int)
	}
	s.names[name]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.names[name]--; s.names[name] == 0 {
			delete(s.names, name)
		}
	})
}

// Names are what guests can be revoked by.
func (s *Set) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.names))
}
