package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mcpTransport is a transport of MCP: what the reference server and the test's client of the SDK call it.
type mcpTransport struct{ name, server, client, path string }

var mcpTransports = []mcpTransport{
	{"streamable HTTP", "streamableHttp", "http", "/mcp"},
	{"HTTP+SSE", "sse", "sse", "/sse"},
}

// startEverything starts the reference server.
func startEverything(t *testing.T, transport mcpTransport) *upstream {
	t.Helper()
	return startUpstream(t, "everything "+transport.server, command(nodePath, "upstreams/everything.mjs", transport.server))
}

// startMCP starts a client of the TypeScript SDK.
func startMCP(t *testing.T, url, transport, action string) *process {
	t.Helper()
	return startNode(t, "clients/mcp.mjs", url, transport, action)
}

// Issue 5: MCP with the reference server and the TypeScript SDK.
func TestMCP(t *testing.T) {
	t.Parallel()
	for _, transport := range mcpTransports {
		t.Run(transport.name, func(t *testing.T) {
			t.Parallel()
			u := startEverything(t, transport)
			g := startGateway(t, unlogged+"sse\nreverse_proxy "+u.address)
			t.Run("tools", func(t *testing.T) { testMCPTools(t, u, g, transport) })
			t.Run("close", func(t *testing.T) { testMCPClose(t, u, g, transport) })
			if transport.client == "sse" {
				t.Run("sessions", func(t *testing.T) { testMCPSessions(t, g) })
			}
		})
	}
}

// testMCPTools checks that two sessions at once yield through the gateway what they yield without it.
func testMCPTools(t *testing.T, u *upstream, g *gateway, transport mcpTransport) {
	t.Helper()
	direct := startMCP(t, "http://"+u.address+transport.path, transport.client, "tools")
	through := startMCP(t, g.url(transport.path), transport.client, "tools")
	for _, label := range []string{"one", "two"} {
		for result, part := range map[string]string{
			"list":     "trigger-long-running-operation",
			"progress": `{"progress":3,"total":`,
			"echo":     "Echo: " + label + " 19",
			"failure":  "no such tool",
		} {
			want, got := direct.awaitEvent(result+" "+label, 1).Data, through.awaitEvent(result+" "+label, 1).Data
			if !strings.Contains(want, part) {
				t.Errorf("%s %s: %s\nwithout the gateway, expected it to contain %s", result, label, want, part)
			}
			if got != want {
				t.Errorf("%s %s: %s\nwithout the gateway: %s", result, label, got, want)
			}
		}
	}
	// Each session had a stream of its own, which ended with it.
	u.await("4 streams closed", func(all []report) bool { return len(onlyMethod(only(all, "close"), http.MethodGet)) == 4 })
	if streams := onlyMethod(u.all("open"), http.MethodGet); len(streams) != 4 {
		t.Errorf("%d streams, expected one for each of 4 sessions", len(streams))
	}
}

func onlyMethod(reports []report, method string) (some []report) {
	for _, r := range reports {
		if r.Method == method {
			some = append(some, r)
		}
	}
	return some
}

// testMCPClose lets a client close its session while a tool runs: the server sees all its connections closed.
func testMCPClose(t *testing.T, u *upstream, g *gateway, transport mcpTransport) {
	t.Helper()
	c := startMCP(t, g.url(transport.path), transport.client, "close")
	c.awaitEvent("running", 1)
	c.tell("leave")
	left := c.awaitEvent("left", 1)
	all := u.await("all connections closed", func(all []report) bool { return len(only(all, "close")) == len(only(all, "open")) })
	unfinished := 0
	for _, closed := range only(all, "close") {
		if !closed.Finished && closed.At >= left.At {
			unfinished++
			t.Logf("%s %s: noticed after %v", closed.Method, closed.Path, time.Duration(closed.At-left.At))
		}
	}
	if unfinished == 0 {
		t.Error("no response was cut")
	}
}

// testMCPSessions lets clients of the older transport ask for the same URL at once, with nothing to tell them apart.
// Each gets a session of its own.
func testMCPSessions(t *testing.T, g *gateway) {
	t.Helper()
	const clients = 10
	endpoints := make([]string, clients)
	together(t, clients, func(i int) error {
		f, err := tryFollow(t, newTransport(), "client", g.url("/sse"), "")
		if err != nil {
			return err
		}
		if err := f.until("the first event", func() bool { return len(f.events()) > 0 }); err != nil {
			return err
		}
		if first := f.events()[0]; first.kind == "endpoint" {
			endpoints[i] = first.data
		}
		return nil
	})
	seen := make(map[string]bool)
	for i, endpoint := range endpoints {
		if !strings.HasPrefix(endpoint, "/message?sessionId=") || seen[endpoint] {
			t.Errorf("client %d has the endpoint %q, after %v", i, endpoint, seen)
		}
		seen[endpoint] = true
	}
}

// A tool that is silent for longer than a proxy on the way has patience.
func TestMCPHeartbeats(t *testing.T) {
	t.Parallel()
	for _, transport := range mcpTransports {
		for _, heartbeat := range []string{"150ms", "off"} {
			t.Run(transport.name+" "+heartbeat, func(t *testing.T) {
				t.Parallel()
				u := startEverything(t, transport)
				g := startGateway(t, unlogged+"sse {\nheartbeat "+heartbeat+"\n}\nreverse_proxy "+u.address)
				front := startFront(t, g.address)
				c := startMCP(t, front.URL+transport.path, transport.client, "silent")
				if heartbeat == "off" {
					if err := front.awaitCut(); err != nil {
						t.Error(err)
					}
					return
				}
				if got := c.awaitEvent("silent", 1).Data; !strings.Contains(got, "completed. Duration: 4 seconds") {
					t.Errorf("result %s", got)
				}
				if n := front.cuts(); n > 0 {
					t.Errorf("%d streams were cut", n)
				}
			})
		}
	}
}

// Sessions that can be resumed.
func TestMCPResumable(t *testing.T) {
	t.Parallel()
	u := startUpstream(t, "mcp", command(nodePath, "upstreams/mcp.mjs"))
	g := startGateway(t, unlogged+"sse\nreverse_proxy "+u.address)
	t.Run("announce", func(t *testing.T) { testMCPAnnounce(t, u, g) })
	t.Run("resume", func(t *testing.T) { testMCPResume(t, u, g, "resume", 10) })
	t.Run("poll", func(t *testing.T) { testMCPResume(t, u, g, "poll", 6) })
	t.Run("priming event", func(t *testing.T) { testMCPPriming(t, g) })
}

// testMCPAnnounce checks that the stream of a session is never given to another.
func testMCPAnnounce(t *testing.T, u *upstream, g *gateway) {
	t.Helper()
	c := startMCP(t, g.url("/mcp"), "http", "announce")
	u.await("two streams", func(all []report) bool { return len(onlyMethod(only(all, "open"), http.MethodGet)) == 2 })
	c.tell("announce")
	var announced map[string][]string
	if err := json.Unmarshal([]byte(c.awaitEvent("announced", 1).Data), &announced); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"one", "two"} {
		if got := announced[label]; len(got) != 10 {
			t.Errorf("%s got %q", label, got)
		}
		for i, text := range announced[label] {
			if want := fmt.Sprint(label, " ", i); text != want {
				t.Errorf("%s got %q, expected %q", label, text, want)
			}
		}
	}
}

// testMCPResume checks that a client whose connection is cut (resume), or ended by the server (poll), comes back with the
// server's event ID, which the gateway passes on, and gets what it has missed.
func testMCPResume(t *testing.T, u *upstream, g *gateway, action string, steps int) {
	t.Helper()
	before := len(u.all("open"))
	cutter := startForwarder(t, g.address)
	c := startMCP(t, cutter.url("/mcp"), "http", action)
	if action == "resume" {
		c.awaitEvent("progress 3", 1)
		cutter.cut()
	}
	got := c.awaitEvent("counted", 1).Data
	var counted struct {
		Seen []struct{ Progress int }
	}
	if err := json.Unmarshal([]byte(got), &counted); err != nil {
		t.Fatal(err)
	}
	var progress []int
	for _, step := range counted.Seen {
		progress = append(progress, step.Progress)
	}
	if err := checkRun(progress, 1, steps-1); err != nil {
		t.Errorf("%s: %v", got, err)
	}
	if want := fmt.Sprint("counted to ", steps); !strings.Contains(got, want) {
		t.Errorf("%s, expected %q", got, want)
	}
	resumed := 0
	for _, open := range onlyMethod(u.all("open")[before:], http.MethodGet) {
		if open.LastEventID != "" {
			resumed++
		}
	}
	if resumed == 0 {
		t.Error("no last event ID has reached the server")
	}
}

// testMCPPriming checks that the first event of a response that can be resumed, with an ID, a reconnection time and no
// data, passes as it is.
func testMCPPriming(t *testing.T, g *gateway) {
	t.Helper()
	const initialize = `{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
		"capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url("/mcp"), strings.NewReader(initialize))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	got := answer(req)
	if !regexp.MustCompile(`^id: [\w-]+\nretry: 100\ndata: \n\nevent: message\nid: [\w-]+\ndata: \{"result":.*\}\n\n$`).MatchString(got) {
		t.Errorf("%q", got)
	}
}
