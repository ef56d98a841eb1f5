package caddysse

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// span is one that Caddy's handler tracing has told.
type span struct {
	trace, id, parent string // in hexadecimal digits
	name              string
	end               time.Time
}

// startTraced starts a gateway. ended waits for so many spans of a name that have ended, and returns them.
func startTraced(t *testing.T, caddyfile string) (g *gateway, ended func(name string, n int) []span) {
	t.Helper()
	var mu sync.Mutex
	all := make(map[string][]span)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		const resources, scopes, spans = 1, 2, 2 // opentelemetry.io: ExportTraceServiceRequest of OTLP
		for _, resource := range fieldsOf(text)[resources] {
			for _, scope := range fieldsOf(resource)[scopes] {
				for _, text := range fieldsOf(scope)[spans] {
					s := spanFrom(fieldsOf(text))
					all[s.name] = append(all[s.name], s)
				}
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(collector.Close)
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1") // milliseconds until they are sent
	g = startGateway(t, caddyfile)
	return g, func(name string, n int) (found []span) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d spans %s have ended", n, name), func() bool {
			mu.Lock()
			defer mu.Unlock()
			found = slices.Clone(all[name])
			return len(found) == n
		})
		return found
	}
}

func spanFrom(fields map[uint64][][]byte) span {
	one := func(number uint64) []byte { return append(fields[number], nil)[0] }
	return span{
		trace: hex.EncodeToString(one(1)), id: hex.EncodeToString(one(2)), parent: hex.EncodeToString(one(4)), name: string(one(5)),
		end: time.Unix(0, int64(binary.LittleEndian.Uint64(one(8)))),
	}
}

// fieldsOf reads a message of Protocol Buffers: its fields that are not integers of variable length, by number.
func fieldsOf(message []byte) map[uint64][][]byte {
	fields := make(map[uint64][][]byte)
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		message = message[n:]
		size := uint64(0)
		switch tag & 7 {
		case 0:
			_, n := binary.Uvarint(message)
			message = message[n:]
			continue
		case 1:
			size = 8
		case 2:
			size, n = binary.Uvarint(message)
			message = message[n:]
		case 5:
			size = 4
		}
		fields[tag>>3] = append(fields[tag>>3], message[:size])
		message = message[size:]
	}
	return fields
}

// A span behind sse is that of an upstream connection: its parent is that of the client that opened the stream, and it ends
// with the stream, not with that client. The application is told it.
func TestUpstreamSpanIsTheOpenersChild(t *testing.T) {
	const client = "4bf92f3577b34da6a3ce929d0e0e4736"
	u := startUpstream(t, nil)
	g, ended := startTraced(t, site("route {\ntracing {\nspan client\n}\nsse {\nshare public\njoin live\n}\ntracing {\nspan upstream\n}\nreverse_proxy "+u.address+"\n}"))
	a := g.subscribe("/", "Traceparent: 00-"+client+"-00f067aa0ba902b7-01")
	up := u.accept()
	b := g.subscribe("/")
	up.event("1")
	a.expect("1")
	b.expect("1")
	a.close()
	up.event("2")
	b.expect("2")
	last := time.Now()
	up.end()
	b.expectEnd()
	clients, upstream := ended("client", 2), ended("upstream", 1)[0]
	opener := slices.IndexFunc(clients, func(s span) bool { return s.trace == client })
	if opener < 0 || upstream.trace != client || upstream.parent != clients[opener].id {
		t.Errorf("the upstream's %+v, the clients' %+v", upstream, clients)
	}
	if !upstream.end.After(last) {
		t.Errorf("ended at %v, though the stream was there at %v", upstream.end, last)
	}
	if got := up.request.Header.Get("Traceparent"); !strings.HasPrefix(got, "00-"+client+"-"+upstream.id+"-") {
		t.Errorf("the application was told %q", got)
	}
}

// Without a span of the upstream connection the application is told the opener's; without tracing it is told nothing of what
// a client sends.
func TestApplicationIsToldTheOpenersSpan(t *testing.T) {
	const sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	u := startUpstream(t, nil)
	g, ended := startTraced(t, site("tracing {\nspan client\n}\nsse {\nshare public\njoin live\n}\nreverse_proxy "+u.address))
	a := g.subscribe("/", "Traceparent: "+sent, "Tracestate: x=secret", "Baggage: user=secret")
	up := u.accept()
	a.close()
	own := ended("client", 1)[0]
	if got := up.request.Header.Get("Traceparent"); !strings.HasPrefix(got, "00-"+own.trace+"-"+own.id+"-") {
		t.Errorf("the application was told %q, expected the span %+v", got, own)
	}
	for _, name := range []string{"Tracestate", "Baggage"} {
		if got := up.request.Header.Get(name); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
	g.load(proxied("share public", u))
	g.subscribe("/", "Traceparent: "+sent)
	if got := u.accept().request.Header.Get("Traceparent"); got != "" {
		t.Errorf("without tracing the application was told %q", got)
	}
}
