package stream

import (
	"fmt"
	"strings"
	"testing"
)

// What is kept of a request to compare it with others is bounded, however it is made, and
// requests that differ are told apart all the same.
func TestPartsOfAKeyAreBounded(t *testing.T) {
	text := func(part string) func(n int) []Part {
		return func(n int) []Part {
			return []Part{{"path", "/"}, {part, strings.Repeat("a&b=1;c&", 2000) + fmt.Sprint(n)}}
		}
	}
	for name, parts := range map[string]func(n int) []Part{
		"a query":  text("query"),
		"a cookie": text("header Cookie"),
		"long names": func(n int) []Part {
			return []Part{{"query", strings.Repeat("x", 16<<10) + "=" + fmt.Sprint(n)}}
		},
		"many fields": func(n int) (parts []Part) {
			for i := range 4000 {
				parts = append(parts, Part{fmt.Sprint("header ", i), "1"})
			}
			return append(parts, Part{"header last", fmt.Sprint(n)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			one, other := hashParts(parts(1)), hashParts(parts(2))
			bytes := 0
			for _, hash := range one {
				bytes += len(hash.name)
			}
			if len(one) > maxPartHashes+maxPieces || bytes > 4<<10 {
				t.Errorf("%d parts, names of %d bytes", len(one), bytes)
			}
			if fmt.Sprint(one) == fmt.Sprint(other) || fmt.Sprint(one) != fmt.Sprint(hashParts(parts(1))) {
				t.Error("requests that differ are not told apart")
			}
		})
	}
	long := strings.Repeat("/x", 8000)
	one, other := pathOf([]Part{{"path", long + "1"}}), pathOf([]Part{{"path", long + "2"}})
	if len(one) > maxPath || one == other {
		t.Errorf("a path of %d bytes", len(one))
	}
}
