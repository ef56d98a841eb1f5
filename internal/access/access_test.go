package access

import (
	"crypto/sha256"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeClient is a response whose verdicts the test says.
type fakeClient struct {
	Guest

	mu        sync.Mutex
	verdict   Verdict
	asked     []time.Time
	asking    int
	atOnce    int
	takes     time.Duration
	dismissed []time.Duration
	onAsk     func()
}

func newFakeClient() *fakeClient {
	c := new(fakeClient)
	c.Subject = c
	return c
}

func (c *fakeClient) Ask() Verdict {
	c.mu.Lock()
	c.asked = append(c.asked, time.Now())
	c.asking++
	c.atOnce = max(c.atOnce, c.asking)
	takes, onAsk := c.takes, c.onAsk
	c.mu.Unlock()
	time.Sleep(takes)
	if onAsk != nil {
		onAsk()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking--
	return c.verdict
}

func (c *fakeClient) Dismiss(within time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dismissed = append(c.dismissed, within)
}

func (c *fakeClient) times() []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked)
}

func TestGuestsAreAskedAboutAtTheirInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set
		var all []*fakeClient
		for range 100 {
			c := newFakeClient()
			s.Add(&c.Guest, 1, time.Minute)
			all = append(all, c)
		}
		began := time.Now()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		firsts := make(map[time.Duration]bool)
		for _, c := range all {
			last := began
			firsts[c.times()[0].Sub(began).Truncate(time.Second)] = true
			for _, at := range append(c.times(), time.Now()) {
				if at.Sub(last) > time.Minute {
					t.Fatalf("was not asked about for %v", at.Sub(last))
				}
				last = at
			}
			if n := len(c.times()); n > 14 {
				t.Fatalf("was asked about %d times", n)
			}
			s.Remove(&c.Guest)
			s.Remove(&c.Guest)
		}
		if len(firsts) < 20 {
			t.Errorf("100 guests that came together were asked about within %d different seconds", len(firsts))
		}
		n := len(all[0].times())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if len(all[0].times()) > n || s.Len() > 0 {
			t.Error("one that has left was asked about")
		}
	})
}

func TestOnlyWhoIsRefusedIsDismissed(t *testing.T) {
	for verdict, want := range map[Verdict]int{Stays: 0, Unknown: 0, Unasked: 0, Refused: 1} {
		synctest.Test(t, func(t *testing.T) {
			var s Set
			c := newFakeClient()
			c.verdict = verdict
			s.Add(&c.Guest, 1, time.Minute)
			time.Sleep(time.Hour)
			synctest.Wait()
			if len(c.dismissed) != want {
				t.Errorf("verdict %v: dismissed %d times", verdict, len(c.dismissed))
			}
			asked := len(c.times())
			switch verdict {
			case Unknown:
				if asked < 200 {
					t.Errorf("one of which nothing was found out was asked about %d times in an hour", asked)
				}
			case Stays:
				if asked < 60 || asked > 80 {
					t.Errorf("asked about %d times in an hour", asked)
				}
			default:
				if asked != 1 {
					t.Errorf("verdict %v: asked about %d times", verdict, asked)
				}
			}
			s.Remove(&c.Guest)
		})
	}
}

// Nobody is asked about without an interval; after the owner is over all are, within
// the spread, until a new owner has them.
func TestGuestsOfAnOwnerThatIsOverAreAskedAboutSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set
		var all []*fakeClient
		for i := range 50 {
			c := newFakeClient()
			if i%2 == 0 {
				c.onAsk = func() { s.Move(&c.Guest, "new", 0) }
			}
			s.Add(&c.Guest, "old", 0)
			all = append(all, c)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		for _, c := range all {
			if len(c.times()) > 0 {
				t.Fatal("one without an interval was asked about")
			}
		}
		s.Stale("old")
		began := time.Now()
		time.Sleep(time.Minute)
		synctest.Wait()
		for i, c := range all {
			asked := c.times()
			if len(asked) == 0 || asked[0].Sub(began) > spread {
				t.Fatalf("asked about at %v", asked)
			}
			if moved := i%2 == 0; (len(asked) == 1) != moved {
				t.Errorf("a guest that was moved (%v) was asked about %d times", moved, len(asked))
			}
			s.Remove(&c.Guest)
		}
	})
}

// An authentication service that hangs has a bounded number of requests, and no guest
// is asked about twice at once.
func TestFewAreAskedAboutAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set
		var all []*fakeClient
		for range 300 {
			c := newFakeClient()
			c.takes = 2 * time.Minute
			s.Add(&c.Guest, 1, time.Minute)
			all = append(all, c)
		}
		most := 0
		for range 600 {
			time.Sleep(time.Second)
			synctest.Wait()
			now := 0
			for _, c := range all {
				c.mu.Lock()
				now += c.asking
				if c.atOnce > 1 {
					t.Fatal("a guest was asked about twice at once")
				}
				c.mu.Unlock()
			}
			most = max(most, now)
		}
		if most != maxAsking {
			t.Errorf("%d at once", most)
		}
		for _, c := range all {
			s.Remove(&c.Guest)
		}
		time.Sleep(time.Hour)
	})
}

// One that hangs does not keep others from being asked about in time.
func TestOneThatHangsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set
		slow, other := newFakeClient(), newFakeClient()
		slow.takes = time.Hour
		s.Add(&slow.Guest, 1, time.Minute)
		time.Sleep(time.Minute)
		s.Add(&other.Guest, 1, time.Minute)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(other.times()); n < 9 {
			t.Errorf("asked about %d times in 10 minutes", n)
		}
		s.Remove(&slow.Guest)
		s.Remove(&other.Guest)
		time.Sleep(time.Hour)
	})
}

func keyOf(value string) Key { return KeyOf("user", sha256.Sum256([]byte(value))) }

func anyGuest(*Guest) bool { return true }

func TestRevokingDismissesWhoHasTheKey(t *testing.T) {
	var s Set
	alice, bob, nobody := newFakeClient(), newFakeClient(), newFakeClient()
	for _, c := range []*fakeClient{alice, bob, nobody} {
		s.Add(&c.Guest, 1, 0)
	}
	s.Key(&alice.Guest, keyOf("alice"), s.Now())
	s.Key(&bob.Guest, keyOf("bob"), s.Now())
	s.Key(&nobody.Guest, Key{}, s.Now())
	if n := s.Revoke(keyOf("alice"), func(*Guest) bool { return false }, 0); n != 0 {
		t.Errorf("%d that do not fit were revoked", n)
	}
	if n := s.Revoke(keyOf("alice"), anyGuest, time.Minute); n != 1 || !slices.Equal(alice.dismissed, []time.Duration{time.Minute}) {
		t.Errorf("%d revoked, dismissed within %v", n, alice.dismissed)
	}
	if n := s.Revoke(Key{}, anyGuest, 0); n != 0 || len(bob.dismissed)+len(nobody.dismissed) > 0 {
		t.Errorf("others were dismissed: %v, %v", bob.dismissed, nobody.dismissed)
	}
	s.Remove(&alice.Guest)
	if n := s.Revoke(keyOf("alice"), anyGuest, 0); n != 0 {
		t.Errorf("one that has left was revoked")
	}
	s.Remove(&bob.Guest)
	s.Remove(&nobody.Guest)
	if len(s.keys) > 0 || len(s.owners) > 0 {
		t.Errorf("what is left: %v, %v", s.keys, s.owners)
	}
}

// What is revoked while a request is on its way to its response is not missed; what
// was before is not meant.
func TestRequestsOnTheirWayAreRevoked(t *testing.T) {
	var s Set
	come := func(value string, since Clock) bool {
		c := newFakeClient()
		s.Add(&c.Guest, 1, 0)
		defer s.Remove(&c.Guest)
		return s.Key(&c.Guest, keyOf(value), since)
	}
	s.Revoke(keyOf("alice"), anyGuest, 0)
	since := s.Now()
	if come("alice", since) {
		t.Error("who came after the revocation was revoked")
	}
	s.Revoke(keyOf("bob"), anyGuest, 0)
	s.Revoke(keyOf("alice"), func(*Guest) bool { return false }, 0)
	if come("alice", since) {
		t.Error("one that does not fit was revoked")
	}
	if !come("bob", since) || come("bob", s.Now()) {
		t.Error("bob's request that was on its way, and only that, is to be revoked")
	}
	for range maxRevocations {
		s.Revoke(keyOf("carol"), anyGuest, 0)
	}
	if !come("dave", since) || come("dave", s.Now()) {
		t.Error("a request that has seen too many revocations pass is to be revoked, and others not")
	}
}
