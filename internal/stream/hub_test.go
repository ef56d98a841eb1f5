package stream

import (
	"slices"
	"testing"
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
