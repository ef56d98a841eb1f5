package doctor

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// healthy serves a stream of numbered events with resumption, and heartbeats in
// the probe.
func healthy(w http.ResponseWriter, r *http.Request) {
	if serveProbe(w, r, 15*time.Second, (*stream).send) {
		return
	}
	from := 1
	if id, err := strconv.Atoi(r.Header.Get("Last-Event-ID")); err == nil {
		from = id + 1
	}
	s := begin(w, r, "SSE-Resume: replayed")
	s.numbered(from, 700*time.Millisecond)
}

func TestHealthy(t *testing.T) {
	r := examine(t, Options{}, healthy)
	if !r.Healthy || r.Status != http.StatusOK || r.Protocol != "HTTP/1.1" || r.Headers["cache-control"] != "no-cache, no-transform" {
		t.Errorf("%+v", r)
	}
	if r.Watched != 40_000 || r.Events != 58 || r.WithIDs != 58 || r.Heartbeats != 2 {
		t.Errorf("watched %v ms, %d events, %d with ids, %d heartbeats", r.Watched, r.Events, r.WithIDs, r.Heartbeats)
	}
	for _, f := range r.Findings {
		if f.Result != OK {
			t.Errorf("%+v", f)
		}
	}
	if len(r.Findings) != len(Names) {
		t.Errorf("%d findings, expected %d", len(r.Findings), len(Names))
	}
	r.expect(t, Buffering, OK, "12 events of the probe in 12 pieces, at most 0s late")
	r.expect(t, Heartbeats, OK, "2; the longest silence was 15s")
	r.expect(t, IdleCut, OK, "none; the longest silence was 15s")
	r.expect(t, Resume, OK, "the 3 events after the ID came, and nothing before them; SSE-Resume: replayed")
	r.expect(t, Gateway, OK, "SSE-Resume: replayed, replayed, replayed")
	r.expect(t, Shared, OK, "the second of two connections has joined the stream: SSE-Resume: replayed")
	r.expect(t, Hints, OK, "none")
}

// What the heads of two connections at the same time, and their IDs, say of the gateway is told: whether there is one, and
// whether they have one upstream connection together.
func TestGatewayIsToldByItsHeads(t *testing.T) {
	const live, spliced = "SSE-Resume: live", "SSE-Resume: spliced"
	for _, test := range []struct {
		name            string
		fields          [2]string // of the head, by connection
		epochs          [2]string // of the gateway's ids; none: the application gives them
		gateway, shared Result
		seen            string
	}{
		{"none", [2]string{"X-None: x", "X-None: x"}, [2]string{}, Unknown, Unknown, "no field SSE-Resume"},
		{"shared", [2]string{live, live}, [2]string{}, OK, OK, "yes: the second of two connections has joined"},
		{"shared, by IDs", [2]string{live, live}, [2]string{"a", "a"}, OK, OK, "yes: two connections have IDs of the gateway"},
		{"merged", [2]string{live, spliced}, [2]string{"a", "a"}, OK, OK, "yes: two connections have IDs of the gateway"},
		{"two streams", [2]string{live, live}, [2]string{"a", "b"}, OK, Advice, "IDs of the gateway for two streams"},
		{"not yet", [2]string{live, spliced}, [2]string{}, OK, Unknown, "one of its own until both are seen to bring the same"},
		{"came late", [2]string{spliced, live}, [2]string{}, OK, Unknown, "the first connection came to a stream that others have"},
		{"one of two gateways", [2]string{live, "X-None: x"}, [2]string{}, OK, Unknown, "no answer through an sse"},
		{"private", [2]string{"SSE-Resume: private", live}, [2]string{}, OK, Advice, "no: SSE-Resume: private; the reason is not told"},
		{"private, why", [2]string{live, "SSE-Resume: private; reason=set_cookie"}, [2]string{}, OK, Advice, "the reason is set_cookie"},
		{"private, as it has to be", [2]string{"SSE-Resume: private; reason=mcp", live}, [2]string{}, OK, OK, "no, as it has to be: SSE-Resume: private; reason=mcp"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var connections atomic.Int64
			r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get(ProbeField) != "" {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				at := min(connections.Add(1), 2) - 1
				s := begin(w, r, test.fields[at])
				if epoch := test.epochs[at]; epoch != "" {
					for n := 1; s.wait(700 * time.Millisecond); n++ {
						s.send(fmt.Sprintf("id: sse1.%s.%d\ndata: %d\n\n", epoch, n, n))
					}
					return
				}
				from := 1
				if id, err := strconv.Atoi(r.Header.Get("Last-Event-ID")); err == nil {
					from = id + 1
				}
				s.numbered(from, 700*time.Millisecond)
			})
			gateway := "SSE-Resume"
			r.expect(t, Gateway, test.gateway, gateway)
			r.expect(t, Shared, test.shared, test.seen)
			if f := r.finding(t, Shared); f.Result == Advice && f.Change == "" {
				t.Errorf("nothing to do: %+v", f)
			}
			var text strings.Builder
			if err := r.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			untold := 0
			for _, f := range r.Findings {
				if f.Result == Unknown {
					untold++
				}
			}
			if want := fmt.Sprintf("; %d of %d could not be told\n", untold, len(r.Findings)); !strings.HasSuffix(text.String(), want) {
				t.Errorf("expected %q at the end of %s", want, text.String())
			}
		})
	}
}

// Who waits is told how far it is.
func TestProgressIsTold(t *testing.T) {
	told := 0
	examine(t, Options{Progress: func(time.Duration) { told++ }}, healthy)
	if told < 40 {
		t.Errorf("told %d times", told)
	}
}

// Heads of answers.
func TestHeads(t *testing.T) {
	for _, test := range []struct {
		name   string
		field  string
		find   string
		result Result
		seen   string
	}{
		{"other type", "Content-Type: text/html", ContentType, Problem, "text/html"},
		{"parameters", "Content-Type: Text/Event-Stream;charset=UTF-8", ContentType, OK, "Text/Event-Stream"},
		{"other charset", `Content-Type: text/event-stream; charset="latin1"`, ContentType, Advice, "latin1"},
		{"no control", "Cache-Control: ", CacheControl, Advice, "none"},
		{"may be transformed", "Cache-Control: no-cache", CacheControl, Advice, "no-cache"},
		{"may be cached", "Cache-Control: no-transform, max-age=60", CacheControl, Advice, "max-age=60"},
		{"not stored", "Cache-Control: No-Store, NO-TRANSFORM", CacheControl, OK, "No-Store"},
		{"buffering asked for", "X-Accel-Buffering: yes", AccelBuffering, Problem, "yes"},
		{"not said", "X-Accel-Buffering: ", AccelBuffering, Unknown, "nginx has taken it out"},
		{"identity", "Content-Encoding: identity", Compression, OK, "none"},
		{"long", "Cache-Control: no-cache, " + strings.Repeat("é", 100), CacheControl, Advice, strings.Repeat("é", 44) + "…"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := examine(t, Options{Timeout: 5 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
				begin(w, r, test.field).wait(time.Hour)
			})
			r.expect(t, test.find, test.result, test.seen)
			if r.Healthy != (test.result != Problem) {
				t.Errorf("healthy: %v", r.Healthy)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	for _, status := range []int{204, 401, 404, 502} {
		r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(ProbeField) != "" {
				t.Error("a probe was asked for")
			}
			w.WriteHeader(status)
		})
		r.expect(t, Status, Problem, strconv.Itoa(status))
		if r.Healthy || len(r.Findings) != 1 {
			t.Errorf("%+v", r)
		}
	}
}

// Something that holds events back, as the probe shows it.
func TestBuffered(t *testing.T) {
	for _, test := range []struct {
		name   string
		pass   func() func(s *stream, text string)
		result Result
		seen   string
	}{
		{"until the end", func() func(*stream, string) {
			return func(s *stream, text string) { _, _ = io.WriteString(s.w, text) }
		}, Problem, "held for 2.75s; 12 came in one piece"},
		{"in pairs", func() func(*stream, string) {
			held := ""
			return func(s *stream, text string) {
				if held += text; strings.Count(held, "data:") == 4 {
					s.send(held)
					held = ""
				}
			}
		}, Problem, "held for 750ms; 12 came in 3 pieces"},
		{"each by the same time", func() func(*stream, string) {
			return func(s *stream, text string) { time.Sleep(100 * time.Millisecond); s.send(text) }
		}, OK, "in 12 pieces, at most 0s late"},
		{"a little", func() func(*stream, string) {
			n := 0
			return func(s *stream, text string) {
				n++
				time.Sleep(time.Duration(n%2) * 40 * time.Millisecond)
				s.send(text)
			}
		}, OK, "at most 40ms late"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				if !serveProbe(w, r, 0, test.pass()) {
					begin(w, r).numbered(1, time.Second)
				}
			})
			r.expect(t, Buffering, test.result, test.seen)
			r.expect(t, Probe, OK, "answered")
		})
	}
}

// A moment's trouble is not taken for a buffer.
func TestBufferedOnce(t *testing.T) {
	var probes atomic.Int64
	r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(ProbeField) == ProbeFlow {
			probes.Add(1)
		}
		first := probes.Load() == 1
		if !serveProbe(w, r, 0, func(s *stream, text string) {
			if first && strings.Contains(text, `"n":5,`) {
				time.Sleep(4 * time.Second)
			}
			s.send(text)
		}) {
			begin(w, r).numbered(1, time.Second)
		}
	})
	r.expect(t, Buffering, OK, "at most 0s late")
	if n := probes.Load(); n != 2 {
		t.Errorf("%d probes", n)
	}
}

// The head is held back too, and with it all that the application sends.
func TestHeadBuffered(t *testing.T) {
	var waited time.Duration // until the probe was asked for
	var mu sync.Mutex
	var began time.Time
	r := examine(t, Options{Timeout: 20 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		switch {
		case began.IsZero():
			began = time.Now()
		case waited == 0:
			waited = time.Since(began)
		}
		mu.Unlock()
		if r.Header.Get(ProbeField) == ProbeFlow {
			serveProbe(w, r, 0, func(s *stream, text string) { _, _ = io.WriteString(s.w, text) })
			return
		}
		<-r.Context().Done()
	})
	r.expect(t, FirstByte, Problem, "no head within 20s")
	r.expect(t, Buffering, Problem, "held for 2.75s")
	r.expect(t, Heartbeats, Unknown, "none")
	r.expect(t, Resume, Unknown, "no ID to come back with")
	if waited != headPatience {
		t.Errorf("the probe was asked for after %v", waited)
	}
}

// A probe that something else answers says nothing.
func TestIdleProbeNotAnswered(t *testing.T) {
	r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(ProbeField) == ProbeIdle {
			s := begin(w, r)
			s.send(numbered(1))
			s.wait(20 * time.Second)
			return
		}
		if !serveProbe(w, r, 0, (*stream).send) {
			begin(w, r).numbered(1, 600*time.Millisecond)
		}
	})
	r.expect(t, Probe, OK, "answered")
	r.expect(t, IdleCut, Unknown, "the longest silence was 600ms")
}

// Without a probe a buffer can be known by where it cuts.
func TestTorn(t *testing.T) {
	r := examine(t, Options{Timeout: 10 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
		s := begin(w, r)
		held := ""
		for n := 1; s.wait(100 * time.Millisecond); n++ {
			for held += numbered(n); len(held) >= 100; held = held[100:] {
				s.send(held[:100])
			}
		}
	})
	r.expect(t, Buffering, Problem, "pieces ended within an event")
	r = examine(t, Options{Timeout: 10 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
		s := begin(w, r)
		for n := 1; s.wait(time.Second); n++ { // a large event is several pieces
			text := numbered(n)
			s.send(text[:4])
			time.Sleep(20 * time.Millisecond)
			s.send(text[4:])
		}
	})
	r.expect(t, Buffering, Unknown, "9 events in 18 pieces")
}

func TestNoAnswer(t *testing.T) {
	r := examine(t, Options{}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if len(r.Findings) != 1 || r.Healthy {
		t.Errorf("%+v", r)
	}
	r.expect(t, FirstByte, Problem, "no answer within 40s")
}

func TestSlowHead(t *testing.T) {
	r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(4 * time.Second)
		begin(w, r).numbered(1, time.Second)
	})
	r.expect(t, FirstByte, Advice, "the head came after 4s")
}

// Idle cuts, where the application is quiet and where it is not.
func TestIdleCut(t *testing.T) {
	for _, test := range []struct {
		name    string
		every   time.Duration // of the application; 0: quiet
		probe   bool
		beat    time.Duration
		cut     time.Duration
		result  Result
		seen    string
		outcome Result // of End
	}{
		{"quiet", 0, false, 0, 5 * time.Second, Problem, "cut after 5s without a byte", OK},
		{"quiet, by the probe too", 0, true, 15 * time.Second, 5 * time.Second, Problem, "cut after 5s without a byte", OK},
		{"busy, by the probe", time.Second, true, 15 * time.Second, 5 * time.Second, Problem, "cut after 5s without a byte", OK},
		{"busy, not known", time.Second / 2, false, 0, 5 * time.Second, Unknown, "never quiet: the longest silence was 500ms", OK},
		{"quiet, and only the probe kept alive", 0, true, 4 * time.Second, 5 * time.Second, Problem, "cut after 5s without a byte", OK},
		{"late", 0, false, 0, time.Minute, OK, "none; the longest silence was 40s", OK},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				// What is in between: it aborts the answer when it is quiet.
				cut := make(chan struct{})
				timer := time.AfterFunc(test.cut, func() { close(cut) })
				defer timer.Stop()
				pass := func(s *stream, text string) { timer.Reset(test.cut); s.send(text) }
				ctx, cancel := context.WithCancel(r.Context())
				defer cancel()
				r = r.WithContext(ctx)
				served := make(chan struct{})
				go func() {
					defer close(served)
					if test.probe && serveProbe(w, r, test.beat, pass) {
						return
					}
					s := begin(w, r)
					for n := 1; test.every > 0; n++ {
						pass(s, numbered(n))
						if !s.wait(test.every) {
							return
						}
					}
					<-r.Context().Done()
				}()
				select {
				case <-served:
				case <-cut:
					cancel()
					<-served
					panic(http.ErrAbortHandler)
				}
			})
			r.expect(t, IdleCut, test.result, test.seen)
			r.expect(t, End, test.outcome, "")
		})
	}
}

// Other ends.
func TestEnds(t *testing.T) {
	r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		s := begin(w, r)
		for n := range 4 {
			s.send(numbered(n))
			s.wait(2 * time.Second)
		}
		s.send(numbered(5))
		s.wait(1100 * time.Millisecond)
		panic(http.ErrAbortHandler)
	})
	r.expect(t, End, Problem, "cut after 9.1s, 1.1s after the last byte")
	r.expect(t, IdleCut, OK, "none; the longest silence was 2s")

	r = examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		s := begin(w, r)
		s.send(numbered(1))
		s.wait(3 * time.Second)
	})
	r.expect(t, End, Advice, "ended in order after 3s")
	r.expect(t, IdleCut, Unknown, "")
}

func TestHeartbeatsFound(t *testing.T) {
	quiet := func(beat time.Duration, pass func(*stream, string)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if beat == 0 || !serveProbe(w, r, beat, pass) {
				begin(w, r).wait(time.Hour)
			}
		}
	}
	r := examine(t, Options{}, quiet(0, nil))
	r.expect(t, Heartbeats, Problem, "none, in a silence of 40s")
	r = examine(t, Options{Timeout: 25 * time.Second}, quiet(0, nil))
	r.expect(t, Heartbeats, Unknown, "too short to tell")
	r = examine(t, Options{Timeout: 25 * time.Second}, quiet(15*time.Second, (*stream).send))
	r.expect(t, Heartbeats, OK, "1; ")
	r = examine(t, Options{Timeout: 25 * time.Second}, quiet(15*time.Second, func(s *stream, text string) {
		if strings.HasPrefix(text, "event") {
			s.send(text)
		}
	}))
	r.expect(t, Heartbeats, Problem, "one is due each 15s, and none came in 22")
	r = examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		s := begin(w, r)
		for s.wait(11 * time.Second) {
			s.send(": alive\n\n")
		}
	})
	r.expect(t, Heartbeats, OK, "3; the longest silence was 11s")
}

// What comes of a last event ID.
func TestResume(t *testing.T) {
	for _, test := range []struct {
		name   string
		serve  func(s *stream, id string)
		fields []string // of the answer to the second request
		result Result
		seen   string
	}{
		{"works", func(s *stream, id string) {
			from, _ := strconv.Atoi(id)
			s.numbered(from+1, time.Second)
		}, nil, OK, "the 3 events after the ID came"},
		{"with the event itself", func(s *stream, id string) {
			from, _ := strconv.Atoi(id)
			s.numbered(max(1, from), time.Second)
		}, nil, Problem, "an event came again"},
		{"from the beginning", func(s *stream, _ string) { s.numbered(1, 500*time.Millisecond) }, nil, Problem, "an event came again"},
		{"from now on", func(s *stream, id string) {
			if id != "" {
				s.numbered(1000, time.Second)
			}
			s.numbered(1, time.Second)
		}, nil, Problem, "of the 3 events after the ID, others came first"},
		{"one is left out", func(s *stream, id string) {
			from, _ := strconv.Atoi(id)
			if id != "" {
				s.send(numbered(from + 1))
				from++
			}
			s.numbered(from+1+min(from, 1), time.Second)
		}, nil, Problem, "or some did not come"},
		{"the last one is left out", func(s *stream, id string) {
			from, _ := strconv.Atoi(id)
			if id != "" {
				s.send(numbered(from+1) + numbered(from+2))
				from += 3
			}
			s.numbered(from+1, time.Second)
		}, nil, Problem, "or some did not come"},
		{"nothing", func(s *stream, id string) {
			if id == "" {
				s.numbered(1, time.Second)
			}
			s.wait(time.Hour)
		}, nil, Problem, "none came within 5s"},
		{"gap", func(s *stream, _ string) { s.numbered(1000, time.Second) }, []string{"SSE-Resume: gap"}, Problem, "newest events are lost; SSE-Resume: gap"},
		{"page", func(s *stream, _ string) { s.numbered(1, time.Second) }, []string{"Content-Type: text/html"}, Problem, "the answer was 200, text/html"},
		{"no answer", func(s *stream, id string) {
			if id != "" {
				panic(http.ErrAbortHandler)
			}
			s.numbered(1, time.Second)
		}, []string{"no head"}, Problem, "no answer came"},
		{"no answer in time", func(s *stream, id string) {
			if id != "" {
				s.wait(time.Hour)
			}
			s.numbered(1, time.Second)
		}, []string{"no head"}, Unknown, "no answer came within 5s"},
		{"no ids", func(s *stream, _ string) {
			for s.wait(time.Second) {
				s.send("data: x\n\n")
			}
		}, nil, Unknown, "no ID to come back with"},
		{"one ID for all", func(s *stream, _ string) {
			for s.wait(time.Second) {
				s.send("id: 7\ndata: x\n\n")
			}
		}, nil, Unknown, "no ID told one event from the others"},
		{"only a prime block, known", func(s *stream, _ string) {
			s.send("id: 7\n\n")
			s.wait(time.Hour)
		}, []string{"SSE-Resume: replayed; events=0"}, OK, "the ID is known"},
		{"only a prime block", func(s *stream, _ string) {
			s.send("id: 7\n\n")
			s.wait(time.Hour)
		}, nil, Unknown, "nothing was missed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := examine(t, Options{Timeout: 10 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
				id := r.Header.Get("Last-Event-ID")
				var fields []string
				if id != "" {
					fields = test.fields
				}
				if slices.Contains(fields, "no head") {
					test.serve(&stream{w, r}, id)
					return
				}
				test.serve(begin(w, r, fields...), id)
			})
			r.expect(t, Resume, test.result, test.seen)
		})
	}
}

// Events without an id.
func TestIDs(t *testing.T) {
	r := examine(t, Options{Timeout: 9500 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		s := begin(w, r)
		s.send("data: x\n\n")
		s.send("data: y\n\n")
		s.numbered(1, time.Second)
	})
	r.expect(t, IDs, Advice, "2 of 12 events had none")
}

// A coding that browsers know and the doctor knows, and one that it does not.
func TestCompressed(t *testing.T) {
	r := examine(t, Options{Timeout: 9500 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			healthy(w, r)
			return
		}
		s := begin(w, r, "Content-Encoding: gzip")
		out := gzip.NewWriter(w)
		for n := 1; ; n++ {
			_, _ = io.WriteString(out, numbered(n))
			_ = out.Flush()
			s.send("")
			if !s.wait(time.Second) {
				return
			}
		}
	})
	r.expect(t, Compression, Problem, "Content-Encoding: gzip")
	r.expect(t, Resume, OK, "the 3 events")
	if r.Events != 10 {
		t.Errorf("%d events", r.Events)
	}
	r = examine(t, Options{Timeout: 10 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != identity {
			begin(w, r, "Content-Encoding: br").send("\x0b\x00")
			return
		}
		healthy(w, r)
	})
	r.expect(t, Compression, Problem, "Content-Encoding: br")
	r.expect(t, Resume, OK, "the 3 events")
}

// What the caller gave is sent, and is in no report, also when the server says
// it again.
func TestCredentials(t *testing.T) {
	const secret = "Bearer hunter2-hunter2"
	asked := url.URL{
		Scheme: "http", Host: "app.test", Path: "/events", User: url.UserPassword("user", "sesame"),
		RawQuery: "token=sesame", Fragment: "sesame",
	}
	for _, status := range []int{http.StatusOK, http.StatusUnauthorized} {
		r := examine(t, Options{
			URL: asked.String(), Timeout: 5 * time.Second,
			Header: http.Header{"Authorization": {secret}, "Host": {"other.test"}},
		}, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != secret || r.Host != "other.test" || r.Header.Get("Host") != "" {
				t.Errorf("asked with %v, host %s", r.Header, r.Host)
			}
			w.Header().Set("X-Echo", secret)
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "id: hunter2-hunter2\ndata: hunter2-hunter2\n\n")
		})
		var text, object bytes.Buffer
		if err := errors.Join(r.WriteText(&text), r.WriteJSON(&object)); err != nil {
			t.Fatal(err)
		}
		for _, out := range []string{text.String(), object.String()} {
			if strings.Contains(out, "hunter2") || strings.Contains(out, "sesame") {
				t.Errorf("credentials in the report:\n%s", out)
			}
		}
		if r.URL != "http://app.test/events?…" {
			t.Errorf("URL %s", r.URL)
		}
	}
}

// Redirects are followed; to another host without what the caller gave.
func TestRedirects(t *testing.T) {
	field := http.Header{"X-Key": {"secret"}}
	var keys []string
	serve := func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Host+" "+r.Header.Get("X-Key"))
		switch r.URL.Path {
		case "/events":
			http.Redirect(w, r, "/moved", http.StatusFound)
		case "/moved":
			http.Redirect(w, r, "http://elsewhere.test/last", http.StatusTemporaryRedirect)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}
	r := examine(t, Options{Header: field}, serve)
	r.expect(t, Status, Problem, "404")
	if r.Final != "http://elsewhere.test/last" {
		t.Errorf("redirected to %q", r.Final)
	}
	if got := strings.Join(keys, ", "); got != "app.test secret, app.test secret, elsewhere.test " {
		t.Errorf("asked %s", got)
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{URL: "app.test/events"}, "expected an http or https URL"},
		{Options{URL: "ftp://app.test/"}, "expected an http or https URL"},
		{Options{URL: "http://hunter2@app.test:port/"}, "expected an http or https URL"},
		{Options{URL: "http://app.test/", Header: http.Header{"Last-Event-Id": {"1"}}}, "Last-Event-Id: a header field that the doctor sets itself"},
		{Options{URL: "http://hunter2@app.test/?hunter2"}, "no way there"},
		{Options{URL: "http://app.test/", Header: http.Header{"X-Key": {"hunter2\n"}}}, "X-Key"},
	} {
		test.o.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no way there") }
		_, err := Run(t.Context(), test.o)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, expected %s", test.o.URL, err, test.want)
		}
	}
}

func TestNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := Run(t.Context(), Options{URL: "http://app.test/", Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		if !errors.Is(err, errUnreachable) {
			t.Errorf("%v", err)
		}
	})
}

// Versions of HTTP, and certificates that nobody vouches for.
func TestProtocols(t *testing.T) {
	for _, test := range []struct {
		http2  bool
		result Result
		seen   string
	}{{true, OK, "HTTP/2.0"}, {false, Advice, "HTTP/1.1"}} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			begin(w, r).send("data: x\n\n")
		}))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.EnableHTTP2 = test.http2
		s.StartTLS()
		defer s.Close()
		r, err := Run(t.Context(), Options{URL: s.URL, Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		r.expect(t, HTTPVersion, test.result, test.seen)
		if _, err := Run(t.Context(), Options{URL: s.URL}); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%v, expected that the certificate is not taken", err)
		}
	}
	r := examine(t, Options{Timeout: 5 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n")
	})
	r.expect(t, HTTPVersion, Advice, "HTTP/1.0")
}

// The JSON names are the documented ones.
func TestJSON(t *testing.T) {
	r := examine(t, Options{Timeout: 5 * time.Second}, healthy)
	var text bytes.Buffer
	if err := r.WriteJSON(&text); err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(text.Bytes(), &object); err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("../../docs/operate/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range object {
		if !strings.Contains(string(docs), "`"+name+"`") {
			t.Errorf("%s is not in docs/operate/doctor.md", name)
		}
	}
}

// docs/operate/doctor.md has all findings, in their order, and no others.
func TestFindingsAreDocumented(t *testing.T) {
	docs, err := os.ReadFile("../../docs/operate/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(docs), "## Findings")
	table, _, _ = strings.Cut(table, "## JSON")
	var documented []string
	for line := range strings.Lines(table) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "`"); ok && strings.HasPrefix(line, "| `") {
			documented = append(documented, name)
		}
	}
	if got, want := strings.Join(documented, " "), strings.Join(Names, " "); got != want {
		t.Errorf("docs/operate/doctor.md has\n%s\nexpected\n%s", got, want)
	}
}

// Where nothing in the answer shows a gateway it is said what is known: that the answer came past an sse, or that something
// may have taken the signs out. Its IDs are a sign that nothing takes out.
func TestAnswerPastTheGatewayIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		fields []string
		id     string
		result Result
		seen   string
	}{
		"nothing shows":                   {result: Unknown, seen: "did not come through an sse, or a proxy in front took the signs away"},
		"a Caddy, by Via":                 {fields: []string{"Via: 1.1 Caddy"}, result: Advice, seen: "a Caddy has answered (Via: 1.1 Caddy), and not through an sse"},
		"a Caddy, by Server":              {fields: []string{"Server: Caddy"}, result: Advice, seen: "a Caddy has answered (Server: Caddy)"},
		"a Caddy, and a proxy in front":   {fields: []string{"Via: 1.1 Caddy, 1.1 front", "Server: Caddy"}, result: Unknown, seen: "took the signs away"},
		"a server that is none":           {fields: []string{"Server: nginx"}, result: Unknown, seen: "took the signs away"},
		"SSE-Resume is taken out on way":  {id: "sse1.epoch.", result: OK, seen: "the IDs are a gateway's"},
		"the application's IDs, and Via":  {id: "sse2.epoch.", fields: []string{"Via: 1.1 Caddy"}, result: Advice, seen: "a Caddy has answered"},
		"a Caddy, and SSE-Resume is here": {fields: []string{"Via: 1.1 Caddy", "SSE-Resume: live"}, result: OK, seen: "SSE-Resume: live"},
	} {
		t.Run(name, func(t *testing.T) {
			r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				s := begin(w, r, test.fields...)
				for n := 1; ; n++ {
					s.send(fmt.Sprintf("id: %s%d\ndata: %d\n\n", test.id, n, n))
					if !s.wait(time.Second) {
						return
					}
				}
			})
			r.expect(t, Gateway, test.result, test.seen)
			if f := r.finding(t, Gateway); f.Result != OK && !strings.Contains(f.Change, "write sse inside the handle") {
				t.Errorf("what to do: %q", f.Change)
			}
		})
	}
}

// What the gateway says of the other nodes of its cluster is told, by its admin API.
func TestHintsOfNodesAreTold(t *testing.T) {
	admin := url.URL{Scheme: "http", Host: "admin.test"}
	r := examine(t, Options{Admin: admin.String()}, func(w http.ResponseWriter, r *http.Request) {
		s := begin(w, r)
		if r.Host != "admin.test" {
			s.wait(time.Hour)
			return
		}
		s.send(`event: streams` + "\n" + `data: {"handlers": [], "hints": [{"kind": "no_node"}, {"kind": "linger"}, {"kind": "apart"}]}` + "\n\n")
	})
	r.expect(t, Hints, Advice, "no_node, apart")
}

// The gateway's admin API is asked what has come to it: that no request has is certain. What is sent with the requests for
// the stream is not sent to it, and a password in its URL is told to nobody.
func TestGatewayIsAskedWhatHasCome(t *testing.T) {
	const quiet = `{"handlers": [{"listen": ":80", "handler": "a", "requests": 7, "event_streams": 2}], "hints": [%s]}`
	many := `{"handlers": [` + strings.Repeat(`{"requests": 1}, `, maxHandlers-1) + `{"requests": 1}]}`
	for name, test := range map[string]struct {
		views        [2]string // before and after
		fields       string    // of the stream's head
		status       int       // of the admin API
		result       Result
		seen, change string
	}{
		"no request has come": {
			views: [2]string{fmt.Sprintf(quiet, ""), fmt.Sprintf(quiet, "")}, result: Problem,
			seen: "none of the gateway's 1 sse was asked meanwhile", change: "write sse inside the handle",
		},
		"and the gateway knows why": {
			views:  [2]string{fmt.Sprintf(quiet, ""), fmt.Sprintf(quiet, `{"kind": "linger", "remedy": "x"}, {"kind": "unseen", "remedy": "see that the matcher"}`)},
			result: Problem, seen: "did not come through an sse", change: "the gateway itself says: see that the matcher",
		},
		"requests have come": {
			views: [2]string{fmt.Sprintf(quiet, ""), strings.Replace(fmt.Sprintf(quiet, ""), "7", "8", 1)}, result: Unknown,
			seen: "requests have come to an sse meanwhile", change: "let nothing take SSE-Resume out",
		},
		"another configuration":   {views: [2]string{fmt.Sprintf(quiet, ""), `{"handlers": []}`}, result: Unknown, seen: "requests have come", change: "live page"},
		"more than are told of":   {views: [2]string{many, many}, result: Unknown, seen: "requests have come", change: "live page"},
		"nobody may ask":          {status: http.StatusForbidden, result: Unknown, seen: "the admin API did not say: the answer was 403", change: "--admin"},
		"no view":                 {views: [2]string{"{", "{"}, result: Unknown, seen: "the admin API did not say", change: "--admin"},
		"the answer has the sign": {fields: "SSE-Resume: live", views: [2]string{fmt.Sprintf(quiet, ""), fmt.Sprintf(quiet, "")}, result: OK, seen: "live"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			admin := url.URL{Scheme: "http", Host: "admin.test", User: url.UserPassword("user", "hunter2")}
			o := Options{Admin: admin.String(), Header: http.Header{"Authorization": {"Bearer secret"}}}
			r := examine(t, o, func(w http.ResponseWriter, r *http.Request) {
				if r.Host != "admin.test" {
					s := begin(w, r, test.fields)
					s.wait(time.Hour)
					return
				}
				if _, password, _ := r.BasicAuth(); r.URL.Path != "/sse/feed" || password != "hunter2" {
					t.Errorf("asked for %s with %q", r.URL.Path, r.Header["Authorization"])
				}
				if test.status != 0 {
					w.WriteHeader(test.status)
					return
				}
				s := begin(w, r)
				s.send("event: settings\ndata: {}\n\nevent: streams\ndata: " + test.views[asked] + "\n\n")
				asked++
			})
			r.expect(t, Gateway, test.result, test.seen)
			f := r.finding(t, Gateway)
			if !strings.Contains(f.Change, test.change) {
				t.Errorf("change %q, expected %q", f.Change, test.change)
			}
			if strings.Contains(f.Seen+f.Change, "hunter2") {
				t.Errorf("the password is told: %+v", f)
			}
		})
	}
}

func TestAdminURLs(t *testing.T) {
	for given, want := range map[string]string{
		"http://localhost:2019":        "http://localhost:2019/sse/",
		"http://localhost:2019/":       "http://localhost:2019/sse/",
		"https://ops.example.com/sse":  "https://ops.example.com/sse/",
		"https://ops.example.com/sse/": "https://ops.example.com/sse/",
	} {
		if got, err := adminURL(given); got != want || err != nil {
			t.Errorf("%s: %s, %v", given, got, err)
		}
	}
	for _, given := range []string{"localhost:2019", "unix//run/admin.sock", "http://", "http://x/?secret"} {
		if _, err := Run(t.Context(), Options{URL: "http://127.0.0.1:1", Admin: given}); !errors.Is(err, errAdmin) {
			t.Errorf("%s: %v", given, err)
		}
	}
}

// What the gateway has noticed of its configuration is told, by the kinds, and not more than that.
func TestHintsOfTheGatewayAreTold(t *testing.T) {
	r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(ProbeField) != ProbeFlow {
			healthy(w, r)
			return
		}
		s := begin(w, r, ProbeField+": "+ProbeFlow)
		s.send(probeText(ProbeData{Number: 1}))
		s.send(probeText(ProbeData{Number: 2, Last: true, Hints: []string{"query", "few_share"}}))
	})
	r.expect(t, Hints, Advice, "query, few_share")
	r = examine(t, Options{}, bare(func(s *stream, from int) { s.numbered(from+1, time.Second) }))
	r.expect(t, Hints, Unknown, "did not say")
}
