package upstreams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

var errReset = errors.New("connection reset")

// fakeReceiver writes down what it is told, and when.
type fakeReceiver struct {
	name   string
	began  time.Time
	mu     *sync.Mutex
	calls  *[]string
	src    Source
	hurry  chan struct{}
	giveUp context.CancelCauseFunc
	to     Receiver // wants the next connection
	more   int      // connections
	headed bool
}

func startReceiver(src Source, more int) *fakeReceiver {
	r := &fakeReceiver{name: "a", began: time.Now(), mu: new(sync.Mutex), calls: new([]string), src: src, hurry: make(chan struct{}), more: more}
	r.to = r
	return r
}

func (r *fakeReceiver) log(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.calls = append(*r.calls, fmt.Sprintf("%v %s: ", time.Since(r.began), r.name)+fmt.Sprintf(format, args...))
}

func (r *fakeReceiver) Receive(_ Source, id string, giveUp context.CancelCauseFunc) (Intake, Terms) {
	r.log("receive %q", id)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.giveUp = giveUp
	return r, Terms{LastEventID: id, MaxBlockSize: 100}
}

func (r *fakeReceiver) Next() (Source, string) {
	r.log("next")
	return r.src, "1"
}

func (r *fakeReceiver) Hurried() <-chan struct{} { return r.hurry }
func (r *fakeReceiver) Lapsed()                  { r.log("lapsed") }
func (r *fakeReceiver) Opening() bool            { return true }
func (r *fakeReceiver) Reconnects() bool         { return false }
func (r *fakeReceiver) Reopens() bool            { return false }
func (r *fakeReceiver) Keep() error              { return nil }
func (r *fakeReceiver) Refused(bool, error)      { r.log("refused") }
func (r *fakeReceiver) Partial(int64)            {}
func (r *fakeReceiver) Coding(int64)             {}
func (r *fakeReceiver) Log() *zap.Logger         { return zap.NewNop() }

func (r *fakeReceiver) Opened(*Head, error) {
	r.log("opened")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headed = true
}

func (r *fakeReceiver) Take(b eventstream.Block) error {
	r.log("take %s", strings.TrimSpace(string(b.Lines)))
	return nil
}

func (r *fakeReceiver) Deserted() bool {
	r.log("deserted")
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.headed
}

// giveUpAfter gives up the connection that there is then.
func (r *fakeReceiver) giveUpAfter(d time.Duration, cause error) {
	time.AfterFunc(d, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.giveUp(cause)
	})
}

func (r *fakeReceiver) Ended(_ context.Context, end Ending) (Receiver, time.Duration, bool) {
	r.log("ended, events %v, clean %v, status %d, tail %q, %v", end.Events, end.Clean, end.Status, end.Tail, end.Err)
	r.more--
	return r.to, time.Second, r.more > 0
}

func (r *fakeReceiver) expect(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(*r.calls, want) {
		t.Errorf("calls:\n%s\nexpected:\n%s", strings.Join(*r.calls, "\n"), strings.Join(want, "\n"))
	}
}

// fakeSource opens connections with a function.
type fakeSource struct {
	open    func(ctx context.Context, conn *Conn) Ending
	retired bool
}

func (s *fakeSource) Open(ctx context.Context, _ string, conn *Conn) Ending { return s.open(ctx, conn) }
func (s *fakeSource) Retired() bool                                         { return s.retired }

// events is a connection that brings what was written, and ends.
func events(text string, end Ending) func(context.Context, *Conn) Ending {
	return func(_ context.Context, conn *Conn) Ending {
		conn.Opened(&Head{}, nil)
		if _, err := conn.Write([]byte(text)); err != nil {
			end = Ending{Events: true, Err: err}
		}
		return end
	}
}

// A receiver is told of a connection before it is opened, then of what it brings, and of its end. Who is named then is
// asked for the next one, after the delay, and told of that.
func TestOneConnectionAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{open: events("data: 1\n\ndata: 2", Ending{Events: true, Clean: true, Status: 200})}
		r := startReceiver(src, 2)
		next := *r
		next.name, next.more = "b", 1
		r.to, next.to = &next, &next
		Run(t.Context(), r, src, "")
		r.expect(t,
			`0s a: receive ""`, "0s a: opened", "0s a: take data: 1", `0s a: ended, events true, clean true, status 200, tail "data: 2", <nil>`,
			"1s b: next", `1s b: receive "1"`, "1s b: opened", "1s b: take data: 1", `1s b: ended, events true, clean true, status 200, tail "data: 2", <nil>`)
	})
}

// A block that is too large ends its connection; what it may be is on the terms.
func TestBlocksOverTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{open: events("data: "+strings.Repeat("x", 100), Ending{Events: true})}
		r := startReceiver(src, 1)
		Run(t.Context(), r, src, "")
		r.expect(t, `0s a: receive ""`, "0s a: opened",
			fmt.Sprintf(`0s a: ended, events true, clean false, status 0, tail "", %v: over the limit of 100 bytes`, eventstream.ErrBlockTooLarge))
	})
}

// Who hurries does not wait for the delay.
func TestHurriedAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{open: func(context.Context, *Conn) Ending { return Ending{Err: errReset} }}
		r := startReceiver(src, 2)
		go func() {
			time.Sleep(time.Millisecond)
			r.hurry <- struct{}{}
		}()
		Run(t.Context(), r, src, "")
		r.expect(t, `0s a: receive ""`, `0s a: ended, events false, clean false, status 0, tail "", connection reset`,
			"1ms a: next", `1ms a: receive "1"`, `1ms a: ended, events false, clean false, status 0, tail "", connection reset`)
	})
}

// Retired handlers are not run again: after a while without others the receiver is told.
func TestNoHandlersAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{open: func(context.Context, *Conn) Ending { return Ending{Err: errReset} }, retired: true}
		r := startReceiver(src, 9)
		Run(t.Context(), r, src, "")
		r.expect(t, `0s a: receive ""`, `0s a: ended, events false, clean false, status 0, tail "", connection reset`,
			"1s a: next", "1m1s a: next", "1m1s a: lapsed")
	})
}

// Handlers that do not return when their connection is given up are left to themselves, after a moment.
func TestHandlersThatAreLeftToThemselves(t *testing.T) {
	for _, headed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			left, returned := make(chan struct{}), make(chan struct{})
			conns := make(chan *Conn, 1)
			src := &fakeSource{open: func(_ context.Context, c *Conn) Ending {
				conns <- c
				if headed {
					c.Opened(&Head{}, nil)
				}
				<-left
				close(returned)
				return Ending{}
			}}
			r := startReceiver(src, 1)
			r.giveUpAfter(time.Minute, errReset)
			Run(t.Context(), r, src, "")
			want := []string{`0s a: receive ""`, "1m1s a: deserted", `1m1s a: ended, events false, clean false, status 0, tail "", connection reset`}
			if headed {
				want = []string{`0s a: receive ""`, "0s a: opened", "1m1s a: deserted", `1m1s a: ended, events true, clean false, status 200, tail "", connection reset`}
			}
			r.expect(t, want...)
			if !(<-conns).IsDeserted() {
				t.Error("the handlers are not told that they were left")
			}
			close(left)
			<-returned
		})
	}
}

// What the handlers make of it that no head came in time is not the upstream's answer.
func TestNoAnswerInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{open: func(ctx context.Context, _ *Conn) Ending {
			<-ctx.Done()
			return Ending{Status: 502, Answered: true, Err: errReset}
		}}
		r := startReceiver(src, 1)
		r.giveUpAfter(time.Minute, ErrNoAnswer)
		Run(t.Context(), r, src, "")
		r.expect(t, `0s a: receive ""`, fmt.Sprintf(`1m0s a: ended, events false, clean false, status 0, tail "", %v`, ErrNoAnswer))
	})
}

// When nobody wants connections any more none is opened, whatever is being waited for.
func TestNobodyWantsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{open: func(context.Context, *Conn) Ending { return Ending{Err: errReset} }}
		r := startReceiver(src, 9)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		Run(ctx, r, src, "")
		r.expect(t, `0s a: receive ""`, `0s a: ended, events false, clean false, status 0, tail "", connection reset`)
	})
}
