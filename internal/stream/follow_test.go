package stream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// fakeCluster hands the streams of a hub to the test, which says what they are.
type fakeCluster struct {
	connects bool // each has its own upstream connection at once
	members  chan *Member
}

func (c *fakeCluster) Name([]Part, *Options) string { return "name" }

func (c *fakeCluster) Run(ctx context.Context, m *Member) {
	if c.connects {
		m.Connect()
	}
	c.members <- m
	<-ctx.Done()
}

// owner makes the hub's streams have upstream connections of their own.
func (st *streamTest) owner() *fakeCluster { return st.inCluster(true) }

func (st *streamTest) inCluster(connects bool) *fakeCluster {
	c := &fakeCluster{connects: connects, members: make(chan *Member, 16)}
	st.hub.SetCluster(c)
	return c
}

// follower is another node, with a client whose stream follows an excerpt, and which has an ID of that.
func (st *streamTest) follower(set func(o *Options), e *Excerpt) (node *streamTest, r *reader, m *Member) {
	st.t.Helper()
	node = newStreamTest(st.t, set)
	st.t.Cleanup(node.stop)
	c := node.inCluster(false)
	r = node.join("10")
	m = <-c.members
	if !m.Follow(e) {
		st.t.Fatal("it does not follow")
	}
	return node, r, m
}

// all is what a node gives of its stream to another one that has nothing.
func (m *Member) all() *Excerpt { return m.Excerpt(0, true, 1<<20, 1<<20) }

// text is all that an excerpt tells of what an upstream has said.
func (e *Excerpt) text() string {
	var text strings.Builder
	fmt.Fprintln(&text, e.Head.Header, e.OldestID)
	for _, b := range e.Blocks {
		fmt.Fprintf(&text, "%s%s\n", b.Wire, b.ID)
	}
	if e.Said != nil {
		fmt.Fprintf(&text, "%+v", *e.Said)
	}
	return text.String()
}

// expectKept checks that nothing of the stream may be given to another node.
func (m *Member) expectKept(t *testing.T) {
	t.Helper()
	synctest.Wait()
	if e := m.all(); e != nil {
		t.Errorf("another node is given %q", e.text())
	}
	if m.IsShared() {
		t.Error("the stream is to be given to other nodes")
	}
}

// What two connections have not shown to be for all stays on its node: head and events,
// whether their client is the only one or others wait.
func TestUnprovenStreamStaysOnItsNode(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		c := st.owner()
		_, up := st.start()
		m := <-c.members
		m.expectKept(t)
		up.numbered("1")
		m.expectKept(t)
		st.join("")
		time.Sleep(proofDelay / 2)
		m.expectKept(t)
		time.Sleep(proofDelay)
		m.expectKept(t)
		if n := m.ForOthers(); n != 0 {
			t.Errorf("blocks up to %d are for others", n)
		}
	})
}

// What was proven is given to other nodes no more once it is known to be one client's.
func TestStreamThatIsNotSharedAnyMoreStaysOnItsNode(t *testing.T) {
	for name, happens := range map[string]func(st *streamTest, up *fakeConn){
		"a session for each": func(st *streamTest, up *fakeConn) {
			up.breakOff()
			up = st.source.acceptOpen()
			up.event("session 1")
			sp := st.source.acceptOpen() // for b, who may not be given that
			sp.event("session 2")
			for range 2 {
				time.Sleep(10 * time.Second)
				for i := range len(st.source.conns) {
					p := st.source.acceptOpen()
					p.event(fmt.Sprint("session of a probe ", i))
				}
			}
			time.Sleep(time.Minute)
		},
		"a cookie": func(st *streamTest, up *fakeConn) {
			up.breakOff()
			up = st.source.accept()
			up.events = true
			up.run(func() {
				up.conn.Opened(&upstreams.Head{Header: http.Header{"Set-Cookie": {"a=b"}}}, Private{Reason: PrivateSetCookie}.Err())
			})
		},
		"refused": func(st *streamTest, up *fakeConn) {
			up.breakOff()
			st.source.accept().answer(http.StatusUnauthorized, 0)
		},
		"drained and gone": func(st *streamTest, _ *fakeConn) {
			for _, s := range st.hub.Every() {
				s.LetGo(time.Second)
			}
			time.Sleep(2 * time.Second)
			for _, r := range st.readers {
				r.read()
				r.leave()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(), func(st *streamTest) {
				c := st.owner()
				_, _, up := st.proven()
				m := <-c.members
				if e := m.all(); e == nil || len(e.Blocks) != 10 || !m.IsShared() {
					t.Fatalf("another node is given %+v", e)
				}
				happens(st, up)
				m.expectKept(t)
			})
		})
	}
}

// An upstream that opens a session for each connection says so before anything is for all,
// even if the operator vouches for it.
func TestSessionStaysOnItsNode(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		c := st.owner()
		_, up := st.start()
		m := <-c.members
		if err := up.send("event: endpoint\ndata: /session/1\n\n"); err != nil {
			t.Fatal(err)
		}
		m.expectKept(t)
		if !m.IsClosed() {
			t.Error("others may join the stream")
		}
	})
}

// After a break, or a reload, the application may be another one. What its new connection
// brings, in the head, in blocks, after the last of them and beside them, stays on the node
// until it is proven. What was proven before does not.
func TestNewConnectionStaysOnItsNodeUntilItIsProven(t *testing.T) {
	for name, again := range anotherConnection {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(func(o *Options) { o.GapEvent = "" }), func(st *streamTest) {
				c := st.owner()
				a, _, up := st.proven()
				m := <-c.members
				before := m.all()
				up = again(st, up)
				up.openAs("secret")
				check := func(when string) {
					t.Helper()
					synctest.Wait()
					e := m.all()
					if e == nil || e.End() != before.End() || m.ForOthers() != before.End() {
						t.Fatalf("%s another node is given %+v", when, e)
					}
					if text := e.text(); strings.Contains(strings.ToLower(text), "secret") {
						t.Errorf("%s another node is given %q", when, text)
					}
				}
				check("with the head")
				for _, text := range []string{"retry: 12345\n\n", "id: secret 1\nretry: 12345\n\n", "id: secret 2\ndata: secret\n\n"} {
					if err := up.send(text); err != nil {
						t.Fatal(err)
					}
					check("with a block")
				}
				time.Sleep(20 * time.Second)
				check("later")
				if err := up.send("data: secret"); err != nil {
					t.Fatal(err)
				}
				up.close()
				if _, tail, ended := m.Ended(); !ended || len(tail) > 0 {
					t.Errorf("ended: %v; other nodes are given the tail %q", ended, tail)
				}
				a.read()
			})
		})
	}
}

// What a connection has said that is to follow the stream's is not the stream's before that is
// proven, though no block of it is given.
func TestWhatASuccessorHasSaidStaysOnItsNode(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		c := st.owner()
		_, _, up := st.proven()
		m := <-c.members
		if e := m.all(); e.Said == nil {
			t.Fatal("what the proven one has said is not given")
		}
		up.breakOff()
		st.source.accept().openAs("secret")
		synctest.Wait()
		m.stream.mu.Lock()
		m.stream.said.keep(&said{gaveID: true, lastID: "secret", retry: 12345, hasRetry: true}, "") // as of a successor
		m.stream.mu.Unlock()
		if e := m.all(); e == nil || e.Said != nil {
			t.Errorf("another node is given %+v", e)
		}
	})
}

// A tail is part of an event: of that of a connection which is not proven, nobody is given
// it but who the connection was opened for.
func TestTailIsNoOneElses(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		a, b, up := st.proven()
		up.breakOff()
		up = st.source.acceptOpen()
		if err := up.send("data: secret\n\ndata: secret tail"); err != nil {
			t.Fatal(err)
		}
		up.close()
		if text := a.read(); !strings.Contains(text, "secret tail") {
			t.Errorf("its own client is given %q, end %q", text, a.end)
		}
		if text := b.read(); strings.Contains(text, "secret") {
			t.Errorf("another one is given %q", text)
		}
	})
}

// What is kept for one client of a stream is no part of another node's: the stream does not
// go on with that, though it goes by the same name.
func TestWhatIsNotProvenIsNotFollowedBy(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		c := st.owner()
		a, _, up := st.proven()
		m := <-c.members
		other := m.all()
		up.breakOff()
		up = st.source.acceptOpen()
		up.event("secret")
		a.read()
		other.Connection++
		if m.Follow(other) {
			t.Error("it follows")
		}
		m.expectBarrier(t, other.End())
	})
}

func (m *Member) expectBarrier(t *testing.T, position uint64) {
	t.Helper()
	synctest.Wait()
	if got := m.ForOthers(); got != position {
		t.Errorf("blocks up to %d are for others, expected %d", got, position)
	}
}

// A follower that takes over has another connection: its head and what it brings are one
// client's until that is proven here, whatever was proven on the owner's node.
func TestTakeOverHasToBeEarned(t *testing.T) {
	for name, goesOn := range map[string]func(up *fakeConn){
		"greets":             func(up *fakeConn) { up.event("secret") },
		"goes on after 10":   func(up *fakeConn) { up.numbered("11") },
		"is quiet, and then": func(up *fakeConn) { time.Sleep(20 * time.Second); up.numbered("11") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(), func(st *streamTest) {
				c := st.owner()
				st.proven()
				owner := <-c.members
				node, a, m := st.follower(unproven(), owner.all())
				b := node.join("10")
				for _, r := range []*reader{a, b} {
					r.read()
				}
				m.Connect()
				up := node.source.accept()
				if up.lastEventID != "10" {
					t.Errorf("it asks for what comes after %q", up.lastEventID)
				}
				up.openAs("1")
				goesOn(up)
				d, e := node.join("10"), node.join("")
				given := 0
				for _, r := range []*reader{a, b, d, e} {
					head, err := r.sub.Head()
					if err != nil || head.Header.Get("X-Session") != "" {
						t.Errorf("a client has the head %v, %v", head, err)
					}
					if text := r.read(); strings.Contains(text, "secret") || strings.Contains(text, "11") {
						given++
					}
				}
				if given != 1 {
					t.Errorf("%d clients were given what one connection brings", given)
				}
				if e := m.all(); e == nil || e.End() != 10 || e.Head.Header.Get("X-Session") != "" {
					t.Errorf("another node is given %+v", e)
				}
			})
		})
	}
}

// The operator's word is enough on the node that takes over, too.
func TestTakeOverOfAVouchedStream(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		c := st.owner()
		_, up := st.start()
		up.event("1")
		owner := <-c.members
		node, a, m := st.follower(nil, owner.all())
		b := node.join("")
		m.Connect()
		up = node.source.acceptOpen()
		up.event("2")
		for _, r := range []*reader{a, b} {
			if text := r.read(); !strings.Contains(text, "data: 2") {
				t.Errorf("a client is given %q", text)
			}
		}
		if e := m.all(); e == nil || e.End() != 2 {
			t.Errorf("another node is given %+v", e)
		}
	})
}

// What a node remembers of a key is of the application as it was then. It is forgotten when
// the owner's connection is another one, and when the owner does not share it any more.
func TestFollowerForgetsWhatWasLearntBefore(t *testing.T) {
	for name, happens := range map[string]func(st *streamTest, m *Member, e *Excerpt){
		"lost":       func(_ *streamTest, m *Member, e *Excerpt) { e.Live = false; m.Follow(e) },
		"another":    func(_ *streamTest, m *Member, e *Excerpt) { e.Connection++; m.Follow(e) },
		"not shared": func(_ *streamTest, m *Member, _ *Excerpt) { m.Lose() },
		"taken over": func(node *streamTest, m *Member, _ *Excerpt) { m.Connect(); node.source.acceptOpen() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(), func(st *streamTest) {
				c := st.owner()
				st.proven()
				owner := <-c.members
				node, _, m := st.follower(unproven(), owner.all())
				m.stream.mu.Lock()
				m.stream.noteShared() // as a splice that was merged does
				m.stream.mu.Unlock()
				if !node.hub.facts.believes(node.key) {
					t.Fatal("nothing is remembered")
				}
				happens(node, m, owner.all())
				if node.hub.facts.believes(node.key) {
					t.Error("it is believed still")
				}
			})
		})
	}
}

// A break of the owner's connection, after which the application may be another one, is
// known on another node too late to take what several clients of a splice were given back:
// there each has its own.
func TestFollowersClientsShareNoSplice(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		c := st.owner()
		st.proven()
		owner := <-c.members
		node, _, _ := st.follower(unproven(), owner.all())
		time.Sleep(5 * time.Second)
		all := []*reader{node.join(""), node.join(""), node.join("")}
		for range all {
			sp := node.source.acceptOpen()
			sp.event("secret")
		}
		for _, r := range all {
			if text := r.read(); strings.Count(text, "secret") != 1 {
				t.Errorf("a client was given %q", text)
			}
		}
	})
}

// When the stream is another node's from now on, nobody sees here any more that the
// application has become another one: a splice without a head is its first client's.
func TestSharedSpliceIsLeftToItsFirstClientWhenTheStreamIsLost(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		c := st.owner()
		st.proven()
		m := <-c.members
		time.Sleep(5 * time.Second)
		all := []*reader{st.join(""), st.join(""), st.join("")}
		sp := st.source.accept()
		m.Lose()
		sp.open()
		sp.event("secret")
		given := 0
		for _, r := range all {
			if strings.Contains(r.read(), "secret") {
				given++
			}
		}
		if given != 1 {
			t.Errorf("%d clients were given what one connection brings", given)
		}
	})
}

// What a connection has brought that was not proven is told to one client. When that
// connection is over, and the next one is proven, it is for nobody else: the application may
// have become one that tells all the same.
func TestWhatWasNotProvenBeforeIsForNobodyElse(t *testing.T) {
	for name, again := range map[string]func(st *streamTest, up *fakeConn) *fakeConn{
		"break":  func(st *streamTest, up *fakeConn) *fakeConn { up.breakOff(); return st.source.acceptOpen() },
		"reload": func(st *streamTest, _ *fakeConn) *fakeConn { st.reload(); return st.source.acceptOpen() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(), func(st *streamTest) {
				c := st.owner()
				a, up := st.start()
				m := <-c.members
				up.event("secret")
				up = again(st, up)
				time.Sleep(10 * time.Second)
				b, sp := st.second()
				sp.open()
				for range 3 {
					time.Sleep(2 * splicePause)
					for _, conn := range []*fakeConn{up, sp} {
						if conn.ctx.Err() == nil {
							conn.event("for all")
						}
					}
				}
				sp.expectGone(true)
				a.read()
				d := st.join("sse1.00000000000000000000000000000000.1") // of another life: it is given what is kept
				if text := b.read(); !strings.Contains(text, "for all") {
					t.Errorf("the second client was given %q", text)
				}
				if text := d.read() + b.read(); strings.Contains(text, "secret") {
					t.Errorf("another client was given %q", text)
				}
				if e := m.all(); e == nil || strings.Contains(e.text(), "secret") {
					t.Errorf("another node is given %+v", e)
				}
			})
		})
	}
}

// Who is not to be given a stream here is not because another node gives it.
func TestFollowerKeepsToWhatItHasLearnt(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		c := st.owner()
		st.proven()
		owner := <-c.members
		node, _, m := st.follower(unproven(), owner.all())
		m.stream.mu.Lock()
		m.stream.perConnection(ownGreeting)
		m.stream.mu.Unlock()
		synctest.Wait()
		m.expectKept(t)
		if _, err := node.tryJoin(""); !errors.Is(err, ErrUnshareable) {
			t.Errorf("a newcomer is told %v", err)
		}
	})
}

// A cookie is the first client's, also where the operator says that clients do not need it.
func TestCookiesStayOnTheirNode(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		c := st.owner()
		st.join("")
		up := st.source.accept()
		up.events = true
		up.run(func() { up.conn.Opened(&upstreams.Head{Header: http.Header{"Set-Cookie": {"a=b"}, "X-A": {"1"}}}, nil) })
		m := <-c.members
		if e := m.all(); e == nil || e.Head.Header.Get("X-A") != "1" || len(e.Head.Header["Set-Cookie"]) > 0 {
			t.Errorf("another node is given %+v", e)
		}
	})
}

// A client that has come from the owner faster than its last event waits for that: it goes on
// after it, is told a gap if it does not come, and is given nothing if the stream is lost here.
func TestClientWaitsForItsLastEvent(t *testing.T) {
	for name, test := range map[string]struct {
		happens func(m, owner *Member)
		expect  func(r *reader)
	}{
		"it comes": {
			func(m, owner *Member) { m.Follow(owner.all()) },
			func(r *reader) {
				r.hasHead()
				r.expectOutcome(ResumeReplayed + "; events=1")
				r.expect(given("4", "4"))
			},
		},
		"it does not come": {
			func(*Member, *Member) { time.Sleep(aheadTime) },
			func(r *reader) {
				r.hasHead()
				r.expectOutcome(ResumeGap)
				r.expect(primed("sse1.E.1"))
			},
		},
		"an earlier one comes, and the stream is lost": {
			func(m, owner *Member) { m.Follow(owner.Excerpt(1, false, 1, 1<<20)); m.Lose() },
			func(r *reader) { r.expectEnd(EndBroken) },
		},
		"the node takes over": {
			func(m, _ *Member) { m.Connect() },
			func(r *reader) {
				r.hasHead()
				r.expectOutcome(ResumeGap)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(st *streamTest) {
				c := st.owner()
				a, up := st.start()
				owner := <-c.members
				up.event("1")
				synctest.Wait()
				node, _, m := st.follower(nil, owner.all())
				up.event("2", "3", "4")
				synctest.Wait()
				r := node.join(a.id(3))
				if time.Sleep(aheadTime / 2); r.hasHead() {
					t.Error("it begins before it has what it had")
				}
				r.expect()
				test.happens(m, owner)
				test.expect(r)
			})
		})
	}
}
