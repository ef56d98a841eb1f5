package caddysse

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/access"
	"github.com/caddy-sse/caddy-sse/internal/key"
)

// authService is what forward_auth asks in tests.
type authService struct {
	address string
	verdict func(r *http.Request) int
	asked   atomic.Int64
}

func startAuthService(t testing.TB, verdict func(r *http.Request) int) *authService {
	t.Helper()
	a := &authService{verdict: verdict}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		w.WriteHeader(a.verdict(r))
	}))
	a.address = server.Listener.Addr().String()
	t.Cleanup(server.Close)
	return a
}

// statusOf is a verdict for a user, who is in the field User; others are let in.
func statusOf(user string, status *atomic.Int64) func(r *http.Request) int {
	return func(r *http.Request) int {
		if r.Header.Get("User") == user {
			return int(status.Load())
		}
		return http.StatusOK
	}
}

// The clients of a shared stream, of either delivery, and of a private one.
var guestKinds = map[string]string{
	"connection": "share public",
	"handler":    "share public\ndelivery handler",
	"private":    "share off",
}

// Who is refused is let go within the interval, and is given nothing more. Others stay.
func TestWhoIsRefusedIsLetGo(t *testing.T) {
	for kind, options := range guestKinds {
		t.Run(kind, func(t *testing.T) {
			var status atomic.Int64
			status.Store(http.StatusOK)
			auth := startAuthService(t, statusOf("bob", &status))
			u := startUpstream(t, nil)
			g := startGateway(t, site("forward_auth "+auth.address+" {\nuri /auth\n}\nsse {\nreauthorize 1s\nheartbeat off\n"+options+"\n}\nreverse_proxy "+u.address))
			before := gather(t)
			alice := g.subscribe("/", "User: alice")
			ups := []*upstreamClient{u.accept()}
			bob := g.subscribe("/", "User: bob")
			if kind == "private" {
				ups = append(ups, u.accept())
			}
			for _, up := range ups {
				up.numbered("1")
			}
			alice.skipTo("1")
			bob.skipTo("1")
			status.Store(http.StatusUnauthorized)
			bob.expectOver()
			ups[0].numbered("2")
			alice.expect("2")
			eventually(t, "that is counted", func() bool {
				ended := gather(t).since(before)
				return ended["subscribers_ended_total reason=revoked"] == 1 && ended["reauthorizations_total result=refused"] == 1
			})
			if resp := g.get("/", "User: bob"); resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("the next request is answered with %d", resp.StatusCode)
			}
			alice.close()
		})
	}
}

// expectOver waits for the end of the response, however that is told, with nothing
// before it.
func (c *testClient) expectOver() {
	c.t.Helper()
	select {
	case m, ok := <-c.messages:
		if ok {
			c.t.Fatalf("event %q, expected the end", m.Data)
		}
	case <-time.After(testTimeout):
		c.t.Fatal("the response did not end")
	}
}

// expectOpen checks that the response goes on.
func (c *testClient) expectOpen() {
	c.t.Helper()
	select {
	case m, ok := <-c.messages:
		c.t.Fatalf("event %q or the end (%v), expected nothing", m.Data, !ok)
	default:
	}
}

// What says nothing of a client does not let it go; the verdict that follows does.
func TestNoVerdictLetsNobodyGo(t *testing.T) {
	for _, said := range []int{http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusRequestTimeout} {
		var status atomic.Int64
		status.Store(http.StatusOK)
		auth := startAuthService(t, statusOf("bob", &status))
		u := startUpstream(t, nil)
		g := startGateway(t, site("forward_auth "+auth.address+" {\nuri /auth\n}\nsse {\nreauthorize 1s\n}\nreverse_proxy "+u.address))
		bob := g.subscribe("/", "User: bob")
		u.accept().numbered("1")
		bob.expect("1")
		before := gather(t)
		status.Store(int64(said))
		eventually(t, "it was asked, twice", func() bool {
			return gather(t).since(before)["reauthorizations_total result=failed"] >= 2
		})
		bob.expectOpen()
		status.Store(http.StatusForbidden)
		bob.expectOver()
	}
}

// An authentication service that is away lets nobody go.
func TestAuthenticationServiceThatIsAwayLetsNobodyGo(t *testing.T) {
	u := startUpstream(t, nil)
	auth := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	g := startGateway(t, site("forward_auth "+auth.Listener.Addr().String()+" {\nuri /auth\n}\nsse {\nreauthorize 1s\n}\nreverse_proxy "+u.address))
	bob := g.subscribe("/")
	up := u.accept()
	before := gather(t)
	auth.Close()
	eventually(t, "it was asked", func() bool {
		return gather(t).since(before)["reauthorizations_total result=failed"] >= 1
	})
	up.numbered("1")
	bob.expect("1")
	bob.close()
}

// Requests that are run again are nobody's: neither the access log has them nor Caddy's
// metrics of requests.
func TestReauthorizingLeavesNoTrace(t *testing.T) {
	globals := testGlobals
	testGlobals = strings.Replace(testGlobals, "admin off", "admin off\nmetrics", 1)
	defer func() { testGlobals = globals }()
	var status atomic.Int64
	status.Store(http.StatusOK)
	auth := startAuthService(t, statusOf("bob", &status))
	u := startUpstream(t, nil)
	log := filepath.Join(t.TempDir(), "log")
	g := startGateway(t, site("log {\noutput file "+log+"\n}\n"+
		"forward_auth "+auth.address+" {\nuri /auth\n}\nsse {\nreauthorize 1s\n}\nreverse_proxy "+u.address))
	bob := g.subscribe("/", "User: bob", "X.With: a dot", "X_With: an underscore")
	u.accept().numbered("1")
	bob.expect("1")
	before := gather(t)
	again := func(result string, n float64) {
		t.Helper()
		eventually(t, "it was run again", func() bool {
			return gather(t).since(before)["reauthorizations_total result="+result] >= n
		})
	}
	again("passed", 2)
	status.Store(http.StatusUnauthorized)
	again("refused", 1)
	bob.expectOver()
	var text []byte
	eventually(t, "the client's own entry is there", func() bool {
		text, _ = os.ReadFile(log) //nolint:gosec // G304: the test's own
		return bytes.Contains(text, []byte("\n"))
	})
	if n := bytes.Count(text, []byte("\n")); n != 1 || !bytes.Contains(text, []byte(`"end_reason":"revoked"`)) {
		t.Errorf("%d entries: %s", n, text)
	}
	if n := countedByCaddy(t); n != 1 {
		t.Errorf("Caddy has counted %v requests", n)
	}
}

// countedByCaddy is how many requests Caddy's own metrics have, of each of its routes
// the most.
func countedByCaddy(t testing.TB) (n float64) {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "caddy_http_requests_total" {
			for _, m := range family.GetMetric() {
				n = max(n, m.GetCounter().GetValue())
			}
		}
	}
	return n
}

// Who the new configuration refuses is let go after a reload, whoever opened the stream;
// the others see nothing of it.
func TestReloadLetsGoWhoIsRefused(t *testing.T) {
	for kind, options := range guestKinds {
		for _, first := range []string{"alice", "bob"} {
			t.Run(kind+", opened by "+first, func(t *testing.T) {
				u1, u2 := startUpstream(t, nil), startUpstream(t, nil)
				config := func(before string, u *upstream) string {
					return site(before + "\nsse {\n" + options + "\n}\nreverse_proxy " + u.address)
				}
				g := startGateway(t, config("", u1))
				second := map[string]string{"alice": "bob", "bob": "alice"}[first]
				clients := map[string]*testClient{first: g.subscribe("/", "User: "+first)}
				ups := map[string]*upstreamClient{first: u1.accept()}
				clients[second] = g.subscribe("/", "User: "+second)
				ups[second] = ups[first]
				if kind == "private" {
					ups[second] = u1.accept()
				}
				before := gather(t)
				g.load(config("@bob header User bob\nrespond @bob 403", u2))
				clients["bob"].expectOver()
				up := ups["alice"]
				if kind != "private" {
					next := u2.accept()
					up.last("1")
					next.numbered("1")
					clients["alice"].expect("1")
					up.expectGone()
					up = next
				}
				up.numbered("2")
				clients["alice"].expect("2")
				eventually(t, "that is counted", func() bool {
					ended := gather(t).since(before)
					return ended["subscribers_ended_total reason=revoked"] == 1 && ended["subscribers_ended_total reason=reload"] == 0
				})
				clients["alice"].close()
			})
		}
	}
}

// A request that was on its way while the configuration went is asked about as well:
// what is kept of it leads to the new one.
func TestKeptRequestIsAsItCame(t *testing.T) {
	tests := []struct {
		target string
		fields []string
	}{
		{"/a%2Fb?x=1&y=%20&lastEventId=7", []string{"Cookie: a=b; c=d", "X-Two: 1", "X-Two: 2", "Last-Event-ID: 7", "X-Colon: a: b"}},
		{"/", nil},
		{"//double", []string{"Host: other.test:8080", "X-Empty: "}},
	}
	for _, tt := range tests {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, tt.target, nil)
		for _, field := range tt.fields {
			name, value, _ := strings.Cut(field, ": ")
			if name == "Host" {
				r.Host = value
				continue
			}
			r.Header.Add(name, value)
		}
		r.RemoteAddr = "192.0.2.1:1234"
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
		h := new(Handler)
		h.policy = key.New(h.keyConfig())
		kept, tooLong := h.keep(r)
		if tooLong {
			t.Fatal("too long")
		}
		again := kept.build(context.Background())
		r.Header.Del("Last-Event-ID")
		want := strings.TrimSuffix(r.URL.RequestURI(), "&lastEventId=7")
		if again.URL.RequestURI() != want || again.RequestURI != want || again.URL.EscapedPath() != r.URL.EscapedPath() {
			t.Errorf("%q: %q", tt.target, again.RequestURI)
		}
		if again.Host != r.Host || again.RemoteAddr != r.RemoteAddr || again.Method != r.Method || again.Proto != r.Proto {
			t.Errorf("%q: %+v", tt.target, again)
		}
		if !maps.EqualFunc(again.Header, r.Header, slices.Equal) {
			t.Errorf("%v, expected %v", again.Header, r.Header)
		}
	}
}

// A request that is too long to be kept cannot be run again: its client comes back and is
// asked.
func TestWhatIsTooLongToKeepIsLetGo(t *testing.T) {
	overHTTP1(t) // over HTTP/2 Caddy refuses such requests, unless max_header_size says otherwise
	u := startUpstream(t, nil)
	config := proxied("share public", u)
	g := startGateway(t, config)
	a := g.subscribe("/", "X-Long: "+strings.Repeat("x", maxKept))
	u.accept()
	b := g.subscribe("/")
	g.load(config)
	a.expectOver()
	u.accept()
	b.expectOpen()
	b.close()
}

// A POST is never repeated, not even up to where sse was.
func TestPostIsNotRunAgain(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site("sse {\nreauthorize 1s\n}\nreverse_proxy "+u.address))
	post := g.request(http.MethodPost, "/answer")
	resp, err := g.client.Do(post)
	if err != nil {
		t.Fatal(err)
	}
	a := newTestClient(t, resp)
	up := u.accept()
	get := g.subscribe("/other")
	other := u.accept()
	g.load(site("sse /none\nreverse_proxy " + u.address)) // there it would be a request of its own
	get.expectOver()
	up.numbered("1")
	a.expect("1")
	for len(u.connections) > 0 {
		if c := u.accept(); c.request.Method == http.MethodPost {
			t.Error("the POST was repeated")
		}
	}
	other.expectGone()
	a.close()
}

// With upstream the application is asked with the client's own request, and its
// connection ended at the head. Nothing of that is a subscriber.
func TestApplicationIsAskedAgain(t *testing.T) {
	var status atomic.Int64
	var asked atomic.Int64
	status.Store(http.StatusOK)
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if r.Header.Get("Cookie") == "session=bob" {
			asked.Add(1)
			if s := int(status.Load()); s != http.StatusOK {
				w.Header().Set("Content-Type", "text/plain")
				w.WriteHeader(s)
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler) // else the head of a stream follows
			}
		}
	})
	g := startGateway(t, site("sse {\nreauthorize 1s upstream\nshare cookies session\n}\nreverse_proxy "+u.address))
	alice := g.subscribe("/", "Cookie: session=alice")
	up := u.accept()
	bob := g.subscribe("/", "Cookie: session=bob", "X-Own: 1")
	u.accept().numbered("1")
	bob.expect("1")
	before := gather(t)
	eventually(t, "both were asked about, twice", func() bool {
		return gather(t).since(before)["reauthorizations_total result=passed"] >= 4
	})
	eventually(t, "what was asked is over", func() bool { open, _ := u.counts(); return open == 2 })
	status.Store(http.StatusBadGateway)
	eventually(t, "the application is away", func() bool {
		return gather(t).since(before)["reauthorizations_total result=failed"] >= 1
	})
	bob.expectOpen()
	status.Store(http.StatusUnauthorized)
	bob.expectOver()
	if resp := g.get("/", "Cookie: session=bob"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the next request is answered with %d", resp.StatusCode)
	}
	up.numbered("2")
	alice.expect("2")
	alice.close()
}

func TestVerdictsOfStatuses(t *testing.T) {
	failed := []int{408, 409, 425, 429, 499, 500, 502, 503, 504, 529}
	for status := 200; status < 600; status++ {
		want := access.Refused
		if status >= 500 || slices.Contains(failed, status) {
			want = access.Unknown
		}
		if verdict, _ := judge(status, nil); verdict != want {
			t.Errorf("before sse, %d: %v", status, verdict)
		}
		if verdict, got := judge(0, caddyhttp.Error(status, nil)); verdict != want || got != status {
			t.Errorf("before sse, error %d: %v", status, verdict)
		}
		a := &applicationAnswer{header: http.Header{}, status: status}
		if verdict := a.verdict(); verdict != want {
			t.Errorf("of the application, %d: %v", status, verdict)
		}
	}
	a := &applicationAnswer{header: http.Header{"Content-Type": {"text/event-stream"}}, status: http.StatusOK}
	if a.verdict() != access.Stays {
		t.Error("an event stream is no refusal")
	}
}

// BenchmarkReauthorize is what it costs to run one client's request again. 10,000
// clients at 60 s are 167 of them a second.
func BenchmarkReauthorize(b *testing.B) {
	for _, before := range []string{"", "basic_auth {\nbob $2a$04$02OmM.cEQ3O2RNotx5munu7gQzpn5PSUMUvktxeTPvwStzKfKwls6\n}\n"} {
		b.Run(map[bool]string{true: "plain", false: "basic_auth"}[before == ""], func(b *testing.B) {
			u := startUpstream(b, nil)
			g := startGateway(b, site(before+"sse {\nreauthorize 1h\n}\nreverse_proxy "+u.address))
			client := g.subscribe("/events?a=1", "Authorization: Basic Ym9iOnNlY3JldA==", "Cookie: session=0123456789abcdef; theme=dark",
				"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Accept-Language: de,en;q=0.5",
				"Referer: https://example.com/page", "Sec-Fetch-Mode: cors", "Sec-Fetch-Site: same-origin", "Cache-Control: no-cache")
			defer client.close()
			var who *guest
			access.Process.Each(func(g *access.Guest) { who = g.Subject.(*guest) })
			b.ReportAllocs()
			for b.Loop() {
				if verdict, status, err := who.ask(); verdict != access.Stays {
					b.Fatal(verdict, status, err)
				}
			}
		})
	}
}

// Of a refusal so much is taken that it may come to its end, and not one that has none.
func TestSoMuchIsTakenOfARefusal(t *testing.T) {
	for _, test := range []struct {
		size  int
		taken bool
	}{{maxRefusal, true}, {maxRefusal + 1, false}} {
		ctx, cancel := context.WithCancel(t.Context())
		v := &verdictWriter{header: make(http.Header), cancel: cancel}
		v.WriteHeader(http.StatusUnauthorized)
		half := test.size / 2
		_, _ = v.Write(make([]byte, half))
		if _, err := v.Write(make([]byte, test.size-half)); (err == nil) != test.taken || (ctx.Err() == nil) != test.taken {
			t.Errorf("%d bytes: %v, %v", test.size, err, ctx.Err())
		}
		cancel()
	}
}
