package stream

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// FuzzKeyHash checks that different parts never have the same key.
func FuzzKeyHash(f *testing.F) {
	f.Add("header A", "1", "header B", "2", "header A", "1header B2", "", "")
	f.Add("a", "", "", "", "", "a", "", "")
	f.Add("a", "b", "c", "d", "ab", "", "c", "d")
	f.Add("a", "\x01\x00\x00\x00\x00\x00\x00\x00b", "c", "", "a", "", "b", "c")
	h := NewHub()
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, n3, v3, n4, v4 string) {
		all := []Part{{n1, v1}, {n2, v2}, {n3, v3}, {n4, v4}}
		for i := range len(all) + 1 {
			for j := range len(all) + 1 {
				for _, two := range [][2][]Part{{all[:i], all[:j]}, {all[:i], all[j:]}, {all[i:], all[j:]}} {
					same := h.Key(two[0]) == h.Key(two[1])
					if same != slices.Equal(two[0], two[1]) {
						t.Errorf("same key: %v of %q and %q", same, two[0], two[1])
					}
				}
			}
		}
	})
}

// The opener's source is replaced before its connection is opened.
func TestFirstConnectionIsTheOpeners(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	n := 0
	for range 50 {
		h := NewHub()
		x, y := h.Register("p", "old"), h.Register("p", "new")
		got := make(chan string, 1)
		mk := func(i *Instance, name string) *Request {
			return &Request{Instance: i, Options: testOptions(), Logger: zap.NewNop(),
				Source: func(bool) Source { return nameSource{name, got} }}
		}
		a, _ := h.Join(mk(x, "opener"))
		b, _ := h.Join(mk(y, "other"))
		if <-got != "opener" {
			n++
		}
		a.Leave()
		b.Leave()
		h.running.Wait()
	}
	if n > 0 {
		t.Errorf("%d of 50 first connections are not the opener's: a refusal finds no opener, who waits for ever", n)
	}
}

type nameSource struct {
	name string
	got  chan string
}

func (nameSource) Retired() bool { return false }

func (nameSource) Renew(any, *Renewal) bool { return false }

func (d nameSource) Open(ctx context.Context, _ string, conn *upstreams.Conn) upstreams.Ending {
	d.got <- d.name
	return upstreams.Ending{Status: 401}
}

// What grows with a request is done before the hub's lock is taken, once, and only for
// a request that opens a stream or brings a newer configuration to one.
func TestLargeRequestsHoldNobodyUp(t *testing.T) {
	inBubble(t, func(o *Options) { o.Join = JoinLive }, func(st *streamTest) {
		prepared, opened := 0, 0
		ask := func(inst *Instance) *Subscriber {
			t.Helper()
			sub, err := st.hub.Join(&Request{
				Key: st.key, Parts: []Part{{"path", "/"}, {"query", strings.Repeat("a=b&", 4500)}},
				Instance: inst, Options: st.options, Logger: zap.NewNop(),
				Prepare: func() {
					prepared++
					if !st.hub.mu.TryLock() {
						t.Fatal("the hub's lock is held")
					}
					st.hub.mu.Unlock()
				},
				Source: func(bool) Source { opened++; return st.source },
			})
			if err != nil {
				t.Fatal(err)
			}
			return sub
		}
		expect := func(what string, n int) {
			t.Helper()
			if prepared != n || opened != n {
				t.Errorf("%s: prepared %d times, %d sources, expected %d", what, prepared, opened, n)
			}
		}
		defer ask(st.instance).Leave()
		up := st.source.accept()
		up.open()
		up.event("1")
		expect("a stream is opened", 1)
		defer ask(st.instance).Leave()
		expect("it is joined", 1)
		defer ask(st.hub.Register(st.instance.Place, "newer")).Leave()
		expect("a newer configuration is brought", 2)
		st.hub.markUnshareable(st.key, time.Minute, Private{})
		defer ask(st.instance).Leave()
		expect("it is joined again", 2)
	})
}

// A request is compared with a bounded number of others.
func TestFewOfACrowdAreCompared(t *testing.T) {
	seen := 0
	told := crowded(t, 32*crowdSize+1, func(string) bool { seen++; return false }, func(i int) []Part { return []Part{{"query", fmt.Sprint("_=", i)}} })
	if len(told) == 0 || told[len(told)-1].Streams != 32*crowdSize+1 {
		t.Errorf("told %+v", told)
	}
	const parts = 4 // of each
	if limit := len(told) * (maxCompared*parts + 10); seen > limit {
		t.Errorf("%d parts were looked at, expected %d at most", seen, limit)
	}
}
