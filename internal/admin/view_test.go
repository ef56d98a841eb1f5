package admin

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// There may be so many viewers, and no more.
func TestViewersAreBounded(t *testing.T) {
	url := startAPI(t) + "/sse/feed"
	var all []*http.Response
	for range maxViewers {
		resp := get(t, url)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("viewer %d: %s", len(all)+1, resp.Status)
		}
		all = append(all, resp)
	}
	if resp := get(t, url); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %s", resp.Status)
	}
	_ = all[0].Body.Close()
	eventually(t, "there is room", func() bool {
		resp := get(t, url)
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	for _, resp := range all {
		_ = resp.Body.Close()
	}
	eventually(t, "all have left", func() bool {
		theViewers.mu.Lock()
		defer theViewers.mu.Unlock()
		return theViewers.open == 0
	})
}

// quietView is a viewer who gets what is written in pieces.
type quietView struct {
	header http.Header
	writes chan string
}

func (q *quietView) Header() http.Header         { return q.header }
func (q *quietView) WriteHeader(int)             {}
func (q *quietView) Write(p []byte) (int, error) { q.writes <- string(p); return len(p), nil }
func (q *quietView) Flush()                      {}

// The tail of a quiet stream has heartbeats.
func TestTailHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quiet := make(chan struct{})
		gone := make(chan struct{})
		q := &quietView{header: make(http.Header), writes: make(chan string)}
		v := &view{w: q, rc: http.NewResponseController(q), gone: gone, check: time.NewTicker(viewCheck), last: time.Now()}
		defer v.check.Stop()
		var done sync.WaitGroup
		done.Go(func() {
			if v.wait(quiet) {
				t.Error("something came")
			}
		})
		began := time.Now()
		for range 3 {
			if beat := <-q.writes; beat != ":\n\n" {
				t.Errorf("%q", beat)
			}
		}
		if took := time.Since(began); took != 3*viewHeartbeat {
			t.Errorf("three heartbeats took %v", took)
		}
		close(gone)
		done.Wait()
	})
}

// deadlineRecorder takes note of how much is written under one deadline.
type deadlineRecorder struct {
	http.ResponseWriter
	under, most int
}

func (d *deadlineRecorder) SetWriteDeadline(time.Time) error { d.under = 0; return nil }
func (d *deadlineRecorder) FlushError() error                { return nil }
func (d *deadlineRecorder) Write(p []byte) (int, error) {
	d.under += len(p)
	d.most = max(d.most, d.under)
	return len(p), nil
}

// What a viewer of the admin API is sent in one go may take longer than one
// write may.
func TestViewerHasTimeForEachPiece(t *testing.T) {
	w := new(deadlineRecorder)
	v := &view{w: w, rc: http.NewResponseController(w)}
	if err := v.write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if w.most > viewPiece {
		t.Errorf("%d bytes under one deadline", w.most)
	}
}

// panicking is the writer of a handler before, which has a bug.
type panicking struct{ http.ResponseWriter }

func (panicking) WriteHeader(int) { panic("a bug in a writer") }

// A viewer at whose head something panics gives its place back.
func TestViewerAtWhoseHeadAHandlerPanicsIsNotCounted(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/sse/feed", nil)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic does not reach the server")
			}
		}()
		_, _ = openView(panicking{httptest.NewRecorder()}, r)
	}()
	theViewers.mu.Lock()
	defer theViewers.mu.Unlock()
	if theViewers.open != 0 {
		t.Errorf("%d viewers are counted", theViewers.open)
	}
}
