package natsbus

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// These tests run whole gateways: processes, as an operator has them, with clients and an
// application that counts its connections.

// caddyBinary is the Caddy of cmd/caddy, which is built once.
var caddyBinary = sync.OnceValues(func() (string, error) {
	if built := os.Getenv("CADDY_SSE_CLUSTER_CADDY"); built != "" {
		return built, nil
	}
	dir, err := os.MkdirTemp("", "caddy-sse-cluster")
	if err != nil {
		return "", err
	}
	atEnd = append(atEnd, func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "caddy")
	out, err := exec.Command("go", "build", "-o", path, "./cmd/caddy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// app is an application that sends numbered events to all its connections.
type app struct {
	server *httptest.Server
	ids    bool // it gives ids, and goes on after Last-Event-ID

	connections atomic.Int32

	mu      sync.Mutex
	events  int // sent so far
	changed chan struct{}
}

func startApp(t *testing.T, ids bool) *app {
	t.Helper()
	a := &app{ids: ids, changed: make(chan struct{})}
	a.server = httptest.NewServer(a)
	t.Cleanup(func() {
		a.server.CloseClientConnections()
		a.server.Close()
	})
	return a
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.connections.Add(1)
	defer a.connections.Add(-1)
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	flusher := http.NewResponseController(w)
	_ = flusher.Flush()
	at, _ := a.now()
	if last, err := strconv.Atoi(r.Header.Get("Last-Event-ID")); a.ids && err == nil {
		at = last
	}
	for {
		upTo, next := a.now()
		for ; at < upTo; at++ {
			if a.ids {
				fmt.Fprintf(w, "id: %d\n", at+1)
			}
			fmt.Fprintf(w, "data: %d\n\n", at+1)
		}
		if flusher.Flush() != nil {
			return
		}
		select {
		case <-next:
		case <-r.Context().Done():
			return
		}
	}
}

func (a *app) now() (events int, changed chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.events, a.changed
}

// send sends events, and returns the number of the last.
func (a *app) send(count int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events += count
	close(a.changed)
	a.changed = make(chan struct{})
	return a.events
}

// gateway is one process.
type gateway struct {
	command *exec.Cmd
	socket  string
	client  *http.Client
	route   string
}

// startGateways starts gateways that are a cluster, in front of an application.
func startGateways(t *testing.T, a *app, count int) []*gateway {
	t.Helper()
	var routes []string
	for range count {
		routes = append(routes, freeAddress(t))
	}
	gateways := make([]*gateway, count)
	for i := range gateways {
		gateways[i] = startGateway(t, a, routes[i], routes)
	}
	for _, g := range gateways {
		await(t, "the cluster", func() bool {
			return strings.Contains(g.logged(), fmt.Sprintf(`"others":%d`, count-1))
		})
	}
	return gateways
}

// startGateway starts one, which the test's end kills.
func startGateway(t *testing.T, a *app, listen string, routes []string) *gateway {
	t.Helper()
	binary, err := caddyBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	g := &gateway{socket: filepath.Join(dir, "http.sock"), route: listen}
	config := filepath.Join(dir, "Caddyfile")
	text := fmt.Sprintf(`{
	admin off
	persist_config off
	grace_period 5s
	log {
		output file %s
	}
	sse_cluster nats {
		embedded {
			listen %s
			routes %s
		}
		secret {env.SSE_CLUSTER_SECRET}
	}
}
http:// {
	bind unix/http.sock
	sse {
		share public
		join live
		linger 1s
	}
	reverse_proxy %s
}
`, filepath.Join(dir, "log"), listen, strings.Join(routes, " "), a.server.Listener.Addr())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g.command = exec.Command(binary, "run", "--adapter", "caddyfile", "--config", config)
	g.command.Dir = dir // the sockets have the same name: what differs between nodes would keep them apart
	g.command.Env = append(os.Environ(), "SSE_CLUSTER_SECRET="+testSecret, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if err := g.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.kill()
		if t.Failed() {
			t.Logf("log of the gateway at %s:\n%s", listen, g.logged())
		}
	})
	g.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.socket)
		},
	}}
	await(t, "the gateway", func() bool {
		c, err := net.Dial("unix", g.socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return g
}

func (g *gateway) logged() string {
	text, _ := os.ReadFile(filepath.Join(filepath.Dir(g.socket), "log"))
	return string(text)
}

func (g *gateway) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := g.command.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// kill is what no process can prepare for.
func (g *gateway) kill() {
	_ = g.command.Process.Signal(syscall.SIGKILL)
	_ = g.command.Wait()
}

// client reads an event stream as EventSource does: when its response ends it comes back,
// with the last ID.
type client struct {
	of     *gateway
	cancel context.CancelFunc
	ended  chan struct{}

	mu     sync.Mutex
	resume []string // what each response says of resuming
	id     string
	data   []string
}

// connect connects a client that had an event last.
func (g *gateway) connect(t *testing.T, lastID string) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &client{of: g, cancel: cancel, ended: make(chan struct{}), id: lastID}
	response, err := c.request(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go c.run(ctx, response)
	t.Cleanup(c.leave)
	return c
}

func (c *client) request(ctx context.Context) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway/events", http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "text/event-stream")
	if id := c.lastID(); id != "" {
		r.Header.Set("Last-Event-ID", id)
	}
	response, err := c.of.client.Do(r)
	if err == nil && response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("status %s", response.Status)
	}
	return response, err
}

func (c *client) run(ctx context.Context, response *http.Response) {
	defer close(c.ended)
	for {
		if response != nil {
			c.read(response)
		}
		select {
		case <-time.After(100 * time.Millisecond): // as EventSource waits, less patiently
		case <-ctx.Done():
			return
		}
		response, _ = c.request(ctx) // a gateway that is gone refuses
	}
}

func (c *client) read(response *http.Response) {
	defer response.Body.Close()
	c.mu.Lock()
	c.resume = append(c.resume, response.Header.Get("SSE-Resume"))
	c.mu.Unlock()
	lines := bufio.NewScanner(response.Body)
	id, data := c.lastID(), ""
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			id = text
		}
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			data = text
		}
		if lines.Text() == "" { // the block is whole
			c.mu.Lock()
			c.id = id
			if data != "" {
				c.data = append(c.data, data)
			}
			c.mu.Unlock()
			data = ""
		}
	}
}

func (c *client) resumed() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.resume)
}

func (c *client) leave() {
	c.cancel()
	<-c.ended
}

func (c *client) lastID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

func (c *client) events() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.data)
}

// awaitEvent waits until a client has an event.
func (c *client) awaitEvent(t *testing.T, number int) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("a client of the gateway at %s had %v, and was told %q", c.of.route, c.events(), c.resumed())
		}
	}()
	await(t, fmt.Sprintf("event %d", number), func() bool { return slices.Contains(c.events(), strconv.Itoa(number)) })
}

// settle sends events until all clients have one, so that each has an ID to come back with,
// and the gateways have agreed on who has the connection.
func (a *app) settle(t *testing.T, clients ...*client) {
	t.Helper()
	await(t, "all clients", func() bool {
		last := strconv.Itoa(a.send(1))
		time.Sleep(50 * time.Millisecond) // the next event is not due
		for _, c := range clients {
			if !slices.Contains(c.events(), last) {
				return false
			}
		}
		return a.connections.Load() == 1
	})
	for _, c := range clients {
		c.forget()
	}
}

// forget forgets which events a client had.
func (c *client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = nil
}

// expect fails unless the client had each event of a range once, in order.
func (c *client) expect(t *testing.T, from, to int) {
	t.Helper()
	c.awaitEvent(t, to)
	var want []string
	for i := from; i <= to; i++ {
		want = append(want, strconv.Itoa(i))
	}
	if got := c.events(); !slices.Equal(got, want) {
		t.Errorf("a client had %v, expected %d to %d", got, from, to)
	}
}

// awaitConnections waits until the application has so many connections.
func (a *app) awaitConnections(t *testing.T, count int32) {
	t.Helper()
	await(t, fmt.Sprintf("%d upstream connections (there are %d)", count, a.connections.Load()), func() bool { return a.connections.Load() == count })
}

// bothIDs runs a test with an application that gives ids, and with one that does not.
func bothIDs(t *testing.T, test func(t *testing.T, a *app)) {
	t.Helper()
	for _, ids := range []bool{true, false} {
		t.Run(fmt.Sprintf("upstream_ids=%t", ids), func(t *testing.T) { test(t, startApp(t, ids)) })
	}
}

// All clients of all gateways share one connection; each has every event once, in order;
// and one that moves to another gateway goes on there.
func TestGatewaysShareOneConnection(t *testing.T) {
	bothIDs(t, func(t *testing.T, a *app) {
		gateways := startGateways(t, a, 3)
		var clients []*client
		for range 20 {
			for _, g := range gateways {
				clients = append(clients, g.connect(t, ""))
			}
		}
		a.settle(t, clients...)
		first := a.send(1)
		last := 0
		for range 100 {
			last = a.send(1)
		}
		for _, c := range clients {
			c.expect(t, first, last)
		}
		for i, c := range clients[:3] {
			c.leave()
			last := a.send(10)
			moved := gateways[(i+1)%3].connect(t, c.lastID())
			moved.expect(t, last-9, last)
			if told := moved.resumed(); slices.Contains(told, "gap") {
				t.Errorf("a client that moved is told %q", told)
			}
			a.send(1)
			moved.expect(t, last-9, last+1)
			clients[i+1].awaitEvent(t, last+1) // which moves next
		}
		if n := a.connections.Load(); n != 1 {
			t.Errorf("%d upstream connections", n)
		}
	})
}

// loseOwner starts three gateways with a client each, of which the first has the upstream
// connection, lets something happen to that, and expects that the clients of the others
// have all events, once and in order, and one connection serves them.
func loseOwner(t *testing.T, lose func(t *testing.T, owner *gateway)) (a *app, clients []*client, first int) {
	t.Helper()
	a = startApp(t, true)
	gateways := startGateways(t, a, 3)
	clients = append(clients, gateways[0].connect(t, ""))
	a.awaitConnections(t, 1)
	clients = append(clients, gateways[1].connect(t, ""), gateways[2].connect(t, ""))
	a.settle(t, clients...)
	first = a.send(1)
	last := a.send(9)
	for _, c := range clients {
		c.awaitEvent(t, last)
	}
	lose(t, gateways[0])
	for range 3 {
		last = a.send(10)
		for _, c := range clients[1:] {
			c.expect(t, first, last)
		}
	}
	return a, clients, first
}

// When the gateway that has the connection is killed, another one takes over. With ids of
// the application nobody misses an event: neither the other gateways' clients nor those
// who come from the one that is gone.
func TestOwnerIsKilled(t *testing.T) {
	a, clients, first := loseOwner(t, func(_ *testing.T, owner *gateway) { owner.kill() })
	a.awaitConnections(t, 1)
	last := a.send(10)
	moved := clients[1].of.connect(t, clients[0].lastID())
	moved.expect(t, first+10, last)
}

// A gateway that was frozen, and goes on, brings nothing twice, nor do its clients miss
// anything.
func TestOwnerIsFrozen(t *testing.T) {
	var frozen *gateway
	a, clients, first := loseOwner(t, func(t *testing.T, owner *gateway) {
		frozen = owner
		frozen.signal(t, syscall.SIGSTOP)
	})
	frozen.signal(t, syscall.SIGCONT)
	for range 3 {
		last := a.send(10)
		for _, c := range clients {
			c.expect(t, first, last)
		}
		a.awaitConnections(t, 1)
	}
}

// A gateway that stops in order leaves nobody without events.
func TestOwnerIsStopped(t *testing.T) {
	a, clients, first := loseOwner(t, func(t *testing.T, owner *gateway) {
		owner.signal(t, syscall.SIGTERM)
		if err := owner.command.Wait(); err != nil {
			t.Errorf("the gateway ended with %v", err)
		}
	})
	a.awaitConnections(t, 1)
	last := a.send(10)
	moved := clients[1].of.connect(t, clients[0].lastID())
	moved.expect(t, first+10, last)
}
