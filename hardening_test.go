package caddysse

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// logged is a gateway whose log lines about sse can be read, and that takes
// large request heads: by default Caddy refuses those over 16 KiB.
type logged struct {
	*gateway
	file string
}

func startLogged(t *testing.T, caddyfile string) logged {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	return logged{startGatewayWith(t, loggedTo(file), caddyfile), file}
}

// loggedTo are the global options of a gateway whose log is a file.
func loggedTo(file string) string {
	return "log sse {\noutput file " + file + "\nlevel DEBUG\ninclude http.handlers.sse\n}\nservers {\nmax_header_size 1MB\n}"
}

// loadLogged is load, with the same log.
func (l logged) loadLogged(caddyfile string) {
	l.t.Helper()
	globals := testGlobals
	defer func() { testGlobals = globals }()
	testGlobals = strings.Replace(globals, "admin off", "admin off\n"+loggedTo(l.file), 1)
	l.load(caddyfile)
}

// lines returns the log so far. Each line has to be one JSON object: nothing
// from outside can begin a line of its own.
func (l logged) lines() (lines []map[string]any) {
	l.t.Helper()
	text, err := os.ReadFile(l.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		l.t.Fatal(err)
	}
	whole := text[:strings.LastIndexByte(string(text), '\n')+1]
	for line := range strings.Lines(string(whole)) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			l.t.Fatalf("a log line is no JSON: %q", line)
		}
		lines = append(lines, fields)
	}
	return lines
}

// expectLine waits for a log line with a message, and with text in one of its
// fields.
func (l logged) expectLine(message, text string) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("a log line %q with %q", message, text), func() bool {
		for _, line := range l.lines() {
			if all := fmt.Sprint(line); line["msg"] == message && strings.Contains(all, text) {
				return true
			}
		}
		return false
	})
}

// hostileIDs are last event IDs that did not come from the stream, by what is
// wrong with them.
var hostileIDs = map[string]string{
	"another epoch":      "sse1.00000000000000000000000000000000.1",
	"garbage":            "'; drop table events; --",
	"looks like ours":    "sse1.x.y",
	"negative":           "sse1.00000000000000000000000000000000.-1",
	"too many digits":    "sse1.00000000000000000000000000000000.99999999999999999999999",
	"9 KiB":              strings.Repeat("a", 9<<10),
	"100 KB":             strings.Repeat("a", 100_000),
	"100 KB, our prefix": "sse1." + strings.Repeat("0", 100_000) + ".1",
	"8-bit":              "\xff\xfe\x80",
	"cut UTF-8":          strings.Repeat("é", replay.MaxID)[1:],
	"quotes":             `"\u000a</script>`,
}

// hostileInQuery are those that a header field cannot carry.
var hostileInQuery = map[string]string{
	"CR":             "1\rdata: injected\r\r",
	"LF":             "1\ndata: injected\n\n",
	"CR LF":          "1\r\nX-Injected: yes\r\n\r\ndata: injected\r\n\r\n",
	"NUL":            "1\x00",
	"LF of 2 KiB":    strings.Repeat("\n", 2<<10),
	"LF, our prefix": "sse1.00000000000000000000000000000000.1\ndata: injected\n\n",
}

// expectGap reads what a client gets that is told a gap.
func expectGap(t *testing.T, c *testClient, id string) {
	t.Helper()
	if got := c.outcome(); got != "gap" {
		t.Errorf("SSE-Resume: %q", got)
	}
	if got := c.resp.Header.Get("X-Injected"); got != "" {
		t.Errorf("X-Injected: %q", got)
	}
	m := c.next()
	if m.Type != "missed" {
		t.Fatalf("event %+v, expected that the gap is told", m)
	}
	var data map[string]any
	if err := json.Unmarshal([]byte(m.Data), &data); err != nil || len(data) != 3 {
		t.Fatalf("gap event with %q: %v", m.Data, err)
	}
	if reason := data["reason"]; reason != "evicted" && reason != "epoch" {
		t.Errorf("reason %v", reason)
	}
	if data["missed"] != nil {
		t.Errorf("missed %v, but nobody can know", data["missed"])
	}
	told, ok := data["last_event_id"].(string)
	if want := strings.ToValidUTF8(id[:min(len(id), replay.MaxShownID)], "\uFFFD"); !ok || told != want {
		t.Errorf("last_event_id %.100q, expected %.100q", told, want)
	}
}

func TestHostileLastEventID(t *testing.T) {
	u := startUpstream(t, nil)
	g := startLogged(t, proxied("gap_event missed", u))
	stay := g.subscribe("/")
	up := u.accept()
	up.event("1", "2", "3", "4") // the upstream gives no ids
	own := stay.expect("1").LastEventID
	stay.expect("2", "3", "4")
	future := strings.TrimSuffix(own, "1") + "99"

	n := 0
	check := func(name, id, target string, fields ...string) {
		t.Run(name, func(t *testing.T) {
			c := g.subscribeTo(t, target, fields...)
			expectGap(t, c, id)
			n++
			after := fmt.Sprint("after ", n)
			up.event(after)
			stay.expect(after)
			c.skipTo(after) // past what the buffer keeps
			c.close()
		})
	}
	for name, id := range hostileIDs {
		check(name, id, "/", "Last-Event-ID: "+id)
		check(name+" in the query", id, "/?lastEventId="+url.QueryEscape(id))
	}
	for name, id := range hostileInQuery {
		check(name, id, "/?last-event-id="+url.QueryEscape(id))
	}
	check("a position to come", future, "/", "Last-Event-ID: "+future)
	if _, all := u.counts(); all != 1 {
		t.Errorf("%d upstream connections", all)
	}
	// Of the lines within a second after one the newest is written.
	check("the last one", hostileIDs["garbage"], "/", "Last-Event-ID: "+hostileIDs["garbage"])
	g.expectLine("client missed events", "drop table")
	if got := len(g.lines()); got > 3*(2*len(hostileIDs)+len(hostileInQuery)+5) {
		t.Errorf("%d log lines", got)
	}
}

// TestHostileLastEventIDOpens: as above, where there is no stream yet. What
// cannot be an ID does not reach the upstream.
func TestHostileLastEventIDOpens(t *testing.T) {
	u := startUpstream(t, nil)
	g := startLogged(t, proxied("gap_event missed", u))
	n := 0
	check := func(name, id, where string, fields ...string) {
		n++
		t.Run(name, func(t *testing.T) {
			c := g.subscribeTo(t, fmt.Sprintf("/%d%s", n, where), fields...)
			up := u.accept()
			if got := up.request.Header.Values("Last-Event-ID"); len(got) > 0 {
				t.Errorf("sent upstream: %.100q", got)
			}
			expectGap(t, c, id)
			up.event("after")
			c.expect("after")
			up.end()
			c.expectEnd()
		})
	}
	for name, id := range hostileInQuery {
		check(name, id, "?lastEventId="+url.QueryEscape(id))
	}
	for _, name := range []string{"another epoch", "9 KiB", "100 KB", "100 KB, our prefix", "cut UTF-8"} {
		id := hostileIDs[name]
		check(name, id, "", "Last-Event-ID: "+id)
		check(name+" in the query", id, "?lastEventId="+url.QueryEscape(id))
	}
}

// TestUnknownLastEventIDOpens: an ID that the upstream may know is the
// upstream's to judge, as it came.
func TestUnknownLastEventIDOpens(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	for i, id := range []string{"42", "'; drop table events; --", "sse1.x.y", "é", "\xff\xfe\x80"} {
		c := g.subscribe(fmt.Sprintf("/%d", i), "Last-Event-ID: "+id)
		up := u.accept()
		if got := up.request.Header.Get("Last-Event-ID"); got != id {
			t.Errorf("sent upstream: %q, expected %q", got, id)
		}
		up.event("1")
		c.expect("1")
		up.end()
		c.expectEnd()
	}
}

// TestGatewayIDInQueryStays: the gateway's ID does not reach an upstream, also
// where streams are not shared.
func TestGatewayIDInQueryStays(t *testing.T) {
	u := startUpstream(t, headFor(map[string]http.Header{"cookie": {"Set-Cookie": {"a=1"}}}))
	g := startGateway(t, proxied("", u))
	for range 2 { // the second knows that the key is not shared
		c := g.subscribe("/cookie?a=1&lastEventId=sse1.00000000000000000000000000000000.1")
		up := u.accept()
		if strings.Contains(up.request.RequestURI, "sse1.") {
			t.Errorf("sent upstream: %s", up.request.RequestURI)
		}
		up.end()
		c.expectEnd()
	}
}

// TestGarbageFromUpstream: bytes that are no event stream do no harm to those
// who get them, nor to others.
func TestGarbageFromUpstream(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("max_event_size 1MiB", u))
	other := g.subscribe("/other")
	upOther := u.accept()
	c := g.subscribe("/garbage")
	up := u.accept()
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		garbage := make([]byte, 10_000)
		for i := range garbage {
			garbage[i] = byte(random.UintN(256))
		}
		up.write(string(garbage))
		up.write("\n\nevent: after\ndata: " + fmt.Sprint(seed) + "\n\n")
		for {
			if m := c.next(); m.Type == "after" && m.Data == fmt.Sprint(seed) {
				break
			}
		}
		upOther.event("untouched")
		other.expect("untouched")
	}
	up.end()
	upOther.end()
	other.expectEnd()
	for range c.messages {
	}
	if c.err != nil {
		t.Errorf("the stream broke off: %v", c.err)
	}
}

// pour sends text again and again, until the gateway cuts the connection.
func pour(t *testing.T, up *upstreamClient, text string) {
	t.Helper()
	text = strings.Repeat(text, 1+(16<<10)/len(text))
	for sent := 0; sent < 64<<20; sent += len(text) {
		if cut := up.pourOnce(text); cut {
			up.expectGone()
			return
		}
	}
	t.Error("64 MiB of one block were taken")
}

// pourOnce reports whether the connection was cut.
func (c *upstreamClient) pourOnce(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.gone:
		return true
	default:
	}
	_, err := io.WriteString(c.w, text)
	return err != nil
}

// TestEndlessBlock: a block over max_event_size ends the upstream connection;
// two in a row end the stream. The log names the limit; other streams go on.
func TestEndlessBlock(t *testing.T) {
	deliverytest.Once(t) // it is about the upstream's side
	for name, text := range map[string]string{
		"line": "aaaa", "data": "data: a\n", "comment": ": a", "NUL": "\x00", "BOM": "\xEF\xBB\xBF",
	} {
		t.Run(name, func(t *testing.T) {
			u := startUpstream(t, nil)
			g := startLogged(t, proxied("max_event_size 64KiB", u))
			other := g.subscribe("/other")
			upOther := u.accept()
			c := g.subscribe("/endless")
			up := u.accept()
			up.write("retry: 1\n\n")
			up.event("before")
			c.expect("before")
			pour(t, up, text)

			up = u.accept() // hidden: the client stays
			up.event("between")
			c.expect("between")
			pour(t, up, text)

			up = u.accept() // there was an event between: not twice in a row
			pour(t, up, text)
			c.expectEnd()
			g.expectLine("upstream lost: trying again", "limit of 65536 bytes")
			g.expectLine("upstream sends blocks over max_event_size", "limit of 65536 bytes")
			upOther.event("untouched")
			other.expect("untouched")
			upOther.end()
			other.expectEnd()
		})
	}
}

// TestHalfAnEventAtABreak: nothing of it is sent.
func TestHalfAnEventAtABreak(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("ids upstream\nprime off", u))
	resp := g.get("/")
	raw := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(resp.Body)
		raw <- string(text)
	}()
	up := u.accept()
	up.write("retry: 1\nid: 1\ndata: 1\n\nid: 2\ndata: ha")
	up.breakOff()
	up = u.accept()
	if got := up.request.Header.Get("Last-Event-ID"); got != "1" {
		t.Errorf("resumed with %q", got)
	}
	up.write("id: 2\ndata: whole\n\n")
	up.end()
	if got := <-raw; got != "retry: 1\nid: 1\ndata: 1\n\nid: 2\ndata: whole\n\n" {
		t.Errorf("the client was given %q", got)
	}
}

// TestGapEventIsOneLine: what is synthesised of outside text goes on the
// wire as one line.
func TestGapEventIsOneLine(t *testing.T) {
	for _, id := range []string{"a\nb", "a\rb", "\x00", "\u2028\u2029", `"`, "\xff", strings.Repeat("\n", 2000)} {
		wire := stream.Gap{Reason: stream.GapEvicted, After: id, Missed: -1}.Event("missed")
		events := 0
		for m, err := range eventstream.NewReader(strings.NewReader(string(wire))).Messages() {
			if err != nil {
				t.Fatal(err)
			}
			events++
			if m.Type != "missed" || !json.Valid([]byte(m.Data)) || m.LastEventID != "" {
				t.Errorf("%q: event %+v", id, m)
			}
		}
		if events != 1 || strings.Count(string(wire), "\n") != 3 || strings.ContainsAny(string(wire), "\r\x00") {
			t.Errorf("%q: %q", id, wire)
		}
	}
}

// A splice asks the upstream with the last event ID where its client has it: in the
// query.
func TestSpliceAsksWithTheClientsParameter(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	a := g.subscribe("/")
	up := u.accept()
	up.write("id: 7\ndata: 7\n\n")
	a.expect("7")
	b := g.subscribe("/?lastEventId=3")
	up2 := u.accept()
	if got := up2.request.URL.Query().Get("lastEventId"); got != "3" {
		t.Errorf("outcome %q; upstream was asked %q, header %q", b.outcome(), up2.request.URL, up2.request.Header.Get("Last-Event-ID"))
	}
}

// So does that of a path whose streams are not shared.
func TestGatewayIDInQueryStaysWhereNothingIsShared(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Vary", "*")
	})
	g := startGateway(t, proxied("", u))
	g.subscribe("/").close()
	u.accept()
	g.subscribe("/?lastEventId=sse1.00000000000000000000000000000000.5")
	if q := u.accept().request.URL.RawQuery; q != "" {
		t.Errorf("sent upstream: %s", q)
	}
}

// A last event ID that no header field can carry does not keep a client out.
func TestControlCharacterInLastEventID(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	for i, id := range []string{"\x01", "a\x7f", "a\x1bb"} {
		c := g.subscribeTo(t, fmt.Sprintf("/%d?lastEventId=%s", i, url.QueryEscape(id)))
		up := u.accept()
		up.end()
		c.expectEnd()
	}
}

// An id that no header field can carry does not keep the upstream connection from
// being opened again.
func TestUpstreamIDThatCannotBeSent(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	for i, id := range []string{"a\x01b", "\x7f"} {
		c := g.subscribe(fmt.Sprint("/", i))
		up := u.accept()
		up.write("retry: 1\nid: " + id + "\ndata: 1\n\n")
		c.expect("1")
		up.breakOff()
		up = u.accept()
		up.event("2")
		c.expect("2")
		c.close()
	}
}
