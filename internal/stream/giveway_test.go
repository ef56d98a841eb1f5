package stream

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Near GOMEMLIMIT streams that linger go, and then no stream is begun. Streams that are
// there can be joined.
func TestMemoryRunsShort(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		used := uint64(50)
		st.hub.resources.memory = func() (uint64, uint64) { return used * 100, 100 * 100 }
		come := func(n byte) (*reader, *fakeConn) {
			st.key = Key{n}
			r, up := st.start()
			up.event("1")
			return r, up
		}
		_, stays := come(1)
		lingers, left := come(2)
		lingers.leave()
		time.Sleep(pressureInterval)
		_, third := come(3)
		left.expectGone(false)

		used = lingeringGoAt
		time.Sleep(pressureInterval)
		_, fourth := come(4)
		left.expectGone(true)

		used = noneBeginsAt
		time.Sleep(pressureInterval)
		st.key = Key{5}
		for range 2 { // looked at, and remembered
			if _, err := st.tryJoin(""); !errors.Is(err, ErrNoMemory) {
				t.Fatal(err)
			}
		}
		st.key = Key{1}
		if _, err := st.tryJoin(""); err != nil {
			t.Errorf("a stream that is there: %v", err)
		}
		for _, up := range []*fakeConn{stays, third, fourth} {
			up.expectGone(false)
		}

		used = 50
		time.Sleep(pressureInterval)
		come(5)
	})
}

// Where memory is not stated, the replay buffers have half of GOMEMLIMIT.
func TestMemoryHeedsGOMEMLIMIT(t *testing.T) {
	h := NewHub()
	for limit, expected := range map[uint64]int64{100 << 20: 50 << 20, 1 << 40: DefaultMemory} {
		h.resources.memory = func() (uint64, uint64) { return 0, limit }
		inst := h.Register("place", "server")
		h.LimitMemory(inst, 0)
		if got, _ := h.MemoryLimit(); got != expected {
			t.Errorf("GOMEMLIMIT %d: %d", limit, got)
		}
		h.LimitMemory(inst, 1<<30)
		if got, _ := h.MemoryLimit(); got != 1<<30 {
			t.Errorf("stated: %d", got)
		}
		h.LimitMemory(inst, 0)
	}
}

// Streams that linger take no more than a share of the files, however long clients
// were there.
func TestLingeringLeavesFiles(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		const files = 40
		st.hub.resources.files = files
		var clients []*reader
		for n := range byte(files) {
			st.key = Key{n}
			r, up := st.start()
			up.event("1")
			clients = append(clients, r)
		}
		time.Sleep(DefaultLinger)
		for _, r := range clients {
			r.leave()
		}
		synctest.Wait()
		if open := st.source.running.Load(); open != files/filesShare {
			t.Errorf("%d linger", open)
		}
		// Most files are open: of what lingers as much gives way as is missing.
		st.hub.resources.open = func() int64 { return files*filesGoAt/100 + 2 }
		time.Sleep(pressureInterval)
		st.key = Key{files}
		st.start()
		synctest.Wait()
		if open := st.source.running.Load(); open != files/filesShare-2+1 {
			t.Errorf("%d linger, one is used, when most files are open", open)
		}
		if ended := st.hub.GiveWay(3, GaveWayFiles); ended != 3 {
			t.Errorf("%d gave way", ended)
		}
		synctest.Wait()
		if open := st.source.running.Load(); open != files/filesShare-2+1-3 {
			t.Errorf("%d linger", open)
		}
	})
}
