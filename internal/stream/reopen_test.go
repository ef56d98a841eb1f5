package stream

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// A client that leaves while it waits for that answer leaves nothing behind.
func TestComeBackAndLeave(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		up.close()
		a.leave()
		b := st.join("1")
		hung := st.source.accept()
		b.leave()
		time.Sleep(DefaultLinger)
		hung.expectGone(true)
		st.expectStreams(0)
	})
}

// Nor does one that leaves before the upstream refuses to go on: what was kept is freed.
func TestComeBackAndLeaveBeforeARefusal(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		up.close()
		a.leave()
		b := st.join("1")
		again := st.source.accept()
		b.leave()
		again.answer(http.StatusNoContent, 0)
		if used, kept := st.hub.Memory.Used.Load(), st.hub.measure(); used != kept {
			t.Errorf("%d bytes are counted in replay buffers that have %d", used, kept)
		}
	})
}

// What newcomers to an application leave behind that soon ends its streams is
// bounded, and those who were the last clients find theirs.
func TestEndedStreamsOfAKeyAreFew(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		var ids []string
		for range 10 * maxEnded {
			r, up := st.start()
			up.event("1")
			r.read()
			ids = append(ids, r.id(1))
			up.close()
			r.expectEnd(EndUpstream)
			r.leave()
		}
		synctest.Wait()
		st.hub.mu.Lock()
		if n := len(st.hub.streams[st.key]); n > maxEnded+1 {
			t.Errorf("%d streams of one key", n)
		}
		st.hub.mu.Unlock()
		for _, id := range ids[len(ids)-maxEnded:] {
			st.join(id).expectOutcome("replayed; events=0")
			st.source.acceptOpen()
		}
		st.join(ids[0]).expectOutcome(ResumeGap)
	})
}
