package natsbus

import (
	"bufio"
	"context"
	"flag"
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
	"syscall"
	"testing"
	"time"
)

// What tests of whole gateways are made of: processes, as an operator has them, clients,
// and an application that counts its connections.

// full is to run them as large, and for as long, as they were once by hand.
var full = flag.Bool("cluster.full", false, "run the tests of gateways with as many clients, kills and seconds as docs/cluster.md tells of")

// size is how many of something there are, by hand and in CI.
func size(all, inCI int) int {
	if *full {
		return all
	}
	return inCI
}

// caddyBinary is the Caddy of cmd/caddy, which is built once.
var caddyBinary = sync.OnceValues(func() (string, error) {
	if built := os.Getenv("CADDY_SSE_CLUSTER_CADDY"); built != "" {
		return built, nil
	}
	dir, err := os.MkdirTemp("", "caddy-sse-cluster")
	if err != nil {
		return "", err
	}
	atEnd = append(atEnd, func() { _ = os.RemoveAll(dir) })
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

	mu      sync.Mutex
	conns   map[*http.Request]string // the gateway that each connection is of
	paths   map[string]int           // how many each path has
	opened  int                      // connections so far
	events  int                      // sent so far
	changed chan struct{}
}

func startApp(t *testing.T, ids bool) *app {
	t.Helper()
	a := &app{ids: ids, conns: make(map[*http.Request]string), paths: make(map[string]int), changed: make(chan struct{})}
	a.server = httptest.NewServer(a)
	t.Cleanup(func() {
		a.server.CloseClientConnections()
		a.server.Close()
	})
	return a
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.conns[r] = r.Header.Get("Gateway")
	a.paths[r.URL.Path]++
	a.opened++
	at := a.events
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.conns, r)
		a.paths[r.URL.Path]--
		a.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	flusher := http.NewResponseController(w)
	_ = flusher.Flush()
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

// keepSending sends 200 events a second, until the test's end or stop.
func (a *app) keepSending(t *testing.T) (stop func()) {
	t.Helper()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				a.send(1)
			case <-done:
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		close(done)
		<-ended
	})
	t.Cleanup(stop)
	return stop
}

// connections is how many there are.
func (a *app) connections() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.conns)
}

// hasOneEach reports whether each of some streams has one connection.
func (a *app) hasOneEach(streams int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.paths {
		if n != 1 {
			return false
		}
	}
	return len(a.paths) == streams
}

// openedSoFar is how many there were.
func (a *app) openedSoFar() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.opened
}

// hasOf reports whether there is a connection of a gateway.
func (a *app) hasOf(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, of := range a.conns {
		if of == name {
			return true
		}
	}
	return false
}

// awaitConnections waits until the application has so many connections.
func (a *app) awaitConnections(t *testing.T, count int) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("there are %d", a.connections())
		}
	}()
	await(t, fmt.Sprintf("%d upstream connections", count), func() bool { return a.connections() == count })
}

// owner is the gateway that has the only connection.
func (a *app) owner(t *testing.T, gateways []*gateway) (i int) {
	t.Helper()
	a.awaitConnections(t, 1)
	await(t, "the owner", func() bool {
		for i = range gateways {
			if a.hasOf(gateways[i].name) {
				return true
			}
		}
		return false
	})
	return i
}

// gateway is one process after the other, at the same addresses.
type gateway struct {
	app       *app
	name      string
	dir       string
	options   string // of sse
	gapEvent  string
	socket    string
	admin     string
	secret    string
	listen    string
	routes    []string
	advertise string

	command *exec.Cmd
	starts  int
	client  *http.Client
}

// newGateways are some that can become a cluster, in front of an application.
func newGateways(t *testing.T, a *app, count int) []*gateway {
	t.Helper()
	gateways := make([]*gateway, count)
	var routes []string
	for i := range gateways {
		dir := t.TempDir()
		g := &gateway{app: a, name: strconv.Itoa(i), dir: dir, gapEvent: "gap", socket: "http.sock", admin: "off", secret: testSecret, listen: ownAddress(t)}
		g.client = &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, g.socket))
			},
		}}
		gateways[i] = g
		routes = append(routes, g.listen)
	}
	for _, g := range gateways {
		g.routes = routes
	}
	return gateways
}

// startGateways starts gateways that are a cluster.
func startGateways(t *testing.T, a *app, count int) []*gateway {
	t.Helper()
	gateways := newGateways(t, a, count)
	for _, g := range gateways {
		g.start(t)
	}
	for _, g := range gateways {
		g.awaitOthers(t, count-1)
	}
	return gateways
}

// awaitOthers waits until a gateway says that it reaches so many others.
func (g *gateway) awaitOthers(t *testing.T, count int) {
	t.Helper()
	await(t, "the cluster", func() bool {
		logged := g.logged()
		last := strings.LastIndex(logged, `"others":`)
		return last >= 0 && strings.HasPrefix(logged[last:], fmt.Sprintf(`"others":%d}`, count))
	})
}

// config is the gateway's configuration, which differs for each generation.
func (g *gateway) config(generation int) string {
	advertise := ""
	if g.advertise != "" {
		advertise = "advertise " + g.advertise
	}
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	grace_period 5s
	log {
		output file %s
		exclude admin.api
	}
	sse_cluster nats {
		embedded {
			listen %s
			routes %s
			%s
		}
		secret {env.SSE_CLUSTER_SECRET}
	}
}
http:// {
	bind unix/%s
	sse {
		share public
		join live
		linger 1s
		gap_event %s
		%s
	}
	reverse_proxy %s {
		header_up Gateway %s
		header_up Generation %d
	}
}
`, g.admin, g.logFile(), g.listen, strings.Join(g.routes, " "), advertise, g.socket, g.gapEvent, g.options, g.app.server.Listener.Addr(), g.name, generation)
}

// start starts the process, which the test's end kills.
func (g *gateway) start(t *testing.T) {
	t.Helper()
	binary, err := caddyBinary()
	if err != nil {
		t.Fatal(err)
	}
	g.starts++
	g.write(t, 0)
	g.command = exec.Command(binary, "run", "--adapter", "caddyfile", "--config", filepath.Join(g.dir, "Caddyfile"))
	g.command.Dir = g.dir // the sockets have the same name: what differs between nodes would keep them apart
	g.command.Env = append(os.Environ(), "SSE_CLUSTER_SECRET="+g.secret, "XDG_DATA_HOME="+g.dir, "XDG_CONFIG_HOME="+g.dir)
	_ = os.Remove(filepath.Join(g.dir, g.socket))
	if err := g.command.Start(); err != nil {
		t.Fatal(err)
	}
	if g.starts == 1 {
		t.Cleanup(func() {
			g.kill()
			if t.Failed() {
				t.Logf("log of gateway %s:\n%s", g.name, g.logged())
			}
		})
	}
	await(t, "the gateway", func() bool {
		c, err := net.Dial("unix", filepath.Join(g.dir, g.socket))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (g *gateway) write(t *testing.T, generation int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, "Caddyfile"), []byte(g.config(generation)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// reload loads a configuration that differs from the one before.
func (g *gateway) reload(t *testing.T, generation int) {
	t.Helper()
	const done = "successfully reloaded config from file"
	before := strings.Count(g.logged(), done)
	g.write(t, generation)
	g.signal(t, syscall.SIGUSR1)
	await(t, "the reload", func() bool { return strings.Count(g.logged(), done) > before })
}

func (g *gateway) logFile() string { return filepath.Join(g.dir, fmt.Sprintf("log.%d", g.starts)) }

// logged is the log of the last start.
func (g *gateway) logged() string {
	text, _ := os.ReadFile(g.logFile())
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

// stop is how an operator stops it.
func (g *gateway) stop(t *testing.T) {
	t.Helper()
	g.signal(t, syscall.SIGTERM)
	if err := g.command.Wait(); err != nil {
		t.Errorf("the gateway ended with %v", err)
	}
}

// client reads an event stream as EventSource does: when its response ends it comes back,
// with the last ID.
type client struct {
	path   string
	home   *gateway
	cancel context.CancelFunc
	ended  chan struct{}

	mu   sync.Mutex
	away context.CancelFunc // ends the response
	of   []*gateway         // it comes to the first one, and to the next when that is not there
	id   string
	seen []event
	gap  bool // one was told since the last event
	told []string
}

// event is one that a client had.
type event struct {
	number int
	gap    bool // was told before it
	at     time.Time
}

// connect connects a client that had an event last, to the first of some gateways.
func connect(t *testing.T, path, lastID string, of ...*gateway) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &client{path: path, home: of[0], of: of, cancel: cancel, ended: make(chan struct{}), id: lastID}
	go c.run(ctx)
	t.Cleanup(c.leave)
	return c
}

func (c *client) run(ctx context.Context) {
	defer close(c.ended)
	for {
		if err := c.once(ctx); err != nil {
			c.mu.Lock()
			c.of = append(c.of[1:len(c.of):len(c.of)], c.of[0]) // as a balancer does
			c.mu.Unlock()
		}
		select {
		case <-time.After(100 * time.Millisecond): // as EventSource waits, less patiently
		case <-ctx.Done():
			return
		}
	}
}

// once is one response.
func (c *client) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway"+c.path, http.NoBody)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "text/event-stream")
	c.mu.Lock()
	to := c.of[0]
	c.away = cancel
	if c.id != "" {
		r.Header.Set("Last-Event-ID", c.id)
	}
	c.mu.Unlock()
	response, err := to.client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	told := response.Header.Get("SSE-Resume")
	c.mu.Lock()
	c.told = append(c.told, fmt.Sprintf("%s at gateway %s after %q: %s %s", time.Now().Format("05.000"), to.name, r.Header.Get("Last-Event-ID"), response.Status, told))
	c.gap = c.gap || strings.HasPrefix(told, "gap")
	c.mu.Unlock()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	c.read(bufio.NewScanner(response.Body))
	return nil
}

func (c *client) read(lines *bufio.Scanner) {
	c.mu.Lock()
	id, data, kind := c.id, "", ""
	c.mu.Unlock()
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			id = value
		case "data":
			data = value
		case "event":
			kind = value
		case "": // the block is whole
			if lines.Text() != "" {
				continue // a comment
			}
			c.take(id, data, kind)
			data, kind = "", ""
		}
	}
}

func (c *client) take(id, data, kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id = id
	if kind == "gap" {
		c.gap = true
		return
	}
	if number, err := strconv.Atoi(data); err == nil {
		c.seen = append(c.seen, event{number, c.gap, time.Now()})
		c.gap = false
	}
}

func (c *client) leave() {
	c.cancel()
	<-c.ended
}

// goHome lets the client come back to the first gateway that it was at, if it is at another.
func (c *client) goHome() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[0] == c.home {
		return
	}
	for c.of[0] != c.home {
		c.of = append(c.of[1:len(c.of):len(c.of)], c.of[0])
	}
	if c.away != nil {
		c.away()
	}
}

// isThere reports whether the client has had a response.
func (c *client) isThere() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.told) > 0
}

// at is the gateway that the client is at, or goes to.
func (c *client) at() *gateway {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of[0]
}

func (c *client) events() []event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clip(c.seen)
}

func (c *client) has(number int) bool {
	return slices.ContainsFunc(c.events(), func(e event) bool { return e.number == number })
}

// forget forgets which events a client had.
func (c *client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen, c.gap = nil, false
}

// said is what the client was told, for a test that fails.
func (c *client) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.told, "\n")
}

// awaitEvent waits until a client has an event, or a later one.
func (c *client) awaitEvent(t *testing.T, number int) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("a client had %s, and was told\n%s", c.had(), c.said())
		}
	}()
	await(t, fmt.Sprintf("event %d", number), func() bool {
		seen := c.events()
		return len(seen) > 0 && seen[len(seen)-1].number >= number
	})
}

// had is what the client had, in short.
func (c *client) had() string {
	var text strings.Builder
	seen := c.events()
	for i, e := range seen {
		next := i+1 == len(seen) || seen[i+1].number != e.number+1 || seen[i+1].gap
		first := i == 0 || seen[i-1].number != e.number-1 || e.gap
		if e.gap {
			text.WriteString("gap ")
		}
		if first || next {
			fmt.Fprintf(&text, "%d at %s ", e.number, e.at.Format("05.000"))
		}
	}
	return text.String()
}

// expect fails unless the client had each event of a range once, in order, and was not told
// of a gap.
func (c *client) expect(t *testing.T, from, to int) {
	t.Helper()
	c.awaitEvent(t, to)
	seen := c.events()
	if seen[0].number != from || seen[0].gap {
		t.Errorf("a client had %s, expected %d to %d\n%s", c.had(), from, to, c.said())
		return
	}
	c.expectWhole(t, false)
}

// expectWhole fails if the client had something twice or out of order, or missed something,
// unless gaps may be, and it was told of one.
func (c *client) expectWhole(t *testing.T, mayGap bool) (gaps int) {
	t.Helper()
	seen := c.events()
	for i, e := range seen {
		if e.gap {
			gaps++
		}
		if i == 0 || e.gap && mayGap {
			continue
		}
		if e.gap || e.number != seen[i-1].number+1 {
			t.Errorf("a client had %s\n%s", c.had(), c.said())
			return gaps
		}
	}
	return gaps
}

// settle sends events until all clients have one, so that each has an ID to come back with,
// and each of some streams has one connection.
func (a *app) settle(t *testing.T, streams int, clients ...*client) {
	t.Helper()
	a.awaitOneEach(t, streams, clients)
	a.sendUntil(t, 100*time.Millisecond+time.Duration(len(clients))*time.Millisecond/5, func(last int) bool {
		return a.connections() == streams && !slices.ContainsFunc(clients, func(c *client) bool { return !c.has(last) })
	})
	for _, c := range clients {
		c.forget()
	}
}

// awaitOneEach waits until all clients are there, and each stream has one connection. No
// event is sent until then: a client that comes over with an ID may need a connection of
// its own, and keep it, if the machine is too busy for the two to meet in time.
func (a *app) awaitOneEach(t *testing.T, streams int, clients []*client) {
	t.Helper()
	await(t, "one connection for each stream", func() bool {
		return a.hasOneEach(streams) && !slices.ContainsFunc(clients, func(c *client) bool { return !c.isThere() })
	})
}

// sendUntil sends an event at an interval, until something is so. The interval grows: on a slow
// machine an event would be sent before all clients had the last one.
func (a *app) sendUntil(t *testing.T, interval time.Duration, so func(last int) bool) {
	t.Helper()
	var last int
	var sent time.Time
	await(t, "what is so after an event", func() bool {
		if time.Since(sent) > interval {
			last, sent, interval = a.send(1), time.Now(), interval+interval/4
		}
		return so(last)
	})
}

// bothIDs runs a test with an application that gives ids, and with one that does not.
func bothIDs(t *testing.T, test func(t *testing.T, a *app)) {
	t.Helper()
	for _, ids := range []bool{true, false} {
		t.Run(fmt.Sprintf("upstream_ids=%t", ids), func(t *testing.T) { test(t, startApp(t, ids)) })
	}
}
