package stream

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// Every reason says what it is, and what to do.
func TestPrivateReasonsHaveWords(t *testing.T) {
	for _, reason := range PrivateReasons {
		if info := (Private{Reason: reason}).Info(); info.Text == "" || info.Remedy == "" {
			t.Errorf("%+v", info)
		}
	}
	for reason := range privateTexts {
		if !slices.Contains(PrivateReasons, reason) {
			t.Errorf("%s is not in the list", reason)
		}
	}
	if (Private{}).Info() != nil {
		t.Error("a shared stream has a reason to be private")
	}
}

// countOf is how often a reason was counted.
func countOf(reason PrivateReason) float64 { return Counts.Private.With(string(reason)).Value() }

// What an answer was found not to be shared for is told to all who ask within a minute, with until when it holds.
func TestLearntReasonIsTold(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a := st.join("")
		b := st.join("")
		conn := st.source.accept()
		cookie := Private{Reason: PrivateSetCookie, Detail: "session"}
		conn.run(func() {
			conn.conn.Refused(false, cookie.Err())
		})
		now := time.Now()
		for _, r := range []*reader{a, b} {
			if _, err := r.sub.Head(); WhyPrivate(err) != cookie {
				t.Errorf("who waited is told %+v", WhyPrivate(err))
			}
		}
		_, err := st.tryJoin("")
		if want := (Private{PrivateSetCookie, "session", now.Add(unshareableTime)}); !errors.Is(err, ErrUnshareable) || WhyPrivate(err) != want {
			t.Errorf("who comes later is told %v, %+v, expected %+v", err, WhyPrivate(err), want)
		}
		conn.finish(upstreams.Ending{Status: http.StatusOK})
	})
}

// An answer that is not shared is its client's. Who drains all streams may have found the one that it was asked for
// just before that was over, and does not end the answer.
func TestDrainLeavesPrivateAnswers(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a := st.join("")
		conn := st.source.accept()
		conn.run(func() {
			conn.conn.Refused(false, Private{Reason: PrivateSetCookie, Detail: "session"}.Err())
		})
		found := st.hub.Every()
		a.leave()
		for _, s := range found {
			s.drain(0, EndStopping)
		}
		conn.expectGone(false)
		conn.finish(upstreams.Ending{Status: http.StatusOK})
	})
}

// A session for each connection is a reason for the first client, for the others, and for those who come later.
func TestEndpointIsAReason(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		before := countOf(PrivateEndpoint)
		a, up := st.start()
		b := st.join("")
		if err := up.send("event: endpoint\ndata: /messages?session=1\n\n"); err != nil {
			t.Fatal(err)
		}
		b.expectEnd(EndPerClient)
		info, _ := a.sub.Origin.Inspect()
		if info.Private == nil || info.Private.Reason != PrivateEndpoint {
			t.Errorf("operators see %+v", info.Private)
		}
		if why := b.sub.WhyAlone(); why.Reason != PrivateEndpoint {
			t.Errorf("the other client is alone for %+v", why)
		}
		_, err := st.tryJoin("")
		if why := WhyPrivate(err); why.Reason != PrivateEndpoint || why.Until.IsZero() {
			t.Errorf("who comes later is told %+v", why)
		}
		if n := countOf(PrivateEndpoint) - before; n != 1 {
			t.Errorf("counted %v times", n)
		}
	})
}

// Connections that are told different things.
func TestPerConnectionIsAReason(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		t := st.t
		st.hub.facts.noteOwn(st.key, "", ownGreeting)
		_, err := st.tryJoin("")
		want := Private{PrivatePerConnection, "greeting", time.Now().Add(factTime)}
		if WhyPrivate(err) != want {
			t.Errorf("told %+v, expected %+v", WhyPrivate(err), want)
		}
	})
}

// A splice that is not shared says why; one that could not be merged says that.
func TestPrivateSpliceHasAReason(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		t := st.t
		st.begun()
		b := st.join("")
		sp := st.source.accept()
		sp.events = true
		sp.run(func() {
			sp.conn.Opened(&upstreams.Head{Header: http.Header{}}, Private{Reason: PrivateVary, Detail: "X-Tenant"}.Err())
		})
		if why := b.sub.WhyAlone(); why.Reason != PrivateVary || why.Detail != "X-Tenant" {
			t.Errorf("alone for %+v", why)
		}
		c, _ := st.spliced("hello")
		before := countOf(PrivateNotMerged)
		st.hub.GiveUpSplices()
		if info, ok := c.sub.home.Inspect(); !ok || info.Private == nil || info.Private.Reason != PrivateNotMerged {
			t.Errorf("operators see %+v", info.Private)
		}
		if n := countOf(PrivateNotMerged) - before; n != 1 {
			t.Errorf("counted %v times", n)
		}
	})
}
