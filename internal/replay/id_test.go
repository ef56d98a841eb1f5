package replay

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// compositeID is a last event ID as applications give it that have a position
// in each of many topics.
func compositeID(offset, size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `,{"topic":"eqiad.mediawiki.%d","partition":0,"offset":%d}`, i, offset)
	}
	return "[" + b.String()[1:size-1] + "]"
}

// TestIDsThatNoRequestCanBring: of an id over the limit nothing is kept for
// looking up, and it is not sent upstream.
func TestIDsThatNoRequestCanBring(t *testing.T) {
	f := Buffer{Limits: Limits{Events: 10, Size: 1 << 20, Age: time.Hour}}
	long := strings.Repeat("x", MaxID+1)
	for i, id := range []string{"1", long, "2", long} {
		f.Append(&Block{ID: id, HasID: true, Dispatches: true, Wire: []byte("id: " + id + "\n\n"), At: time.Now()})
		f.SetLastID(id, uint64(i)+1)
	}
	if _, ok := f.Find(long); ok || len(f.byID) != 2 || f.LastID != "" {
		t.Errorf("found: %v, of %d; the last is %.10q", ok, len(f.byID), f.LastID)
	}
	if position, ok := f.Find("2"); !ok || position != 3 {
		t.Errorf("2 is at %d, %v", position, ok)
	}
	if Sendable(long) {
		t.Error("it would be sent upstream")
	}
}

// TestMemoryOfIDs: the ids that are kept beside the blocks count as memory.
func TestMemoryOfIDs(t *testing.T) {
	f := Buffer{Limits: Limits{Events: 8, Size: 1 << 20, Age: time.Hour}}
	for i := range 100 {
		if i%3 == 0 {
			f.Append(&Block{CommentOnly: true, Wire: make([]byte, 30), At: time.Now()})
		} else {
			id := compositeID(i, 2000)
			f.Append(&Block{ID: id, HasID: true, Dispatches: true, Wire: make([]byte, 3000), At: time.Now()})
			f.SetLastID(id, f.Newest)
		}
		want := int64(0)
		for _, b := range f.Blocks {
			want += int64(len(b.Wire)+max(0, len(b.ID)-longID)) + BlockOverhead
		}
		if got := f.Memory(); got != want {
			t.Fatalf("%d blocks take %d bytes, expected %d", len(f.Blocks), got, want)
		}
		if len(f.byID) > len(f.Blocks)+1 { // and that of the newest that is gone
			t.Fatalf("%d ids of %d blocks are kept", len(f.byID), len(f.Blocks))
		}
	}
}

// What has the shape of a gateway ID is one, with the position that it says; all else is
// not. Only what an event stream can have brought is looked up.
func FuzzIDs(f *testing.F) {
	f.Add(IDPrefix+NewEpoch()+".7", uint64(7))
	f.Add(IDPrefix+NewEpoch()+".18446744073709551616", uint64(0))
	f.Add("sse1..1", uint64(1))
	f.Add("a\nb", uint64(1<<63))
	f.Fuzz(func(t *testing.T, id string, position uint64) {
		if epoch, n, ok := ParseID(id); ok {
			again, m, ok := ParseID(string(AppendID(nil, epoch, n)))
			if !ok || again != epoch || m != n {
				t.Errorf("%q is position %d of %s, and that is not read again", id, n, epoch)
			}
			if !ValidID(id) || !Sendable(id) {
				t.Errorf("%q is a gateway ID, and cannot be looked up or sent", id)
			}
		}
		if Sendable(id) && !ValidID(id) {
			t.Errorf("%q may be sent, and not be looked up", id)
		}
		epoch := NewEpoch()
		if got, n, ok := ParseID(string(AppendID(nil, epoch, position))); !ok || got != epoch || n != position {
			t.Errorf("position %d of %s is read as %d of %s, %v", position, epoch, n, got, ok)
		}
	})
}
