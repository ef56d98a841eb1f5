package caddysse

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/doctor"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// The documents have each reason and each kind of hint.
func TestReasonsAndHintsAreDocumented(t *testing.T) {
	words := map[string][]string{"private-reasons.md": nil, "hints.md": nil}
	for _, reason := range stream.PrivateReasons {
		words["private-reasons.md"] = append(words["private-reasons.md"], string(reason))
	}
	for _, kind := range hints.Kinds {
		words["hints.md"] = append(words["hints.md"], string(kind))
	}
	for name, all := range words {
		text, err := os.ReadFile(filepath.Join("docs", "reference", name)) //nolint:gosec // G304: a name of this test's
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range all {
			if !strings.Contains(string(text), "\n| `"+word+"` |") {
				t.Errorf("%s is not in %s", word, name)
			}
		}
		if rows := strings.Count(string(text), "\n| `"); rows != len(all) {
			t.Errorf("%s has %d rows, expected %d", name, rows, len(all))
		}
	}
}

// The doctor has something to say to each reason.
func TestDoctorKnowsTheReasons(t *testing.T) {
	var all []string
	for _, reason := range stream.PrivateReasons {
		all = append(all, string(reason))
	}
	slices.Sort(all)
	if known := doctor.PrivateReasons(); !slices.Equal(known, all) {
		t.Errorf("the doctor knows %q, expected %q", known, all)
	}
}

// hintsOf are the hints of a kind that there are.
func hintsOf(kind hints.Kind) (all []hints.Hint) {
	for _, h := range hints.Process.List() {
		if h.Kind == kind {
			all = append(all, h)
		}
	}
	return all
}

// Each private stream says why it is: in its head, to operators, and to the metrics; and in a hint, where there is a
// remedy.
func TestPrivateStreamsSayWhy(t *testing.T) {
	answer := func(name, value string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", eventStreamType)
			if name != "" {
				w.Header().Set(name, value)
			}
		}
	}
	for _, test := range []struct {
		name, options, method string
		fields                []string
		answer                func(http.ResponseWriter, *http.Request)
		reason                stream.PrivateReason
		detail, remedy        string
	}{
		{name: "share off", options: "share off", reason: stream.PrivateShareOff},
		{name: "a POST", method: http.MethodPost, reason: stream.PrivateMethod},
		{name: "MCP", fields: []string{"Mcp-Session-Id: 1"}, reason: stream.PrivateMCP},
		{name: "detached", options: "detach 1m", method: http.MethodPost, reason: stream.PrivateMethod},
		{name: "no Accept", reason: stream.PrivateAccept, remedy: "request_header Accept text/event-stream"},
		{name: "a cookie", answer: answer("Set-Cookie", "session=secret; Path=/"), reason: stream.PrivateSetCookie, detail: "session", remedy: "set_cookie strip"},
		{name: "Vary: *", answer: answer("Vary", "*"), reason: stream.PrivateVary, detail: "*", remedy: "have the application leave it out"},
		{
			name: "Vary", answer: answer("Vary", "Origin, User-Agent"), reason: stream.PrivateVary, detail: "User-Agent",
			remedy: "key_add {http.request.header.User-Agent}",
		},
		{name: "Cache-Control", answer: answer("Cache-Control", "private"), reason: stream.PrivateControl, remedy: "leave private out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.answer == nil {
				test.answer = answer("", "")
			}
			u := startUpstream(t, test.answer)
			_, a := startAdmin(t, site("sse {\n"+test.options+"\n}\nreverse_proxy "+u.address))
			before := stream.Counts.Private.With(string(test.reason)).Value()
			method := test.method
			if method == "" {
				method = http.MethodGet
			}
			req := a.g.request(method, "/events", append([]string{"Accept: text/event-stream"}, test.fields...)...)
			if test.reason == stream.PrivateAccept {
				req.Header.Del("Accept")
			}
			resp, err := a.g.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			c := newTestClient(t, resp)
			up := u.accept()
			if test.reason == stream.PrivateVary && test.detail != "*" {
				up = u.accept() // the client was asked to ask by itself
			}
			up.event("1")
			c.expect("1")
			if want := stream.ResumePrivate + "; reason=" + string(test.reason); !strings.Contains(test.options, "detach") && c.outcome() != want {
				t.Errorf("SSE-Resume: %q", c.outcome())
			}
			list := a.list()
			eventually(t, "the shared stream is gone that there was for the question", func() bool {
				list = a.list()
				return len(list.Streams) == 1
			})
			if len(list.Streams) != 1 || list.Streams[0].Private == nil {
				t.Fatalf("operators see %+v", list.Streams)
			}
			if p := list.Streams[0].Private; p.Reason != test.reason || p.Detail != test.detail || p.Text == "" || !strings.Contains(p.Remedy, test.remedy) {
				t.Errorf("operators see %+v", p)
			}
			if n := stream.Counts.Private.With(string(test.reason)).Value() - before; n != 1 {
				t.Errorf("counted %v times", n)
			}
			found := hintsOf(hints.NotShared)
			if (len(found) == 1) != (test.remedy != "") {
				t.Fatalf("hints %+v", found)
			}
			if len(found) == 1 && (!strings.Contains(found[0].Remedy, test.remedy) || !strings.HasSuffix(found[0].Place, "/events")) {
				t.Errorf("hint %+v", found[0])
			}
		})
	}
}

// A field SSE-Resume of another gateway behind this one stays.
func TestResumeOfAnotherGatewayStays(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", eventStreamType)
		w.Header().Set("SSE-Resume", "replayed; events=7")
	})
	g := startGateway(t, proxied("share off", u))
	if c := g.subscribe("/"); c.outcome() != "replayed; events=7" {
		t.Errorf("SSE-Resume: %q", c.outcome())
	}
}

// What was learnt of an answer is told with until when it holds.
func TestLearntReasonHasATime(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", eventStreamType)
		if r.Header.Get("User-Agent") != "fine" {
			w.Header().Set("Set-Cookie", "a=b")
		}
	})
	_, a := startAdmin(t, proxied("", u))
	a.g.subscribe("/")
	u.accept()
	late := a.g.subscribe("/", "User-Agent: fine")
	u.accept().event("1")
	late.expect("1") // it is listed then
	learnt := 0
	for _, info := range a.list().Streams {
		if p := info.Private; p == nil || p.Reason != stream.PrivateSetCookie {
			t.Errorf("operators see %+v", p)
		} else if p.Until != nil {
			learnt++
		}
	}
	if learnt != 1 {
		t.Errorf("%d streams say until when the reason holds, expected that of who came later", learnt)
	}
}

// set_cookie strip: the stream is shared, and nobody is given the cookie.
func TestSetCookieStrip(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", eventStreamType)
		w.Header().Set("Set-Cookie", "laravel_session=secret")
	})
	g := startGateway(t, proxied("set_cookie strip", u))
	a := g.subscribe("/")
	up := u.accept()
	b := g.subscribe("/")
	for _, c := range []*testClient{a, b} {
		if got := c.resp.Header.Get("Set-Cookie"); got != "" || c.outcome() != stream.ResumeLive {
			t.Errorf("Set-Cookie: %q, SSE-Resume: %q", got, c.outcome())
		}
	}
	up.event("1")
	a.expect("1")
	b.expect("1")
	if _, all := u.counts(); all != 1 {
		t.Errorf("%d upstream connections", all)
	}
}

// share headers: those fields separate clients, and are sent; others are not. They are taken to say who the user is.
func TestShareHeaders(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", eventStreamType)
		w.Header().Set("Cache-Control", "private")
	})
	g := startGateway(t, proxied("share headers remote-user", u))
	a := g.subscribe("/", "Remote-User: a", "Cookie: _ga=1")
	upA := u.accept()
	again := g.subscribe("/", "Remote-User: a", "Cookie: _ga=2")
	b := g.subscribe("/", "Remote-User: b", "Cookie: _ga=3")
	upB := u.accept()
	upA.event("for a")
	upB.event("for b")
	a.expect("for a")
	again.expect("for a")
	b.expect("for b")
	for _, up := range []*upstreamClient{upA, upB} {
		if h := up.request.Header; h.Get("Remote-User") == "" || h.Get("Cookie") != "" {
			t.Errorf("sent upstream: %v", h)
		}
	}
}

// A session cookie whose value changes with each answer: docs/guides/authentication.md says how to share by the user.
func TestSessionCookieThatChanges(t *testing.T) {
	sessions := 0
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		sessions++
		w.Header().Set("Content-Type", eventStreamType)
		w.Header().Set("Set-Cookie", "session="+r.Header.Get("Remote-User")+"-"+strconv.Itoa(sessions))
	})
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cookie, err := r.Cookie("session")
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		user, _, _ := strings.Cut(cookie.Value, "-")
		w.Header().Set("Remote-User", user)
	}))
	t.Cleanup(auth.Close)
	g := startGateway(t, site("forward_auth "+auth.Listener.Addr().String()+" {\nuri /auth\ncopy_headers Remote-User\n}\n"+
		"sse {\nshare headers Remote-User\nset_cookie strip\n}\nreverse_proxy "+u.address))
	a := g.subscribe("/", "Cookie: session=ann-1")
	up := u.accept()
	again := g.subscribe("/", "Cookie: session=ann-2; _ga=7")
	up.event("for ann")
	last := a.expect("for ann").LastEventID
	again.expect("for ann")
	a.close()
	up.event("and more")
	back := g.subscribe("/", "Cookie: session=ann-3", "Last-Event-ID: "+last)
	back.expect("and more")
	g.subscribe("/", "Cookie: session=bob-1")
	u.accept().event("for bob")
	if resp := g.get("/"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a session: %s", resp.Status)
	}
	if found := hints.Process.List(); len(found) > 0 {
		t.Errorf("hints: %+v", found)
	}
}
