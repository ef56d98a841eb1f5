package caddysse

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/admin"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// startPrivate starts a gateway with an admin endpoint and a private stream that
// has had the event 1, and returns its ID too.
func startPrivate(t *testing.T, options string) (g *gateway, a *adminEndpoint, c *testClient, up *upstreamClient, id string) {
	t.Helper()
	u := startUpstream(t, nil)
	g, a = startAdmin(t, proxied(options, u))
	c = g.post("/chat?token=SECRET1", "Authorization: Bearer SECRET2")
	up = u.accept()
	up.event("1")
	c.expect("1")
	return g, a, c, up, a.list().Streams[0].ID
}

// Private streams are told as the others are.
func TestAdminTellsPrivateStreams(t *testing.T) {
	before := gather(t)
	g, a, c, up, id := startPrivate(t, "name llm")
	a.untilWritten()
	l := a.list()
	if l.Total != 1 || l.Private != 1 || len(l.Streams) != 1 {
		t.Fatalf("%+v", l)
	}
	s, wire := l.Streams[0], len("data: 1\n\n")
	if !strings.HasPrefix(s.ID, stream.KindPrivate+"-") || s.Kind != stream.KindPrivate || s.Host != "gateway.test" || s.Path != "/chat" || s.Handler != "llm" ||
		!strings.HasPrefix(s.Listen, "unix/") || s.SeparatedBy == nil || s.Subscribers != 1 || s.Draining ||
		s.EventsReceived != 1 || s.EventsSent != 1 || s.BytesReceived != int64(wire) || s.BytesSent != uint64(wire) || s.Lag != (stream.LagInfo{}) ||
		s.Upstream.State != stream.StateOpen || s.Upstream.Connections != 1 || time.Since(s.BeganAt) > testTimeout {
		t.Errorf("%+v", s)
	}
	d := a.detail(id)
	if len(d.List) != 1 || d.List[0].Resume != stream.ResumePrivate || d.List[0].Protocol != "1.1" || d.List[0].Delivery != delivery.ByHandler ||
		d.List[0].Events != 1 || d.List[0].Bytes != uint64(wire) {
		t.Errorf("%+v", d)
	}
	for _, target := range []string{"/sse/streams", "/sse/streams/" + id} {
		if text := a.json(http.StatusOK, http.MethodGet, target, "", nil); strings.Contains(text, "SECRET") {
			t.Errorf("%s has a secret: %s", target, text)
		}
	}
	feed := a.view("/sse/feed")
	var e admin.StreamsEvent
	nextOf(feed, "streams", &e)
	if e.Totals.Streams != 1 || e.Totals.Private != 1 || e.Totals.Subscribers != 1 || len(e.Streams) != 1 || e.Streams[0].ID != id {
		t.Errorf("%+v", e)
	}
	one := a.view("/sse/feed?stream=" + id)
	var se admin.StreamEvent
	nextOf(one, "stream", &se)
	if se.Stream.ID != id || len(se.Subscribers) != 1 {
		t.Errorf("%+v", se)
	}
	if n := gather(t).since(before)["subscribers delivery=handler protocol=1.1"]; n != 1 {
		t.Errorf("%v subscribers", n)
	}

	// A shared one beside it, and the end of both.
	shared := g.subscribe("/events")
	if l := a.list(); l.Total != 2 || l.Private != 1 || l.Streams[1].Kind != stream.KindShared {
		t.Errorf("%+v", l)
	}
	shared.close()
	up.end()
	c.expectEnd()
	nextOf(one, "gone", new(admin.GoneEvent))
	a.json(http.StatusNotFound, http.MethodGet, "/sse/streams/"+id, "", nil)
	eventually(t, "both are told to have ended", func() bool {
		got := gather(t).since(before)
		return got["subscribers_ended_total reason=upstream"] == 1 && got["subscribers_ended_total reason=client"] == 1 &&
			got["subscribers delivery=handler protocol=1.1"] == 0
	})
}

// An operator's end of a private stream does not look like the end of an answer
// that is complete.
func TestAdminEndsPrivateStreams(t *testing.T) {
	for _, test := range []struct{ name, method, path, body string }{
		{"drain", http.MethodPost, "/drain", `{"window": "10ms"}`},
		{"end", http.MethodDelete, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := gather(t)
			_, a, c, up, id := startPrivate(t, "retry 7s")
			var answer admin.DrainAnswer
			a.json(http.StatusAccepted, test.method, "/sse/streams/"+id+test.path, test.body, &answer)
			if answer.ID != id || answer.Subscribers != 1 {
				t.Errorf("%+v", answer)
			}
			for m := range c.messages {
				t.Errorf("also: %+v", m)
			}
			if retry, _ := c.reader.Retry(); c.err == nil || retry != 7*time.Second {
				t.Errorf("ended with %v, reconnection time %v", c.err, retry)
			}
			up.expectGone()
			eventually(t, "the stream is gone", func() bool { return a.list().Total == 0 })
			eventually(t, "it is told why", func() bool {
				return gather(t).since(before)["subscribers_ended_total reason=admin"] == 1
			})
		})
	}
}

// A drain is told until it is over, and a later one does not put it off.
func TestAdminDrainsPrivateStreamsOnce(t *testing.T) {
	_, a, c, _, id := startPrivate(t, "max_age 1h")
	if d := a.detail(id); d.Draining {
		t.Error("draining")
	}
	a.json(http.StatusAccepted, http.MethodPost, "/sse/streams/"+id+"/drain", `{"window": "30m"}`, nil)
	if d := a.detail(id); !d.Draining {
		t.Error("not draining")
	}
	a.json(http.StatusAccepted, http.MethodPost, "/sse/streams/"+id+"/drain", `{"window": "10ms"}`, nil)
	a.json(http.StatusAccepted, http.MethodPost, "/sse/streams/"+id+"/drain", `{"window": "1h"}`, nil)
	for range c.messages {
	}
}

// The tail of a private stream begins when somebody looks.
func TestAdminTailOfPrivateStream(t *testing.T) {
	_, a, c, up, id := startPrivate(t, "")
	first := a.view("/sse/streams/" + id + "/tail?last=100")
	if stream.Process.Find(id).(*passThrough).seen.passing.Viewers() != 1 {
		t.Error("a viewer that has its head is not shown what comes")
	}
	up.write(": note\n\nid: 7\ndata: 2\n\n")
	c.expect("2")
	var got []string
	var last string
	for range 2 {
		var b admin.BlockEvent
		last = nextOf(first, "block", &b).LastEventID
		got = append(got, fmt.Sprint(b.Position, " ", b.Kind, " ", b.Text))
	}
	if want := []string{"1 comment : note\n", "2 event id: 7\ndata: 2\n"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	second := a.view("/sse/streams/"+id+"/tail", "Last-Event-ID: "+last)
	first.close()
	up.event("3")
	c.expect("3")
	var b admin.BlockEvent
	if nextOf(second, "block", &b); b.Position != 3 {
		t.Errorf("who comes back gets block %d", b.Position)
	}
	third := a.view("/sse/streams/" + id + "/tail?last=0")
	second.close()
	up.event(numbers(4, 4+stream.PassingBlocks)...) // a viewer that reads is shown all, or told
	up.end()
	for b.Position < 3+stream.PassingBlocks {
		m := third.next()
		if m.Type == "gone" {
			break
		}
	}
	third.close()
	c.skipTo("4")
}

// Nobody looks: nothing is kept.
func TestPrivateTailIsGivenBack(t *testing.T) {
	_, a, c, up, id := startPrivate(t, "")
	p := stream.Process.Find(id).(*passThrough)
	views := []*testClient{a.view("/sse/streams/" + id + "/tail"), a.view("/sse/streams/" + id + "/tail")}
	eventually(t, "both look", func() bool {
		return p.seen.passing.Viewers() == 2
	})
	for _, v := range views {
		v.close()
	}
	eventually(t, "nobody looks", func() bool { return p.seen.passing.Viewers() == 0 })
	up.end()
	c.expectEnd()
	over := stream.NewTail(p, 0, "") // came too late
	if _, _, _, isOver := over.Next(); !isOver {
		t.Error("a tail of what is over waits")
	}
	over.Close()
}

// A client that does not read keeps nobody from seeing that, and from ending its
// stream.
func TestAdminSeesStuckPrivateClient(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("write_timeout 2s", u))
	before := gather(t)
	conn, err := net.Dial("unix", g.socket) //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /chat HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 0\r\n\r\n")
	up := u.accept()
	go up.pourOnce("data: " + strings.Repeat("x", 8<<20) + "\n\n") // more than the sockets take
	eventually(t, "the client is seen to be behind", func() bool {
		l := a.list()
		return l.Total == 1 && l.Streams[0].Lag.Blocks == 1 && l.Streams[0].Lag.Seconds > 0
	})
	eventually(t, "it is cut", func() bool {
		return a.list().Total == 0 && gather(t).since(before)["subscribers_ended_total reason=write"] == 1
	})
}
