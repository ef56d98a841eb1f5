package caddysse

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// earlyAnswer is what a client sees of a response, and when.
type earlyAnswer struct {
	status int
	header http.Header
	head   time.Duration // when it came, since the request was sent
	body   []arrival
	err    error // how the body ended; nil: in order
}

func (a earlyAnswer) text() string {
	var text strings.Builder
	for _, piece := range a.body {
		text.WriteString(piece.text)
	}
	return text.String()
}

// post sends a request to a model, with its body in pieces, one a second, and reads
// the answer until the given time.
func (s *bubbleServer) post(fields string, until time.Duration, pieces ...string) (a earlyAnswer) {
	s.t.Helper()
	conn := s.listener.dial()
	defer conn.Close()
	stop := time.AfterFunc(until, func() { _ = conn.Close() })
	defer stop.Stop()
	began := time.Now()
	go func() {
		length := len(strings.Join(pieces, ""))
		_, _ = fmt.Fprintf(conn, "POST %s\r\nHost: test\r\nContent-Length: %d\r\n\r\n", fields, length)
		for i, piece := range pieces {
			if i > 0 {
				time.Sleep(time.Second)
			}
			_, _ = io.WriteString(conn, piece)
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		a.err = err
		return a
	}
	defer resp.Body.Close()
	a.status, a.header, a.head = resp.StatusCode, resp.Header, time.Since(began)
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			a.body = append(a.body, arrival{time.Since(began), string(buf[:n])})
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				a.err = err
			}
			return a
		}
	}
}

const (
	chat      = "/v1/chat/completions HTTP/1.1\r\nContent-Type: application/json"
	messages  = "/v1/messages HTTP/1.1\r\nContent-Type: application/json"
	elsewhere = "/ask HTTP/1.1\r\nContent-Type: application/json"
	asks      = `{"stream":true}`
)

// thinking is a model that answers after a while. Like reverse_proxy, it reads the
// request first, and panics where its answer breaks off.
func thinking(d time.Duration, answer caddyhttp.HandlerFunc) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-time.After(d):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
		return answer(w, r)
	}
}

// saying is an answer.
func saying(status int, contentType, body string, fields ...string) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", contentType)
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		if _, err := io.WriteString(w, body); err != nil {
			panic(http.ErrAbortHandler)
		}
		return nil
	}
}

// earlyInBubble runs a test with early 2s and a heartbeat each 5 s.
func earlyInBubble(t *testing.T, set func(h *Handler), next caddyhttp.HandlerFunc, test func(s *bubbleServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{Early: caddy.Duration(2 * time.Second), Heartbeat: &Heartbeat{Interval: new(caddy.Duration(5 * time.Second))}}
		if set != nil {
			set(h)
		}
		test(serveInBubble(t, h, next))
	})
}

// A client that asks for an event stream has a head and heartbeats while the model
// thinks, and the answer as it is.
func TestEarlyHead(t *testing.T) {
	const beat = ":\n\n"
	answer := saying(http.StatusOK, "text/event-stream", "\uFEFFdata: a\n\ndata: [DONE]\n\n")
	want := []arrival{{seconds(2), beat}, {seconds(7), beat}, {seconds(10), "data: a\n\ndata: [DONE]\n\n"}}
	for name, test := range map[string]struct {
		set    func(h *Handler)
		fields string
		body   []string
		want   []arrival
	}{
		"by the body":                 {nil, chat, []string{asks}, want},
		"by Accept":                   {nil, elsewhere + "\r\nAccept: text/event-stream", []string{"{}"}, want},
		"a body of which nobody says": {nil, "/ask HTTP/1.1", []string{asks}, want},
		"a body that takes its time": {
			nil, chat, []string{`{"messages": [],`, ` "stream"`, `: true`, `}`},
			[]arrival{{seconds(5), beat}, {seconds(10), beat}, {seconds(13), want[2].text}},
		},
		"heartbeats are off": {
			func(h *Handler) { h.Heartbeat.Interval = new(caddy.Duration(0)) }, chat, []string{asks},
			[]arrival{{seconds(2), beat}, want[2]},
		},
	} {
		t.Run(name, func(t *testing.T) {
			earlyInBubble(t, test.set, thinking(seconds(10), answer), func(s *bubbleServer) {
				got := s.post(test.fields, time.Minute, test.body...)
				if got.status != http.StatusOK || got.head != test.want[0].at || got.err != nil || !slices.Equal(got.body, test.want) {
					t.Errorf("status %d after %v, %v, %v\nexpected %v", got.status, got.head, got.body, got.err, test.want)
				}
				h := got.header
				if h.Get("Content-Type") != eventStreamType || h.Get("X-Accel-Buffering") != "no" || h.Get("Cache-Control") != "no-cache, no-transform" {
					t.Errorf("head %v", h)
				}
			})
		})
	}
}

// The heartbeats of the wait and those of the stream are never further apart than
// the interval.
func TestEarlyHeartbeatsGoOn(t *testing.T) {
	next := thinking(seconds(6), func(w http.ResponseWriter, r *http.Request) error {
		return script(step{seconds(9), "data: a\n\n"})(w, r)
	})
	earlyInBubble(t, nil, next, func(s *bubbleServer) {
		got := s.post(chat, seconds(21), asks).body
		want := []arrival{{seconds(2), ":\n\n"}, {seconds(7), ":\n\n"}, {seconds(12), ":\n\n"}, {seconds(15), "data: a\n\n"}, {seconds(20), ":\n\n"}}
		if !slices.Equal(got, want) {
			t.Errorf("got %v\nexpected %v", got, want)
		}
	})
}

// Who has not asked for an event stream has no head before the answer's.
func TestEarlyOnlyForWhoAsks(t *testing.T) {
	for name, test := range map[string]struct{ fields, body string }{
		"false":                 {chat, `{"stream":false}`},
		"not said":              {chat, `{"model":"a"}`},
		"in a text":             {chat, `{"messages":"\"stream\":true,", "a":"b"}`},
		"a text":                {chat, `{"stream":"true"}`},
		"deeper":                {chat, `{"a":{"stream":true},"b":[{"stream":true}]}`},
		"taken back":            {chat, `{"stream":true,"stream":false}`},
		"a value":               {chat, `{"a":"stream","b":true}`},
		"longer names":          {chat, `{"streams":true,"astream":true,"stream ":true}`},
		"an array":              {chat, `["stream",true]`},
		"no object":             {chat, `"stream":true`},
		"beyond 64 KiB":         {chat, `{"a":"` + strings.Repeat("a", 64<<10) + `","stream":true}`},
		"no JSON":               {"/ask HTTP/1.1\r\nContent-Type: text/plain", asks},
		"a coding":              {chat + "\r\nContent-Encoding: gzip", asks},
		"not wanted":            {chat + "\r\nAccept: text/event-stream;q=0", "{}"},
		"MCP":                   {"/mcp HTTP/1.1\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\nMcp-Protocol-Version: 2026-07-28", asks},
		"over to something new": {chat + "\r\nUpgrade: new\r\nConnection: Upgrade", asks},
	} {
		t.Run(name, func(t *testing.T) {
			earlyInBubble(t, nil, thinking(seconds(10), saying(http.StatusOK, "text/event-stream", "data: a\n\n")), func(s *bubbleServer) {
				got := s.post(test.fields, time.Minute, test.body)
				if got.head != seconds(10) || got.text() != "data: a\n\n" || got.err != nil {
					t.Errorf("head after %v, %v, %v", got.head, got.body, got.err)
				}
			})
		})
	}
}

// However a body is cut into pieces, the same is found in it; what is found is what
// a JSON decoder finds.
func TestStreamMember(t *testing.T) {
	deep := strings.Repeat(`{"stream":[`, 5000)
	for text, want := range map[string]bool{
		`{"stream":true}`:                                     true,
		" \r\n{ \"stream\"\t:\ntrue , \"a\":1}":               true,
		`{"a":"\\","stream":true}`:                            true,
		`{"a":"\"","stream":true}`:                            true,
		`{"a":"}","b":["]",{"c":"{"}],"stream":true}`:         true,
		`{"stream":false,"stream":true}`:                      true,
		`{"stream_options":{"stream":false},"stream":true}`:   true,
		`{"a":"\"stream\":true"}`:                             false,
		`{"a":"\\\"stream\":true"}`:                           false,
		`{"stream":[true]}`:                                   false,
		`{"stream":{"a":true}}`:                               false,
		`{"stream":null}`:                                     false,
		`{"stream":"true"}`:                                   false,
		`{"stream":1,"a":true}`:                               false,
		`{"a":{"b":1},"stream":true}`:                         true,
		`{"a":` + deep + strings.Repeat(`]}`, 5000) + `}`:     false,
		`{"a":[` + strings.Repeat(`[`, 20000):                 false,
		`{"stream":true`:                                      false, // it is not known what comes
		`true`:                                                false,
		``:                                                    false,
		`{"stream":truetrue}`:                                 false,
		`{"` + strings.Repeat("stream", 3) + `":true}`:        false,
		`{"a":"` + strings.Repeat(`\\`, 99) + `","stream":1}`: false,
	} {
		var decoded struct {
			Stream json.RawMessage `json:"stream"`
		}
		if json.Unmarshal([]byte(text), &decoded) == nil && (string(decoded.Stream) == "true") != want {
			t.Errorf("the test is wrong: %.60s", text)
		}
		for size := 1; size <= max(1, len(text)); size++ {
			var m streamMember
			for rest := []byte(text); len(rest) > 0; rest = rest[min(size, len(rest)):] {
				m.look(rest[:min(size, len(rest))])
			}
			if m.isTrue != want {
				t.Errorf("%.60s in pieces of %d: %v", text, size, m.isTrue)
				break
			}
			if size == 100 && len(text) > 1000 {
				size = len(text) - 1
			}
		}
	}
}

func FuzzStreamMember(f *testing.F) {
	for _, seed := range []string{asks, `{"a":"\"stream\":true","b":{"stream":true}}`, `{"stream":false}`, `[`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var m streamMember
		m.look(text)
		// Names that a decoder takes for the same are not asked for.
		var decoded map[string]json.RawMessage
		if json.Unmarshal(text, &decoded) != nil || bytes.Contains(text, []byte(`\`)) {
			return
		}
		if want := string(decoded["stream"]) == "true"; m.isTrue != want {
			t.Errorf("%q: %v", text, m.isTrue)
		}
	})
}

// An answer that comes in time is what it is without the option: status, head and
// body, at once.
func TestAnswersInTimePassUntouched(t *testing.T) {
	for name, answer := range map[string]caddyhttp.HandlerFunc{
		"401":             saying(http.StatusUnauthorized, "application/json", `{"error":{}}`, "Www-Authenticate: Bearer", "X-Request-Id: 1"),
		"429":             saying(http.StatusTooManyRequests, "application/json", `{"error":{}}`, "Retry-After: 7"),
		"JSON":            saying(http.StatusOK, "application/json", `{}`),
		"an event stream": saying(http.StatusOK, "text/event-stream", "data: 1\n\n", "X-Request-Id: 1"),
		"a coding":        saying(http.StatusOK, "text/event-stream", "not really", "Content-Encoding: br"),
		"hints": func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Link", "</a>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			return saying(http.StatusOK, "text/html", "hinted")(w, r)
		},
		"a trailer": func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Trailer", "X-Late")
			_ = saying(http.StatusOK, "text/plain", "body")(w, r)
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("X-Late", "yes")
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got [2]string
			for i, early := range []time.Duration{0, 2 * time.Second} {
				earlyInBubble(t, func(h *Handler) { h.Early = caddy.Duration(early) }, thinking(seconds(1), answer), func(s *bubbleServer) {
					conn := s.listener.dial()
					defer conn.Close()
					_, _ = fmt.Fprintf(conn, "POST %s\r\nHost: test\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", chat, len(asks), asks)
					began := time.Now()
					text, err := io.ReadAll(conn)
					got[i] = fmt.Sprintf("%v, %v\n%s", time.Since(began), err, text)
				})
			}
			if got[0] != got[1] || len(got[0]) < 50 {
				t.Errorf("with early\n%s\nwithout\n%s", got[1], got[0])
			}
		})
	}
}

// An answer that comes too late and is no event stream is told in the stream, as the
// client's protocol has it.
func TestLateAnswers(t *testing.T) {
	limited := saying(http.StatusTooManyRequests, "application/json", `{"error":{"message":"later","type":"tokens","code":"rate_limit_exceeded"}}`,
		"Retry-After: 7", "X-Request-Id: req_1", "X-Ratelimit-Remaining-Tokens: 0", "Set-Cookie: a=b")
	const late = `"headers":{"retry-after":"7","x-ratelimit-remaining-tokens":"0","x-request-id":"req_1"}`
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, `{"error":{"message":"zipped"}}`)
	_ = z.Close()
	for name, test := range map[string]struct {
		fields, form string
		answer       caddyhttp.HandlerFunc
		want         string
		breaks       bool
	}{
		"429 of OpenAI": {
			chat, "", limited,
			`data: {"error":{"code":"rate_limit_exceeded",` + late + `,"message":"later","status":429,"type":"tokens"}}` + "\n\n", false,
		},
		"below a prefix": {
			"/api/v1/responses/ HTTP/1.1\r\nContent-Type: application/json", "", saying(http.StatusUnauthorized, "text/plain", "who?"),
			`data: {"error":{"message":"who?","status":401,"type":"authentication_error"}}` + "\n\n", false,
		},
		"529 of Anthropic": {
			messages, "", saying(529, "application/json", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, "Request-Id: req_2"),
			"event: error\n" + `data: {"error":{"headers":{"request-id":"req_2"},"message":"Overloaded","status":529,"type":"overloaded_error"},"request_id":"req_2","type":"error"}` + "\n\n", false,
		},
		"of nobody": {
			elsewhere, "", saying(http.StatusServiceUnavailable, "text/html", "<p>later</p>", "Retry-After: 7"),
			"event: error\n" + `data: {"body":"<p>later</p>","content_type":"text/html","headers":{"retry-after":"7"},"status":503}` + "\n\n", true,
		},
		"as it is said": {
			chat, "sse", saying(http.StatusNotFound, "text/plain", strings.Repeat("a", 5000)),
			"event: error\n" + `data: {"body":"` + strings.Repeat("a", 4096) + `","content_type":"text/plain","headers":{},"status":404}` + "\n\n", true,
		},
		"JSON": {
			chat, "", saying(http.StatusOK, "application/json", `{"choices":[]}`),
			`data: {"error":{"message":"the upstream's answer is no event stream: application/json {\"choices\":[]}","status":200,"type":"server_error"}}` + "\n\n", false,
		},
		"a video": {
			chat, "", func(w http.ResponseWriter, _ *http.Request) error {
				w.Header().Set("Content-Type", "video/mp4")
				for range 1000 {
					if _, err := w.Write(make([]byte, 1<<10)); err != nil {
						panic(http.ErrAbortHandler)
					}
				}
				t.Error("all of it was taken")
				return nil
			},
			`data: {"error":{"message":"the upstream's answer is no event stream: video/mp4 ` + strings.Repeat(`\u0000`, 4096) + `","status":200,"type":"server_error"}}` + "\n\n", false,
		},
		"a coding": {
			chat, "", saying(http.StatusInternalServerError, "application/json", zipped.String(), "Content-Encoding: gzip"),
			`data: {"error":{"message":"zipped","status":500,"type":"server_error"}}` + "\n\n", false,
		},
		"an event stream in a coding that is not known": {
			chat, "", saying(http.StatusOK, "text/event-stream", "?", "Content-Encoding: br"),
			`data: {"error":{"message":"the upstream's answer is no event stream: text/event-stream in br","status":200,"type":"server_error"}}` + "\n\n", false,
		},
		"no answer": {
			chat, "", func(http.ResponseWriter, *http.Request) error {
				return caddyhttp.Error(http.StatusBadGateway, errors.New("secret address"))
			},
			`data: {"error":{"message":"bad gateway","status":502,"type":"server_error"}}` + "\n\n", false,
		},
		"nothing": {
			chat, "", func(http.ResponseWriter, *http.Request) error { return nil },
			`data: {"error":{"message":"the upstream did not answer","status":502,"type":"server_error"}}` + "\n\n", false,
		},
		"an answer that breaks off": {
			chat, "", func(w http.ResponseWriter, r *http.Request) error {
				_ = saying(http.StatusInternalServerError, "text/plain", "half")(w, r)
				panic(http.ErrAbortHandler)
			},
			`data: {"error":{"message":"half","status":500,"type":"server_error"}}` + "\n\n", false,
		},
		"line ends": {
			elsewhere, "", saying(http.StatusInternalServerError, "text/plain", "a\r\n\r\ndata: b\n\n\x00"),
			"event: error\n" + `data: {"body":"a\r\n\r\ndata: b\n\n\u0000","content_type":"text/plain","headers":{},"status":500}` + "\n\n", true,
		},
	} {
		for _, detach := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprint(name, " detach ", detach), func(t *testing.T) {
				set := func(h *Handler) { h.EarlyError, h.Detach = test.form, caddy.Duration(detach) }
				earlyInBubble(t, set, thinking(seconds(3), test.answer), func(s *bubbleServer) {
					got := s.post(test.fields, time.Minute, asks)
					if want := ":\n\n" + test.want; got.text() != want || (got.err != nil) != test.breaks {
						t.Errorf("%q, %v\nexpected\n%q, broken off: %v", got.text(), got.err, want, test.breaks)
					}
					if last := got.body[len(got.body)-1].at; last != seconds(3) {
						t.Errorf("told after %v", last)
					}
				})
			})
		}
	}
}

// An event stream that follows an early head breaks off where the upstream's does.
func TestEarlyStreamBreaksOff(t *testing.T) {
	next := thinking(seconds(3), func(w http.ResponseWriter, r *http.Request) error {
		_ = saying(http.StatusOK, "text/event-stream", "data: 1\n\nda")(w, r)
		panic(http.ErrAbortHandler)
	})
	earlyInBubble(t, nil, next, func(s *bubbleServer) {
		if got := s.post(chat, time.Minute, asks); got.text() != ":\n\ndata: 1\n\nda" || got.err == nil {
			t.Errorf("%q, %v", got.text(), got.err)
		}
	})
}

// A client that leaves while the model thinks stops it, and one that is not there any
// more is found by its heartbeats.
func TestEarlyClientLeaves(t *testing.T) {
	for _, detach := range []time.Duration{0, time.Minute} {
		var stopped time.Duration
		next := func(_ http.ResponseWriter, r *http.Request) error {
			began := time.Now()
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			stopped = time.Since(began)
			panic(http.ErrAbortHandler)
		}
		earlyInBubble(t, func(h *Handler) { h.Detach = caddy.Duration(detach) }, next, func(s *bubbleServer) {
			s.post(chat, seconds(4), asks)
			synctest.Wait()
			if stopped != seconds(4) {
				t.Errorf("detach %v: stopped after %v", detach, stopped)
			}
		})
	}
}

// repeated is a body of so many bytes that begins with head and goes on with the
// same ones.
type repeated struct {
	head, rest string
	left       int
}

func (r *repeated) Read(p []byte) (n int, err error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	for n < len(p) && r.left > 0 {
		to, text := p[n:min(len(p), n+r.left)], r.rest
		if r.head != "" {
			text = r.head
		}
		m := copy(to, text)
		n, r.left, r.head = n+m, r.left-m, r.head[min(m, len(r.head)):]
	}
	return n, nil
}

// Whatever a body is, it is passed on as it comes: each read gives what the client's
// does, and costs no memory. At most 64 KiB are looked at.
func TestBodiesPassAsTheyCome(t *testing.T) {
	const large = 100 << 20
	for name, test := range map[string]struct {
		body  repeated
		piece func(r io.Reader) io.Reader
		asks  bool
	}{
		"100 MB":                 {repeated{asks[:len(asks)-1] + `,"a":"`, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", large}, nil, true},
		"in a text":              {repeated{`{"a":"\"stream\":true,`, `\"stream\":true,`, large}, nil, false},
		"deep":                   {repeated{``, `{"stream":[`, large}, nil, false},
		"deep arrays":            {repeated{`{"a":`, `[`, 1 << 20}, nil, false},
		"names":                  {repeated{`{"a":1`, `,"b":false,"stream":true`, large}, nil, true},
		"a byte at a time":       {repeated{asks[:len(asks)-1] + `,"a":"`, "a", 1 << 20}, iotest.OneByteReader, true},
		"half of what is wanted": {repeated{``, `{"stream":[`, 1 << 20}, iotest.HalfReader, false},
		"data with the end":      {repeated{asks + " ", " ", 1 << 20}, iotest.DataErrReader, true},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(all bool) (allocates float64) {
				plain, looked := test.body, test.body
				in, through := io.Reader(&plain), io.Reader(&looked)
				if test.piece != nil {
					in, through = test.piece(in), test.piece(through)
				}
				whole := 0
				r := &http.Request{Body: io.NopCloser(through), ContentLength: -1}
				body := newAskingBody(r, false, func() { whole++ }).(*askingBody)
				want, got := make([]byte, 32<<10), make([]byte, 32<<10)
				same, done := true, false
				one := func() {
					n, err := in.Read(want)
					m, lookedErr := body.Read(got)
					same = same && n == m && errors.Is(lookedErr, err) && bytes.Equal(want[:n], got[:m])
					done = done || err != nil
				}
				allocs := testing.AllocsPerRun(1, func() {
					for range 10 {
						one()
					}
				})
				for all && !done {
					one()
				}
				if !same || body.looked > 64<<10 || all && whole != map[bool]int{true: 1}[test.asks] {
					t.Errorf("the same: %v, looked at %d, asks %d times", same, body.looked, whole)
				}
				return allocs
			}
			least := read(true)
			for range 5 { // other goroutines of the process may allocate, too
				least = min(least, read(false))
			}
			if least != 0 {
				t.Errorf("ten reads allocate %v times", least)
			}
		})
	}
}

// BenchmarkLookAtBody is what the look at a body takes: all of the 64 KiB.
func BenchmarkLookAtBody(b *testing.B) {
	text := []byte(`{"messages":[` + strings.Repeat(`{"role":"user","content":"Gr\"usse"},`, maxLookedAt/30))[:maxLookedAt]
	for b.Loop() {
		var m streamMember
		m.look(text)
	}
}

// The upstream is asked for no coding that the gateway cannot decode, where a head
// may come before the answer.
func TestEarlyLimitsCodings(t *testing.T) {
	for given, want := range map[string]string{
		"gzip, deflate, br":           "gzip, deflate",
		"br;q=1.0, gzip;q=0.8, *;q=0": "gzip;q=0.8",
		"br":                          "identity",
		"zstd,identity":               "zstd, identity",
		"":                            "identity",
	} {
		header := http.Header{"Accept-Encoding": {given}}
		if limitCodings(header); header.Get("Accept-Encoding") != want {
			t.Errorf("%q: %q, expected %q", given, header.Get("Accept-Encoding"), want)
		}
	}
	none := make(http.Header)
	if limitCodings(none); len(none) > 0 {
		t.Errorf("nothing said: %v", none)
	}
}

// Those who wait for a shared stream have a head early, too, and are told what its
// answer is.
func TestEarlyHeadOfSharedStreams(t *testing.T) {
	beat := arrival{seconds(2), ":\n\n"}
	told := "event: error\n" + `data: {"body":"who?","content_type":"text/plain","headers":{},"status":401}` + "\n\n"
	for name, test := range map[string]struct {
		answer caddyhttp.HandlerFunc
		want   []arrival
		late   []arrival // of who comes a second later
	}{
		"an event stream": {
			script(step{seconds(2), "data: a\n\n"}),
			[]arrival{beat, {seconds(6.5), "data: a\n\n"}, {seconds(11.5), ":\n\n"}, {seconds(16.5), ":\n\n"}},
			[]arrival{beat, {seconds(5.5), "data: a\n\n"}, {seconds(10.5), ":\n\n"}, {seconds(15.5), ":\n\n"}},
		},
		"an error": { // to both: they ask once more, each by itself
			saying(http.StatusUnauthorized, "text/plain", "who?"),
			[]arrival{beat, {seconds(7), ":\n\n"}, {seconds(9), told}},
			[]arrival{beat, {seconds(7), ":\n\n"}, {seconds(8), told}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := func(h *Handler) { h.Prime, h.IDs, h.Join = new(false), "upstream", "live" }
			earlyInBubble(t, set, thinking(seconds(4.5), test.answer), func(s *bubbleServer) {
				var first, second []arrival
				var wg sync.WaitGroup
				wg.Go(func() { first = s.listen(eventStreamType, seconds(18)) })
				wg.Go(func() {
					time.Sleep(time.Second)
					second = s.listen(eventStreamType, seconds(17))
				})
				wg.Wait()
				if !slices.Equal(first, test.want) || !slices.Equal(second, test.late) {
					t.Errorf("got\n%v\n%v\nexpected\n%v\n%v", first, second, test.want, test.late)
				}
			})
		})
	}
}

// The option's form by path.
func TestEarlyErrorOf(t *testing.T) {
	for path, want := range map[string]string{
		"/v1/messages": "anthropic", "/anthropic/v1/messages/": "anthropic", "/v1/messages/batches": "sse",
		"/v1/chat/completions": "openai", "/v1/completions": "openai", "/v1/responses": "openai", "/": "sse", "/v1/responses/resp_1": "sse",
	} {
		if got := earlyErrorOf(path); got != want {
			t.Errorf("%s: %s, expected %s", path, got, want)
		}
	}
}

// Of an answer that came too late the beginning is told, however long it is, and whatever it was coded to.
func TestSoMuchIsToldOfALateAnswer(t *testing.T) {
	var coded bytes.Buffer
	zip := gzip.NewWriter(&coded)
	_, _ = zip.Write(bytes.Repeat([]byte("a"), 1<<20)) // memory takes it
	_ = zip.Close()
	for coding, body := range map[string][]byte{"": bytes.Repeat([]byte("a"), 1<<20), "gzip": coded.Bytes()} {
		a := newLateAnswer(http.StatusBadGateway, http.Header{"Content-Encoding": {coding}})
		var err error
		for n := 0; err == nil && n < 100; n++ { // what decodes says so later
			_, err = a.Write(body)
		}
		if !errors.Is(err, errLateBody) {
			t.Errorf("coding %q: %v, expected that no more is taken", coding, err)
		}
		a.close()
		if n := a.text.Len(); n != maxLateBody {
			t.Errorf("coding %q: %d bytes are told, expected %d", coding, n, maxLateBody)
		}
	}
}
