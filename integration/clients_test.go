package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"testing"
)

// Issue 3, acceptance 6: clients that people use resume across connections that are cut in the middle.
func TestRealClients(t *testing.T) {
	t.Parallel()
	plain := startTicker(t, "-interval=25ms")
	numbered := startTicker(t, "-interval=25ms", "-ids=all")
	pages := startPages(t)
	g := startGateway(t,
		route("/plain", "retry 50ms", "reverse_proxy "+plain.address)+
			route("/ids", "retry 50ms", "reverse_proxy "+numbered.address)+
			"handle /page.html {\nreverse_proxy "+pages.Listener.Addr().String()+"\n}\n")
	t.Cleanup(func() { // all that was missed came from the replay buffer
		for _, u := range []*upstream{plain, numbered} {
			for _, open := range u.all("open") {
				if open.LastEventID != "" {
					t.Errorf("%s was asked for what is after %q", u.name, open.LastEventID)
				}
			}
		}
	})
	clients := []struct {
		name  string
		start func(t *testing.T, name string, through *forwarder, path string) *process
	}{
		{"eventsource", startNodeClient},
		{"eventsource-parser", startNodeClient},
		{"fetch-event-source", startNodeClient},
		{"event-source-polyfill", startNodeClient},
		{"chromium", startChromium},
	}
	for _, client := range clients {
		for _, path := range []string{"/plain", "/ids"} {
			t.Run(client.name+path, func(t *testing.T) {
				t.Parallel()
				through := startForwarder(t, g.address)
				c := client.start(t, client.name, through, path)
				testRealClient(t, c, through)
			})
		}
	}
}

func startNodeClient(t *testing.T, name string, through *forwarder, path string) *process {
	t.Helper()
	return startNode(t, "clients/"+name+".mjs", through.url(path))
}

// testRealClient cuts a client's connection in two ways while events come.
func testRealClient(t *testing.T, c *process, through *forwarder) {
	t.Helper()
	const events = 20 // between cuts
	had := 0
	for cut := range 3 {
		if cut > 0 {
			through.cut()
			through.awaitConnections(t, cut+1)
		}
		had = len(c.all("message")) + events
		c.awaitEvent("message", had)
	}
	if n := through.connections(); n < 3 {
		t.Errorf("%d connections, expected one after each of 2 cuts", n)
	}
	var got []int
	for _, message := range c.all("message") {
		n, err := strconv.Atoi(message.Data)
		if err != nil {
			t.Fatal(err)
		}
		if message.ID == "" {
			t.Errorf("event %d has no id", n)
		}
		got = append(got, n)
	}
	if err := checkRun(got, 0, got[0]+had-1); err != nil {
		t.Error(err)
	}
	t.Logf("%d connections, %d events", through.connections(), len(got))
}

// startPages serves clients/page.html.
func startPages(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, "clients/page.html")
	}))
	t.Cleanup(server.Close)
	return server
}

// startChromium opens clients/page.html, of the gateway's site, in a real browser. What it reports counts as the
// standard output of the process.
func startChromium(t *testing.T, _ string, through *forwarder, path string) *process {
	t.Helper()
	started := make(chan *process, 1)
	// The reports do not take the way that is cut.
	reports := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var message report
		if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
			t.Errorf("report of the browser: %v", err)
			return
		}
		p := <-started
		started <- p
		p.add(message)
	}))
	t.Cleanup(reports.Close)
	page := through.url("/page.html?" + url.Values{"stream": {path}, "report": {reports.URL}}.Encode())
	profile, err := os.MkdirTemp(workDir, "chromium") //nolint:usetesting // its processes may write there while they end
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(chromiumPath, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--disable-extensions", "--disable-breakpad", "--no-proxy-server", "--user-data-dir="+profile, page)
	browser := start(t, fmt.Sprint("chromium ", path), cmd, syscall.SIGTERM)
	started <- browser
	return browser
}
