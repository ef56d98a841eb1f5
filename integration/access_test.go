package integration

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

var accessClients = flag.Int("access.clients", 100, "how many clients lose access at once")

// The password "secret" of alice and bob, and another one of alice.
const (
	secretHash = "$2a$04$02OmM.cEQ3O2RNotx5munu7gQzpn5PSUMUvktxeTPvwStzKfKwls6"
	otherHash  = "$2a$14$vux2.F.t9K8qxMixpAoSseNp9pQkte/t7WevAXYlAZ/JfX6UcQsCi"
)

// accessApp is an application with sessions: each of its clients gets a number in each tick, and a POST to /logout takes
// back the session that it comes with.
type accessApp struct {
	*httptest.Server

	over sync.Map // sessions, by cookie
}

func startAccessApp(t *testing.T) *accessApp {
	t.Helper()
	app := new(accessApp)
	app.Server = httptest.NewServer(app)
	t.Cleanup(func() {
		app.CloseClientConnections()
		app.Close()
	})
	return app
}

func (a *accessApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	session := ""
	if cookie, err := r.Cookie("session"); err == nil {
		session = cookie.Value
	}
	if r.URL.Path == "/logout" {
		a.over.Store(session, true)
		w.Header().Set("SSE-Revoke", session)
		return
	}
	if _, over := a.over.Load(session); over {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for n := 1; r.Context().Err() == nil; n++ {
		fmt.Fprintf(w, "id: %d\ndata: %d\n\n", n, n)
		_ = http.NewResponseController(w).Flush()
		time.Sleep(20 * time.Millisecond) // the application's rate
	}
}

// visitor is a client with credentials.
type visitor struct {
	t      *testing.T
	events atomic.Int64
	over   chan struct{}
	ended  time.Time // before over is closed
}

func visit(t *testing.T, url, field string) *visitor {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	resp := request(ctx, t, http.MethodGet, url, field)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", field, resp.Status)
	}
	v := &visitor{t: t, over: make(chan struct{})}
	go func() {
		defer close(v.over)
		defer resp.Body.Close()
		for _, err := range eventstream.NewReader(resp.Body).Messages() {
			if err != nil {
				break
			}
			v.events.Add(1)
		}
		v.ended = time.Now()
	}()
	v.awaitMore()
	return v
}

// request asks with a header field, over a connection of its own.
func request(ctx context.Context, t *testing.T, method, url, field string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	name, value, _ := strings.Cut(field, ": ")
	req.Header.Set(name, value)
	req.Header.Set("Accept", "text/event-stream")
	transport := newTransport()
	transport.DisableKeepAlives = true
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// awaitMore waits until more events have come: the response goes on.
func (v *visitor) awaitMore() {
	v.t.Helper()
	for seen, late := v.events.Load(), time.Now().Add(testTimeout); v.events.Load() < seen+2; {
		select {
		case <-v.over:
			v.t.Fatal("the response is over")
		case <-time.After(5 * time.Millisecond): // polls
		}
		if time.Now().After(late) {
			v.t.Fatal("no event comes")
		}
	}
}

// awaitOver waits for the end of the response.
func (v *visitor) awaitOver() time.Time {
	v.t.Helper()
	select {
	case <-v.over:
	case <-time.After(testTimeout):
		v.t.Fatal("the response goes on")
	}
	return v.ended
}

// lose lets clients and others come, takes the access of the clients away, and waits until they are let go. It tells how
// long that took: of the last one, and of the median.
func lose(t *testing.T, g *gateway, client, other string, takeAway func()) {
	t.Helper()
	var clients []*visitor
	for range *accessClients {
		clients = append(clients, visit(t, g.url("/events"), client))
	}
	others := []*visitor{visit(t, g.url("/events"), other), visit(t, g.url("/events"), other)}
	takeAway()
	began := time.Now()
	var took []time.Duration
	for _, v := range clients {
		took = append(took, v.awaitOver().Sub(began))
	}
	slices.Sort(took)
	t.Logf("%d clients were let go within %v (median %v)", len(took), took[len(took)-1], took[len(took)/2])
	resp := request(t.Context(), t, http.MethodGet, g.url("/events"), client)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the next request is answered with %s", resp.Status)
	}
	for _, v := range others {
		v.awaitMore()
	}
}

// Issue 17, acceptance 5: who loses access is let go, and others see nothing of it.
func TestAccessEnds(t *testing.T) {
	t.Parallel()
	const alice, bob = "Authorization: Basic YWxpY2U6c2VjcmV0", "Authorization: Basic Ym9iOnNlY3JldA=="
	t.Run("basic_auth, by a reload", func(t *testing.T) {
		t.Parallel()
		app := startAccessApp(t)
		config := func(hash string) string {
			return "basic_auth /events {\nalice " + hash + "\nbob " + secretHash + "\n}\nsse {\nshare public\n}\nreverse_proxy " + app.Listener.Addr().String()
		}
		g := gatewaySetup{program: plainPath, directives: config(secretHash)}.start(t)
		lose(t, g, alice, bob, func() { g.reload(config(otherHash)) })
	})
	t.Run("forward_auth", func(t *testing.T) {
		t.Parallel()
		app := startAccessApp(t)
		var status atomic.Int64
		status.Store(http.StatusOK)
		auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == strings.TrimPrefix(alice, "Authorization: ") {
				w.WriteHeader(int(status.Load()))
			}
		}))
		t.Cleanup(auth.Close)
		g := gatewaySetup{program: plainPath, directives: "forward_auth " + auth.Listener.Addr().String() + " {\nuri /auth\n}\nsse {\nreauthorize 5s\n}\nreverse_proxy " +
			app.Listener.Addr().String()}.start(t)
		lose(t, g, alice, bob, func() { status.Store(http.StatusUnauthorized) })
	})
	for _, option := range []string{"revoke_by {cookie.session}", "reauthorize 5s upstream"} {
		t.Run("session of the application, "+option, func(t *testing.T) {
			t.Parallel()
			app := startAccessApp(t)
			g := gatewaySetup{program: plainPath, directives: "sse {\nshare cookies session\n" + option + "\n}\nreverse_proxy " + app.Listener.Addr().String()}.start(t)
			lose(t, g, "Cookie: session=alice", "Cookie: session=bob", func() {
				resp := request(t.Context(), t, http.MethodPost, g.url("/logout"), "Cookie: session=alice")
				_ = resp.Body.Close()
				if passed := resp.Header.Get("SSE-Revoke") != ""; passed != strings.HasPrefix(option, "reauthorize") {
					t.Errorf("SSE-Revoke passes: %s", strconv.FormatBool(passed))
				}
			})
		})
	}
}
