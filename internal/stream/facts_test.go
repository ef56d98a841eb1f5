package stream

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// Clients choose keys and paths: of so many at most something is remembered, the newest among them, and they take no
// room from each other.
func TestLearntFactsAreBounded(t *testing.T) {
	var f facts
	for n := range uint32(maxFacts + 100) {
		var key Key
		binary.BigEndian.PutUint32(key[:], n+1)
		f.noteShared(key, sharedFact{})
		if _, known := f.sharedBy(key); !known {
			t.Fatalf("key %d is not remembered", n)
		}
	}
	for n := range maxFacts + 100 {
		path := fmt.Sprint("/", n)
		f.noteOwn(Key{}, path, ownEvent)
		if _, known := f.own[path]; !known {
			t.Fatalf("path %s is not remembered", path)
		}
	}
	if len(f.shared) != maxFacts || len(f.own) != maxFacts || f.paths.Load() != maxFacts {
		t.Errorf("%d keys and %d (%d) paths, expected %d of each", len(f.shared), len(f.own), f.paths.Load(), maxFacts)
	}
}
