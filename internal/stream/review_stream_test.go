package stream

import (
	"context"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// An endpoint event that comes when the only client has left.
func TestRevExclusiveNobodyLeaks(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		a.leave()
		_ = up.send("event: endpoint\ndata: /x\n\n")
		time.Sleep(time.Hour)
		st.expectStreams(0)
	})
}

// Handlers that were not alone are retired, then one of them opens a stream.
func TestRevAdoptableAfterRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		x1, x2 := h.Register("p", "old"), h.Register("p", "old")
		y := h.Register("p", "new")
		h.Retire(x1)
		h.Retire(x2)
		src := &fakeSource{t: t, conns: make(chan *fakeConn, 10)}
		join := func(i *Instance) *Subscriber {
			sub, err := h.Join(&Request{Instance: i, Options: testOptions(), Logger: zap.NewNop(),
				Source: func(bool) Source { return src }})
			if err != nil {
				t.Fatal(err)
			}
			return sub
		}
		a := join(x1) // a request that was on its way in the old configuration
		b := join(y)
		if a.Origin == b.Origin {
			t.Error("a client of the new handler is given the stream of one of two old ones")
		}
		a.Leave()
		b.Leave()
		h.EndAll()
		h.running.Wait()
	})
}

// deafSource opens with a head although the context is done by then.
type deafSource struct{ release chan struct{} }

func (deafSource) Retired() bool { return false }

func (deafSource) Renew(any, *Renewal) bool { return false }
func (d deafSource) Open(ctx context.Context, _ string, conn *Conn) Ending {
	<-d.release
	conn.Opened(&Head{Header: http.Header{}}, true)
	<-ctx.Done()
	return Ending{Events: true, Err: ctx.Err()}
}

// A splice whose head comes when its only client has left.
func TestRevDeadSplice(t *testing.T) {
	inBubble(t, func(o *Options) { o.Join = joinAuto }, func(st *streamTest) {
		_, up := st.start()
		up.event("1")
		s := st.readers[0].sub.Origin
		for range 3 {
			time.Sleep(2 * time.Second)
			d := deafSource{make(chan struct{})}
			s.mu.Lock()
			old := s.source
			s.source = d
			s.mu.Unlock()
			b := st.join("")
			b.read() // opens a splice
			sp := b.sub.stream
			if sp == s {
				st.t.Fatal("no splice")
			}
			b.leave()
			close(d.release)
			synctest.Wait()
			time.Sleep(2 * time.Second)
			s.mu.Lock()
			s.source = old
			if sp.phase != phaseGone {
				st.t.Errorf("the splice is in phase %d after its end", sp.phase)
			}
			s.mu.Unlock()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.learned != (learned{}) || s.spliced {
			st.t.Errorf("learnt from splices that were over: %+v", s.learned)
		}
	})
}

// Waiting clients while the upstream is away for longer than splice_timeout.
func TestRevWaitingWhileBroken(t *testing.T) {
	inBubble(t, func(o *Options) { o.Join = joinAuto; o.GiveUp = time.Hour }, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		a.read()
		up.breakOff()
		go func() {
			for c := range st.source.conns {
				c.end <- Ending{Status: 502}
			}
		}()
		b := st.join("")
		b.read()
		time.Sleep(defaultSpliceTimeout + time.Second)
		b.read()
		if b.end == EndPerClient {
			st.t.Error("sent to the failing upstream on its own")
		}
		for _, r := range st.readers {
			r.leave()
		}
		st.hub.EndAll()
		st.hub.running.Wait()
		close(st.source.conns)
	})
}

// A slow client at a clean end, and the stream's next life.
func TestRevTailOrder(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		slow := st.join("")
		up.numbered("1")
		_ = up.send("data: half\n")
		up.close()
		a.read()
		a.leave()
		b := st.join("1")
		up = st.source.acceptOpen()
		up.numbered("2", "3")
		_ = b
		slow.expectEnd(EndUpstream, newcomer, numbered("1"), "data: half\n")
	})
}

// The opener's source is replaced before its connection is opened.
func TestRevOpenerReplaced(t *testing.T) {
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
func (d nameSource) Open(ctx context.Context, _ string, conn *Conn) Ending {
	d.got <- d.name
	return Ending{Status: 401}
}

// A splice that breaks, and comes back with a head that may not be shared.
func TestRevSpliceReconnectPrivate(t *testing.T) {
	inBubble(t, func(o *Options) { o.Join = joinAuto }, func(st *streamTest) {
		_, up := st.start()
		up.numbered("10")
		b, c := st.join("3"), st.join("3")
		b.read()
		c.read()
		sp := st.source.acceptOpen()
		sp.numbered("4", "5")
		b.read()
		if got := c.read(); !strings.Contains(got, "data: 5") {
			st.t.Fatalf("%q", got)
		}
		sp.breakOff()
		sp = st.source.accept()
		sp.events = true
		sp.run(func() { sp.conn.Opened(&Head{Header: http.Header{}}, false) })
		c.read()
		b.read()
		if c.end == EndPerClient || b.end == EndPerClient {
			st.t.Error("goes upstream again with Last-Event-ID 3, after it was given 4 and 5")
		}
	})
}

// compacted: the greeting is the last change of each key, as it was broadcast.
func TestRevCompactedGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newSim()
		last := map[string]string{}
		u.greet = func(c *simConn) {
			for _, k := range []string{"k1", "k2", "k3"} {
				if last[k] != "" {
					c.out <- last[k]
				}
			}
			c.subscribe()
		}
		g := newSimGateway(t, u, 0, nil)
		a := g.join("")
		time.Sleep(time.Second)
		for i, k := range []string{"k3", "k2", "k1"} {
			u.broadcastOf(func() string {
				last[k] = event(strconv.Itoa(i+1), k+"="+strconv.Itoa(i))
				return last[k]
			})
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		b := g.join("")
		time.Sleep(5 * time.Second)
		got, _ := b.events()
		if strings.Join(got, " ") != "k1=2 k2=1 k3=0" {
			t.Errorf("was given %q, a direct client gets k1=2 k2=1 k3=0", got)
		}
		g.close(a, b)
	})
}

// retained: the greeting is the last event.
func TestRevRetainedGreeting(t *testing.T) {
	for _, ids := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			u := newSim()
			var last string
			u.greet = func(c *simConn) {
				if last != "" {
					c.out <- last
				}
				c.subscribe()
			}
			g := newSimGateway(t, u, 0, nil)
			clients := []*simClient{g.join("")}
			n := 0
			tick := func() {
				u.broadcastOf(func() string {
					n++
					id := ""
					if ids {
						id = strconv.Itoa(n)
					}
					last = event(id, "v"+strconv.Itoa(n))
					return last
				})
			}
			for i := range 60 {
				time.Sleep(500 * time.Millisecond)
				tick()
				if i%10 == 5 {
					time.Sleep(100 * time.Millisecond)
					clients = append(clients, g.join(""))
				}
			}
			time.Sleep(time.Minute)
			b := g.join("")
			time.Sleep(5 * time.Second)
			if got, _ := b.events(); len(got) != 1 {
				t.Errorf("ids %v: was given %q, a direct client gets the last value", ids, got)
			}
			g.close(append(clients, b)...)
		})
	}
}

// Splices that bring nothing at all.
func TestRevEmptyGreetings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newSim()
		alert := ""
		u.greet = func(c *simConn) {
			if alert != "" {
				c.out <- alert
			}
			c.subscribe()
		}
		g := newSimGateway(t, u, 0, nil)
		clients := []*simClient{g.join("")}
		time.Sleep(time.Second)
		u.broadcast(event("1", "hello all"))
		for range 3 {
			time.Sleep(10 * time.Second)
			clients = append(clients, g.join(""))
		}
		time.Sleep(10 * time.Second)
		u.broadcastOf(func() string { alert = event("2", "alert on"); return alert })
		time.Sleep(10 * time.Second)
		b := g.join("")
		time.Sleep(5 * time.Second)
		if got, _ := b.events(); len(got) != 1 {
			t.Errorf("was given %q, a direct client gets the alert", got)
		}
		g.close(append(clients, b)...)
	})
}
