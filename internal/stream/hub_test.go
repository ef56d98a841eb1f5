package stream

import (
	"context"
	"runtime"
	"slices"
	"testing"

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
