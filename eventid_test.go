package caddysse

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

// TestLongLastEventIDs: ids of some kilobytes are looked up and sent upstream as
// short ones are.
func TestLongLastEventIDs(t *testing.T) {
	for _, size := range []int{1023, 1025, 6000, maxLastEventID} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			u := startUpstream(t, nil)
			g := startGateway(t, proxied("", u))
			a := g.subscribe("/")
			up := u.accept()
			ids := []string{compositeID(1, size), compositeID(2, size), compositeID(3, size)}
			up.numbered(ids...)
			last := a.expect(ids[0])
			if last.LastEventID != ids[0] {
				t.Fatalf("the last event ID has %d bytes", len(last.LastEventID))
			}
			a.expect(ids[1], ids[2])
			b := g.subscribe("/", "Last-Event-ID: "+ids[0])
			if got := b.outcome(); got != "replayed; events=2" {
				t.Errorf("SSE-Resume: %s", got)
			}
			b.expect(ids[1], ids[2])
			unknown := compositeID(7, size)
			c := g.subscribe("/", "Last-Event-ID: "+unknown)
			splice := u.accept()
			if got := splice.request.Header.Get("Last-Event-Id"); got != unknown {
				t.Errorf("%d bytes of the ID were sent upstream", len(got))
			}
			a.close()
			b.close()
			c.close()
		})
	}
}

// TestIDsThatNoRequestCanBring: of an id over the limit nothing is kept for
// looking up, and it is not sent upstream.
func TestIDsThatNoRequestCanBring(t *testing.T) {
	f := buffer{limits: bufferLimits{events: 10, size: 1 << 20, age: time.Hour}}
	long := strings.Repeat("x", maxLastEventID+1)
	for i, id := range []string{"1", long, "2", long} {
		f.append(&block{id: id, hasID: true, dispatches: true, wire: []byte("id: " + id + "\n\n"), at: time.Now()})
		f.setLastID(id, uint64(i)+1)
	}
	if _, ok := f.find(long); ok || len(f.byID) != 2 || f.lastID != "" {
		t.Errorf("found: %v, of %d; the last is %.10q", ok, len(f.byID), f.lastID)
	}
	if position, ok := f.find("2"); !ok || position != 3 {
		t.Errorf("2 is at %d, %v", position, ok)
	}
	if sendable(long) {
		t.Error("it would be sent upstream")
	}
}

// TestMemoryOfIDs: the ids that are kept beside the blocks count as memory.
func TestMemoryOfIDs(t *testing.T) {
	f := buffer{limits: bufferLimits{events: 8, size: 1 << 20, age: time.Hour}}
	for i := range 100 {
		if i%3 == 0 {
			f.append(&block{commentOnly: true, wire: make([]byte, 30), at: time.Now()})
		} else {
			id := compositeID(i, 2000)
			f.append(&block{id: id, hasID: true, dispatches: true, wire: make([]byte, 3000), at: time.Now()})
			f.setLastID(id, f.newest)
		}
		want := int64(0)
		for _, b := range f.blocks {
			want += int64(len(b.wire)+max(0, len(b.id)-longID)) + blockOverhead
		}
		if got := f.memory(); got != want {
			t.Fatalf("%d blocks take %d bytes, expected %d", len(f.blocks), got, want)
		}
		if len(f.byID) > len(f.blocks)+1 { // and that of the newest that is gone
			t.Fatalf("%d ids of %d blocks are kept", len(f.byID), len(f.blocks))
		}
	}
}
