package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	marksclient "github.com/mark3labs/mcp-go/client"
	marks "github.com/mark3labs/mcp-go/mcp"
	marksserver "github.com/mark3labs/mcp-go/server"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// The SDKs of MCP in Go: the official one, and that of mark3labs.

// toolSteps is how often the tool count tells of its progress.
const toolSteps = 5

// A toolFunc is what a tool of the test's servers does. The context is the call's.
type toolFunc func(ctx context.Context, label string, progress func(step int)) string

// newTools returns the tools of a server.
func newTools(t *testing.T, left chan<- struct{}) map[string]toolFunc {
	t.Helper()
	return map[string]toolFunc{
		"count": func(_ context.Context, label string, progress func(int)) string {
			for step := range toolSteps {
				progress(step + 1)
				time.Sleep(30 * time.Millisecond)
			}
			time.Sleep(300 * time.Millisecond) // what comes with the result, SDKs may drop
			return label + " counted"
		},
		// With one sign of life: the SDK of mark3labs begins an event stream only then.
		"wait": func(_ context.Context, label string, progress func(int)) string {
			progress(1)
			select {
			case <-time.After(4 * time.Second):
			case <-t.Context().Done():
			}
			return label + " waited"
		},
		"forever": func(ctx context.Context, _ string, progress func(int)) string {
			progress(1)
			select {
			case <-ctx.Done():
				left <- struct{}{}
			case <-t.Context().Done():
			}
			return ""
		},
	}
}

// goServer is an MCP server, in the test's process.
type goServer struct {
	*httptest.Server
	// left has something for each request whose client did not wait for the end, and for each
	// call that was cancelled: SDKs close the connection and send a notification, and where
	// that comes first the response ends in order before the connection is found closed.
	left chan struct{}
}

// startGoServer starts one of goServers.
func startGoServer(t *testing.T, newServer func(map[string]toolFunc) http.Handler) *goServer {
	t.Helper()
	s := &goServer{left: make(chan struct{}, 1000)}
	handler := newServer(newTools(t, s.left))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stop := context.AfterFunc(r.Context(), func() { s.left <- struct{}{} })
		handler.ServeHTTP(w, r)
		if stop() && r.Context().Err() != nil { // it has noticed first
			s.left <- struct{}{}
		}
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// goServers are what makes MCP servers: at /mcp without sessions, at /sessions with those that can be resumed, and with
// the older transport at /sse.
var goServers = map[string]func(tools map[string]toolFunc) http.Handler{
	"official":  newOfficialServer,
	"mark3labs": newMarksServer,
}

func newOfficialServer(tools map[string]toolFunc) http.Handler {
	server := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	type arguments struct {
		Label string `json:"label"`
	}
	for name, run := range tools {
		mcp.AddTool(server, &mcp.Tool{Name: name}, func(ctx context.Context, req *mcp.CallToolRequest, args arguments) (*mcp.CallToolResult, any, error) {
			text := run(ctx, args.Label, func(step int) {
				_ = req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{
					ProgressToken: req.Params.GetProgressToken(),
					Progress:      float64(step),
					Message:       fmt.Sprint(args.Label, " ", step),
				})
			})
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil, nil
		})
	}
	choose := func(*http.Request) *mcp.Server { return server }
	mux := http.NewServeMux()
	mux.Handle("/mcp", mcp.NewStreamableHTTPHandler(choose, &mcp.StreamableHTTPOptions{Stateless: true}))
	mux.Handle("/sessions", mcp.NewStreamableHTTPHandler(choose, &mcp.StreamableHTTPOptions{EventStore: mcp.NewMemoryEventStore(nil)}))
	mux.Handle("/sse", mcp.NewSSEHandler(choose, nil))
	return mux
}

func newMarksServer(tools map[string]toolFunc) http.Handler {
	server := marksserver.NewMCPServer("test", "1")
	for name, run := range tools {
		server.AddTool(marks.NewTool(name, marks.WithString("label")), func(ctx context.Context, req marks.CallToolRequest) (*marks.CallToolResult, error) {
			label := req.GetString("label", "")
			return marks.NewToolResultText(run(ctx, label, func(step int) {
				_ = server.SendNotificationToClient(ctx, string(marks.MethodNotificationProgress), map[string]any{
					"progressToken": req.Params.Meta.ProgressToken,
					"progress":      step,
					"message":       fmt.Sprint(label, " ", step),
				})
			})), nil
		})
	}
	sse := marksserver.NewSSEServer(server)
	mux := http.NewServeMux()
	mux.Handle("/mcp", marksserver.NewStreamableHTTPServer(server))
	mux.Handle("/sessions", marksserver.NewStreamableHTTPServer(server, marksserver.WithEventStore(marksserver.NewInMemoryEventStore())))
	mux.Handle("/sse", sse.SSEHandler())
	mux.Handle("/message", sse.MessageHandler())
	return mux
}

// goSession is a client's session.
type goSession struct {
	list     func(ctx context.Context) ([]string, error)
	call     func(ctx context.Context, tool, label string) (string, error)
	close    func() error
	progress chan string // the messages that came with progress notifications

	// anyOrder says that progress notifications may overtake each other. The server of mark3labs keeps those of a
	// session in one queue, and takes from it for the answer to the call, and for the session's other stream if the
	// client has opened that. What goes which way is chance, and they are two connections.
	anyOrder bool
}

// goClients are what connects to a server. The path says with which transport, and the version may be empty: the newest.
var goClients = map[string]func(ctx context.Context, url, path, version string) (*goSession, error){
	"official":  connectOfficial,
	"mark3labs": connectMarks,
}

func connectOfficial(ctx context.Context, url, path, version string) (*goSession, error) {
	s := &goSession{progress: make(chan string, 100)}
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, req *mcp.ProgressNotificationClientRequest) {
			s.progress <- req.Params.Message
		},
	})
	var transport mcp.Transport = &mcp.StreamableClientTransport{Endpoint: url + path}
	if path == "/sse" {
		transport = &mcp.SSEClientTransport{Endpoint: url + path}
	}
	session, err := client.Connect(ctx, transport, &mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		return nil, err
	}
	s.close = session.Close
	s.list = func(ctx context.Context) (names []string, err error) {
		result, err := session.ListTools(ctx, nil)
		if err != nil {
			return nil, err
		}
		for _, tool := range result.Tools {
			names = append(names, tool.Name)
		}
		return names, nil
	}
	s.call = func(ctx context.Context, tool, label string) (string, error) {
		result, err := session.CallTool(ctx, &mcp.CallToolParams{
			Meta: mcp.Meta{"progressToken": label}, Name: tool, Arguments: map[string]any{"label": label},
		})
		if err != nil {
			return "", err
		}
		return result.Content[0].(*mcp.TextContent).Text, nil
	}
	return s, nil
}

func connectMarks(ctx context.Context, url, path, version string) (*goSession, error) {
	s := &goSession{progress: make(chan string, 100)}
	connect := func() (*marksclient.Client, error) { return marksclient.NewStreamableHttpClient(url + path) }
	if path == "/sse" {
		connect = func() (*marksclient.Client, error) { return marksclient.NewSSEMCPClient(url + path) }
	}
	client, err := connect()
	if err != nil {
		return nil, err
	}
	s.close = client.Close
	client.OnNotification(func(n marks.JSONRPCNotification) {
		if message, ok := n.Params.AdditionalFields["message"].(string); ok {
			s.progress <- message
		}
	})
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	var hello marks.InitializeRequest
	hello.Params.ProtocolVersion = version
	hello.Params.ClientInfo = marks.Implementation{Name: "test", Version: "1"}
	if _, err := client.Initialize(ctx, hello); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	s.list = func(ctx context.Context) (names []string, err error) {
		result, err := client.ListTools(ctx, marks.ListToolsRequest{})
		if err != nil {
			return nil, err
		}
		for _, tool := range result.Tools {
			names = append(names, tool.Name)
		}
		return names, nil
	}
	s.call = func(ctx context.Context, tool, label string) (string, error) {
		var req marks.CallToolRequest
		req.Params.Name = tool
		req.Params.Arguments = map[string]any{"label": label}
		req.Params.Meta = &marks.Meta{ProgressToken: label}
		result, err := client.CallTool(ctx, req)
		if err != nil {
			return "", err
		}
		return result.Content[0].(marks.TextContent).Text, nil
	}
	return s, nil
}

// awaitProgress waits for the next progress notification.
func (s *goSession) awaitProgress(want string) error {
	_, err := s.awaitOneOf([]string{want})
	return err
}

// awaitOneOf waits for the next of several progress notifications, and returns those that are still to come.
func (s *goSession) awaitOneOf(all []string) (left []string, err error) {
	select {
	case got := <-s.progress:
		at := slices.Index(all, got)
		if at < 0 || (at > 0 && !s.anyOrder) {
			return nil, fmt.Errorf("progress %q, expected %q", got, all)
		}
		return slices.Delete(all, at, at+1), nil
	case <-time.After(testTimeout):
		return nil, fmt.Errorf("no progress %q", all)
	}
}

// count calls the tool that tells of its progress. after is called after its second step.
func (s *goSession) count(ctx context.Context, label string, after func()) error {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := s.call(ctx, "count", label)
		done <- result{text, err}
	}()
	var left []string
	for step := range toolSteps {
		left = append(left, fmt.Sprint(label, " ", step+1))
	}
	for len(left) > 0 {
		if len(left) == toolSteps-2 {
			after()
		}
		var err error
		if left, err = s.awaitOneOf(left); err != nil {
			return err
		}
	}
	r := <-done
	if want := label + " counted"; r.err == nil && r.text != want {
		return fmt.Errorf("result %q, expected %q", r.text, want)
	}
	return r.err
}

// goVariants are the transports, and revisions of the protocol, that the SDKs are tested with.
var goVariants = []struct{ name, path, version string }{
	{name: "newest", path: "/mcp"},
	{name: "2025-11-25", path: "/sessions", version: "2025-11-25"},
	{name: "HTTP+SSE", path: "/sse"},
}

// Issue 5: MCP with the SDKs in Go, each with each.
func TestMCPGoSDKs(t *testing.T) {
	t.Parallel()
	for serverName, newServer := range goServers {
		t.Run(serverName+" server", func(t *testing.T) {
			u := startGoServer(t, newServer)
			g := startGateway(t, unlogged+"sse\nreverse_proxy "+u.Listener.Addr().String())
			for clientName, connect := range goClients {
				for _, variant := range goVariants {
					t.Run(clientName+" client, "+variant.name, func(t *testing.T) {
						connectTo := func(url string) *goSession {
							s, err := connect(t.Context(), url, variant.path, variant.version)
							if err != nil {
								t.Fatal(err)
							}
							t.Cleanup(func() { _ = s.close() })
							s.anyOrder = serverName == "mark3labs" && variant.version != ""
							return s
						}
						testGoSessions(t, connectTo(g.url("")), connectTo(g.url("")))
						// Others do not come back by themselves.
						if serverName == "official" && clientName == "official" && variant.version != "" {
							cutter := startForwarder(t, g.address)
							if err := connectTo(cutter.url("")).count(t.Context(), "cut", cutter.cut); err != nil {
								t.Error(err)
							}
						}
						testGoCancel(t, connectTo(g.url("")), variant.path == "/sse", u)
					})
				}
			}
		})
	}
}

// testGoSessions tests two sessions at once.
func testGoSessions(t *testing.T, sessions ...*goSession) {
	t.Helper()
	together(t, len(sessions), func(i int) error {
		names, err := sessions[i].list(t.Context())
		if err != nil {
			return err
		}
		slices.Sort(names)
		if strings.Join(names, " ") != "count forever wait" {
			return fmt.Errorf("tools %v", names)
		}
		return sessions[i].count(t.Context(), fmt.Sprint("session ", i), func() {})
	})
}

// testGoCancel cancels a call: its connection is closed. With the older transport the session's is, when it is closed.
//
// The client of mark3labs does no more than that, which with sessions is no cancellation: the call runs on, and the
// official server waits for it when the client closes the session. The client gives that up after five seconds, and
// says so. Without a gateway it is the same.
func testGoCancel(t *testing.T, s *goSession, older bool, u *goServer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.call(ctx, "forever", "cancelled")
		ended <- err
	}()
	if err := s.awaitProgress("cancelled 1"); err != nil {
		t.Error(err)
	}
	for len(u.left) > 0 {
		<-u.left
	}
	begun := time.Now()
	cancel()
	if older {
		_ = s.close()
	}
	select {
	case <-u.left:
		t.Logf("noticed after %v", time.Since(begun))
	case <-time.After(testTimeout):
		t.Error("the server has not noticed")
	}
	if err := <-ended; err == nil {
		t.Error("the call has a result")
	}
}

// A tool that is silent for longer than a proxy on the way has patience.
func TestMCPGoSDKsHeartbeats(t *testing.T) {
	t.Parallel()
	for name, newServer := range goServers {
		for _, heartbeat := range []string{"150ms", "off"} {
			t.Run(name+" "+heartbeat, func(t *testing.T) {
				t.Parallel()
				u := startGoServer(t, newServer)
				g := startGateway(t, unlogged+"sse {\nheartbeat "+heartbeat+"\n}\nreverse_proxy "+u.Listener.Addr().String())
				together(t, len(goVariants), func(i int) error {
					variant := goVariants[i]
					front := startFront(t, g.address)
					s, err := goClients[name](t.Context(), front.URL, variant.path, variant.version)
					if err != nil {
						return err
					}
					if heartbeat == "off" {
						go func() { _, _ = s.call(t.Context(), "wait", "client") }()
						return front.awaitCut()
					}
					defer func() { _ = s.close() }()
					got, err := s.call(t.Context(), "wait", "client")
					if n := front.cuts(); n > 0 || got != "client waited" {
						return fmt.Errorf("%s: result %q (%w), %d responses cut", variant.name, got, err, n)
					}
					return err
				})
			})
		}
	}
}
