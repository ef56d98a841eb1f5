package doctor

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// This file has streams that the doctor once was wrong about.

// bare serves an application without the gateway: serve gets the number in the
// last event ID, or 0.
func bare(serve func(s *stream, from int), fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(ProbeField) != "" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		from, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
		serve(begin(w, r, fields...), from)
	}
}

// healthyBut checks that no finding but those is a problem.
func (r *Report) healthyBut(t *testing.T, names ...string) {
	t.Helper()
	var problems []string
	for _, f := range r.Findings {
		if f.Result == Problem {
			problems = append(problems, f.Name)
		}
	}
	if !slices.Equal(problems, names) {
		t.Errorf("problems %q, expected %q: %+v", problems, names, r.Findings)
	}
}

// The doctor comes back to a stream that has ended when EventSource does, while
// it still looks at the probe: what was missed is not kept for long.
func TestResumeWhenStreamEnds(t *testing.T) {
	for _, test := range []struct {
		name  string
		cut   bool
		lasts time.Duration
		away  time.Duration // until the doctor is back
	}{
		{"ended", false, 5 * time.Second, reconnectDelay},
		{"cut", true, 5 * time.Second, reconnectDelay},
		{"ended while the first probe was there", false, time.Second, reconnectDelay},
		{"left", false, time.Hour, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var mu sync.Mutex // the doctor opens two connections
			var ended, back time.Time
			r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				if serveProbe(w, r, 15*time.Second, (*stream).send) {
					return
				}
				if from, err := strconv.Atoi(r.Header.Get("Last-Event-ID")); err == nil {
					mu.Lock()
					back = time.Now()
					mu.Unlock()
					begin(w, r, "SSE-Resume: replayed").numbered(from+1, time.Second)
					return
				}
				s := begin(w, r)
				s.send(numbered(1) + numbered(2) + numbered(3) + numbered(4))
				s.wait(test.lasts)
				mu.Lock()
				ended = time.Now()
				mu.Unlock()
				if test.cut {
					panic(http.ErrAbortHandler)
				}
			})
			r.expect(t, Resume, OK, "the 3 events after the ID came")
			r.expect(t, Heartbeats, OK, "2; ")
			mu.Lock()
			defer mu.Unlock()
			if away := back.Sub(ended); away != test.away {
				t.Errorf("came back after %v", away)
			}
		})
	}
}

// What has no id of its own is not replayed, and nobody has missed it.
func TestEventsWithoutIDs(t *testing.T) {
	const ping = "event: ping\ndata\n\n"
	for _, test := range []struct {
		name   string
		first  func(s *stream)
		again  func(s *stream, from int)
		result Result
		seen   string
	}{
		{"heartbeats", func(s *stream) {
			for n := 1; s.wait(3 * time.Second); n++ {
				s.send(numbered(n) + ping)
			}
		}, func(s *stream, from int) {
			for n := from + 1; n <= 6; n++ {
				s.send(numbered(n))
			}
			s.wait(time.Hour)
		}, OK, "the 3 events after the ID came"},
		{"more of them than are kept", func(s *stream) {
			s.send(numbered(1) + numbered(2) + numbered(3) + numbered(4))
			for range maxKept {
				s.send(ping)
			}
			s.wait(time.Hour)
		}, func(s *stream, from int) { s.numbered(from+1, time.Second) }, OK, "the 3 events"},
		{"a greeting", func(s *stream) {
			s.send("id: 0\n\n" + ping + numbered(1) + numbered(2))
			s.wait(time.Hour)
		}, func(s *stream, from int) {
			s.send("id: " + strconv.Itoa(from) + "\n\n" + ping)
			s.numbered(from+1, time.Second)
		}, OK, "the 2 events"},
		{"a greeting only", func(s *stream) {
			s.send("id: 7\n\n" + ping)
			s.wait(time.Hour)
		}, func(s *stream, _ int) {
			s.send(ping)
			s.wait(time.Hour)
		}, Unknown, "nothing was missed"},
		{"one is lost", func(s *stream) {
			s.send(ping)
			s.numbered(1, time.Second)
		}, func(s *stream, from int) {
			s.send(ping)
			s.numbered(from+2, time.Second)
		}, Problem, "others came first"},
		{"nothing else comes", func(s *stream) {
			s.numbered(1, time.Second)
		}, func(s *stream, _ int) {
			for s.wait(300 * time.Millisecond) {
				s.send(ping)
			}
		}, Problem, "none came within 5s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := examine(t, Options{Timeout: 20 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
				bare(func(s *stream, from int) {
					if r.Header.Get("Last-Event-ID") != "" {
						test.again(s, from)
						return
					}
					test.first(s)
				})(w, r)
			})
			r.expect(t, Resume, test.result, test.seen)
		})
	}
}

// No URL is told to who it redirects to: there may be a token in it.
func TestNoReferer(t *testing.T) {
	for _, given := range []string{"", "http://page.test/"} {
		header := make(http.Header)
		if given != "" {
			header.Set("Referer", given)
		}
		var told []string
		examine(t, Options{URL: "http://app.test/events?token=sesame", Header: header}, func(w http.ResponseWriter, r *http.Request) {
			told = append(told, r.Host+" "+r.Referer())
			switch r.URL.Path {
			case "/events":
				http.Redirect(w, r, "/moved?token=sesame", http.StatusFound)
			case "/moved":
				http.Redirect(w, r, "http://elsewhere.test/", http.StatusFound)
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		})
		if got, want := strings.Join(told, ", "), "app.test "+given+", app.test "+given+", elsewhere.test "; got != want {
			t.Errorf("told %q, expected %q", got, want)
		}
	}
}

// A 204 to who comes back ends EventSource for good: right after an end, else not.
func TestNoContentOnResume(t *testing.T) {
	for _, test := range []struct {
		name   string
		first  string
		end    func(s *stream)
		result Result
		seen   string
	}{
		{"over", numbered(1), func(*stream) {}, OK, "204 after the newest ID: the stream is over"},
		{"over, also for who was cut before", numbered(1) + numbered(2), func(*stream) {}, Advice, "204, though 1 events came after the ID"},
		{"cut", numbered(1) + numbered(2), func(*stream) { panic(http.ErrAbortHandler) }, Problem, "the answer was 204"},
		{"going on", numbered(1) + numbered(2), func(s *stream) { s.wait(time.Hour) }, Problem, "the answer was 204"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Last-Event-ID") != "" {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				bare(func(s *stream, _ int) {
					s.send(test.first)
					s.wait(time.Second)
					test.end(s)
				})(w, r)
			})
			r.expect(t, Resume, test.result, test.seen)
		})
	}
}

// A limit on requests, which the doctor makes more of than a client, is not taken
// for a stream that cannot be resumed.
func TestTooManyRequests(t *testing.T) {
	var requests atomic.Int64
	r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) > 3 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		healthy(w, r)
	})
	r.expect(t, Resume, Unknown, "429")
	r.healthyBut(t)
}

// Comments without a blank line, and events that come line by line, are no buffer
// that was full.
func TestLineByLine(t *testing.T) {
	for name, lines := range map[string][]string{
		"comments": {": ping\n", ":\n", ": ping\r\n"},
		"events":   {"id: 1\n", "data: x\n", "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := examine(t, Options{Timeout: 10 * time.Second}, bare(func(s *stream, _ int) {
				for n := 0; s.wait(time.Second); n++ {
					s.send(lines[n%len(lines)])
				}
			}))
			r.healthyBut(t)
		})
	}
}

// A probe that was cut at once was not held back.
func TestProbeCut(t *testing.T) {
	r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(ProbeField) == ProbeFlow {
			begin(w, r, ProbeField+": "+ProbeFlow)
			panic(http.ErrAbortHandler)
		}
		healthy(w, r)
	})
	r.expect(t, Buffering, Unknown, "the probe was cut after 0 events")
	r.healthyBut(t)
}

// Where one connection was idle for longer than another was when it was cut, it
// was not for that.
func TestCutNotForSilence(t *testing.T) {
	r := examine(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if serveProbe(w, r, 15*time.Second, (*stream).send) {
			return
		}
		bare(func(s *stream, from int) {
			s.send(numbered(from + 1))
			s.wait(2 * time.Second)
			panic(http.ErrAbortHandler)
		})(w, r)
	})
	r.expect(t, IdleCut, OK, "none; the longest silence was 15s")
	r.expect(t, End, Problem, "cut after 2s, 2s after the last byte")
}

// An event that is larger than what the doctor reads is nobody's fault.
func TestHugeEvent(t *testing.T) {
	r := examine(t, Options{}, bare(func(s *stream, from int) {
		if from == 0 {
			s.send(numbered(1) + numbered(2) + "data: " + strings.Repeat("x", maxBlock) + "\n\n")
		}
		s.numbered(from+1, time.Second)
	}))
	r.expect(t, End, Unknown, "at an event of more than 16 MiB")
	r.healthyBut(t)
}

// Large events take their time, also when they are missed ones.
func TestSlowEvents(t *testing.T) {
	for _, test := range []struct {
		name   string
		stalls bool
		result Result
		seen   string
	}{
		{"coming", false, Unknown, "was still coming after 5s"},
		{"stalled", true, Problem, "none came within 5s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := examine(t, Options{Timeout: 39 * time.Second}, bare(func(s *stream, from int) {
				for n := from + 1; ; n++ {
					s.send(fmt.Sprintf("id: %d\ndata: ", n))
					for range 50 {
						if !s.wait(200 * time.Millisecond) {
							return
						}
						if from == 0 || !test.stalls {
							s.send(strings.Repeat("x", 1000))
						}
					}
					s.send("\n\n")
				}
			}))
			r.expect(t, Resume, test.result, test.seen)
		})
	}
}

// Cookies that the doctor is given go with its next requests to the one that gave
// them: else it comes to another backend, or is redirected again and again.
func TestCookies(t *testing.T) {
	backends := 0
	r := examine(t, Options{Header: http.Header{"Cookie": {"session=sesame"}}}, func(w http.ResponseWriter, r *http.Request) {
		if _, err := r.Cookie("session"); err != nil {
			t.Error("the caller's cookie is not sent")
		}
		if _, err := r.Cookie("sticky"); err != nil {
			backends++
			w.Header().Add("Set-Cookie", "sticky=1")
			http.Redirect(w, r, "/events", http.StatusFound)
			return
		}
		healthy(w, r)
	})
	r.healthyBut(t)
	if backends != 1 {
		t.Errorf("came to %d backends", backends)
	}
}

// No cookie goes to another host: neither the caller's nor one that was given.
func TestCookiesElsewhere(t *testing.T) {
	r := examine(t, Options{Header: http.Header{"Cookie": {"session=sesame"}}}, func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "elsewhere.test" {
			w.Header().Add("Set-Cookie", "sticky=1")
			http.Redirect(w, r, "http://elsewhere.test/", http.StatusFound)
			return
		}
		if cookies := r.Cookies(); len(cookies) > 0 {
			t.Errorf("sent %v", cookies)
		}
		w.WriteHeader(http.StatusNotFound)
	})
	r.expect(t, Status, Problem, "404")
}

// IDs that net/http cannot send are not tried.
func TestControlsInIDs(t *testing.T) {
	r := examine(t, Options{}, bare(func(s *stream, _ int) {
		for s.wait(time.Second) {
			s.send("id: \x01" + time.Now().Format("05") + "\ndata: x\n\n")
		}
	}))
	r.expect(t, Resume, Unknown, "no ID told one event from the others")
}

// Little time shows little, and nothing that is wrong.
func TestLittleTime(t *testing.T) {
	r := examine(t, Options{Timeout: time.Second}, healthy)
	r.expect(t, Resume, OK, "the 1 events")
	r.healthyBut(t)
	r = examine(t, Options{Timeout: time.Second}, func(w http.ResponseWriter, r *http.Request) {
		if !serveProbe(w, r, 15*time.Second, (*stream).send) {
			(&stream{w, r}).wait(1500 * time.Millisecond)
			begin(w, r).numbered(1, time.Second)
		}
	})
	r.expect(t, FirstByte, Unknown, "no head within 1s")
	r.healthyBut(t)
}

// Other streams that nothing is wrong with.
func TestNothingWrong(t *testing.T) {
	for _, test := range []struct {
		name  string
		serve http.HandlerFunc
		but   []string
	}{
		{"an application that says nothing, behind the gateway", func(w http.ResponseWriter, r *http.Request) {
			if serveProbe(w, r, 15*time.Second, (*stream).send) {
				return
			}
			s := begin(w, r, "SSE-Resume: replayed; events=0")
			s.wait(time.Second)
			s.send("id: 1\n\n")
			for s.wait(15 * time.Second) {
				s.send(":\n\n")
			}
		}, nil},
		{"a head that takes long", func(w http.ResponseWriter, r *http.Request) {
			if serveProbe(w, r, 15*time.Second, (*stream).send) {
				return
			}
			(&stream{w, r}).wait(6 * time.Second)
			bare(func(s *stream, from int) { s.numbered(from+1, 7*time.Second) })(w, r)
		}, nil},
		{"an end after each event", bare(func(s *stream, from int) {
			s.send(fmt.Sprintf("retry: 100\nid: %d\n\n", from))
			s.wait(time.Second)
			s.send(numbered(from + 1))
		}), nil},
		{"retry only", bare(func(s *stream, _ int) {
			for s.wait(10 * time.Second) {
				s.send("retry: 1000\n\n")
			}
		}), nil},
		{"an event each 4 s, cut when idle for 5 s", func(w http.ResponseWriter, r *http.Request) {
			if serveProbe(w, r, 4*time.Second, (*stream).send) {
				return
			}
			bare(func(s *stream, from int) {
				for n := from + 1; n < max(8, from+4); n++ { // the buffer
					s.send(numbered(n))
				}
				for n := max(8, from+4); s.wait(4 * time.Second); n++ {
					s.send(numbered(n))
				}
			})(w, r)
		}, nil},
		{"compressed, and flushed after each event", bare(func(s *stream, from int) {
			out := gzip.NewWriter(s.w)
			for n := from + 1; ; n++ {
				_, _ = io.WriteString(out, numbered(n))
				_ = out.Flush()
				s.send("")
				if !s.wait(time.Second) {
					return
				}
			}
		}, "Content-Encoding: gzip"), []string{Compression}},
	} {
		t.Run(test.name, func(t *testing.T) { examine(t, Options{}, test.serve).healthyBut(t, test.but...) })
	}
}
