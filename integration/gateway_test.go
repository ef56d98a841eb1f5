package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
)

// gateway is a Caddy with the module, in a process of its own.
type gateway struct {
	*process
	address string
	setup   gatewaySetup
	dir     string // for what Caddy writes
	admin   string // its admin endpoint's socket
	loads   int    // how many configurations it was given

	certificate string // its file and that of its key, if it speaks TLS

	hints []string // kinds of hints that the test's set-up gives reason for
}

// gateways is how many were started.
var gateways atomic.Int32

// gatewaySetup is what a gateway is started with, and started with again.
type gatewaySetup struct {
	program    string // which build of it; gatewayPath by default
	globals    string // further global options
	directives string
	address    string // where it listens, by default a port of its own
	admin      string // where its admin endpoint listens, for browsers too; by default a socket of its own
	namespace  string // where it runs, and listens on its own
	tls        bool   // it speaks TLS, and HTTP/2
}

// unlogged keeps requests out of the access log. When reverse_proxy breaks a POST off, Caddy 2.11.9 reads for that log
// how much of the body was read, while it may still be being read: a data race.
const unlogged = "log_skip\n"

// startGateway starts a gateway with one site that has the directives. What is not in a handle of theirs is for all.
func startGateway(t testing.TB, directives string) *gateway {
	t.Helper()
	return gatewaySetup{directives: directives}.start(t)
}

// startGatewayOf is startGateway for a Caddy of its own.
func startGatewayOf(t testing.TB, program, directives string) *gateway {
	t.Helper()
	return gatewaySetup{program: program, directives: directives}.start(t)
}

func (setup gatewaySetup) start(t testing.TB) *gateway {
	t.Helper()
	if setup.program == "" {
		setup.program = gatewayPath
	}
	if setup.address == "" {
		setup.address = "127.0.0.2:0" // not what clients dial from: they cannot take its port while it restarts
	}
	g := &gateway{setup: setup, dir: t.TempDir()}
	// A short path, as sockets need it.
	g.admin = "unix/" + filepath.Join(workDir, fmt.Sprint("admin", gateways.Add(1)))
	if setup.admin != "" {
		g.admin = setup.admin
	}
	if setup.tls {
		cert, key := newCertificate(t)
		g.certificate = cert + " " + key
	}
	g.run(t)
	return g
}

// run starts the gateway's process.
func (g *gateway) run(t testing.TB) {
	t.Helper()
	caddyfile := filepath.Join(g.dir, "Caddyfile")
	if err := os.WriteFile(caddyfile, []byte(g.caddyfile(t, g.setup.directives)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{g.setup.program, "run", "--config", caddyfile, "--adapter", "caddyfile"}
	if g.setup.namespace != "" {
		args = append([]string{"ip", "netns", "exec", g.setup.namespace}, args...)
	}
	cmd := command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+g.dir, "XDG_DATA_HOME="+g.dir, "XDG_CONFIG_HOME="+g.dir,
		"GORACE=atexit_sleep_ms=0") // else the race detector adds a second to each end
	if g.setup.namespace == "" {
		// It is given a listener, so that no port has to be agreed on.
		file, address := listenerFile(t, g.setup.address)
		defer file.Close()
		cmd.ExtraFiles = []*os.File{file}
		g.setup.address = address
	}
	g.address = g.setup.address
	var p *process
	t.Cleanup(func() { // runs when it has ended
		if p != nil && strings.Contains(p.errorText(), "DATA RACE") {
			t.Errorf("the race detector found something in the gateway:\n%s", p.errorText())
		}
	})
	p = start(t, "gateway", cmd, syscall.SIGTERM)
	p.hints = g.hints
	g.process = p
	g.awaitStart()
}

// expectHint says that the test's set-up gives reason for a hint of a kind, and which.
func (g *gateway) expectHint(kind, reason string) {
	g.t.Helper()
	g.t.Logf("the gateway may have the hint %s: %s", kind, reason)
	g.hints = append(g.hints, kind)
	g.process.hints = g.hints
}

// listenerFile listens at an address for a process that is given the file, and returns where that is.
func listenerFile(t testing.TB, at string) (file *os.File, address string) {
	t.Helper()
	listener, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if file, err = listener.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	return file, listener.Addr().String()
}

// awaitStart waits until the process serves.
func (g *gateway) awaitStart() {
	g.t.Helper()
	for {
		conn, err := g.dialAdmin(context.Background())
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-g.done:
			g.t.Fatalf("the gateway ended: %v", g.err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// dialAdmin connects to the admin endpoint.
func (g *gateway) dialAdmin(ctx context.Context) (net.Conn, error) {
	network, address := "tcp", g.admin
	if socket, ok := strings.CutPrefix(g.admin, "unix/"); ok {
		network, address = "unix", socket
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// configurationStatus is what the status of /configuration, which tells the configurations apart, counts from.
const configurationStatus = 200

// handlers are the lines that begin the handler's directive.
var handlers = regexp.MustCompile(`(?m)^sse( @\S+)?( \{)?$`)

// caddyfile returns a configuration. Each is another one: Caddy takes no notice of one that it has.
func (g *gateway) caddyfile(t testing.TB, directives string) string {
	t.Helper()
	g.loads++
	delivery := ""
	if handlers.MatchString(directives) && !g.setup.tls { // over HTTP/2 tests are of streams that are taken over
		delivery = deliverytest.Of(t)
	}
	if delivery != "" {
		directives = handlers.ReplaceAllStringFunc(directives, func(line string) string {
			return strings.TrimSuffix(line, " {") + " {\ndelivery " + delivery + map[bool]string{false: "\n}"}[strings.HasSuffix(line, " {")]
		})
	}
	site := "http:// {\nbind fd/3\n"
	if g.setup.tls {
		site = "https:// {\nbind fd/3 {\nprotocols h1 h2\n}\ntls " + g.certificate + "\n"
	}
	if g.setup.namespace != "" {
		site = "http://:80 {\n"
	}
	admin := g.admin
	if g.setup.admin != "" {
		admin += fmt.Sprintf(" {\norigins %s \"\"\n}", g.admin) // as docs/operate/live-page.md says, for browsers
	}
	return fmt.Sprintf("{\nadmin %s\npersist_config off\nauto_https off\n%s\n}\n"+
		"%slog {\noutput stdout\n}\nrespond /configuration %d\n%s\n}\n",
		admin, g.setup.globals, site, configurationStatus+g.loads, directives)
}

// load gives the gateway new directives. It returns how long that took, and the answer if it was refused. When it returns
// the servers of before take no connection any more, or those of the configuration that was refused.
func (g *gateway) load(directives string) (took time.Duration, err error) {
	g.t.Helper()
	text := g.caddyfile(g.t, directives)
	servers := g.accepting()
	began := time.Now()
	status, answer := g.ask(http.MethodPost, "/load", text)
	took = time.Since(began)
	for began := time.Now(); g.accepting() != servers; time.Sleep(time.Millisecond) {
		if time.Since(began) > testTimeout {
			g.t.Fatalf("%d servers accept connections, expected %d", g.accepting(), servers)
		}
	}
	if status != http.StatusOK {
		return took, fmt.Errorf("status %d: %s", status, answer)
	}
	g.setup.directives = directives
	return took, nil
}

// accepting is how many servers of the gateway accept connections, that of its admin endpoint too. Caddy answers /load
// before those of the old configuration have ended; old and new ones share the queue, and an old one hangs up.
func (g *gateway) accepting() (servers int) {
	g.t.Helper()
	var (
		status int
		text   string
		err    error
	)
	for began := time.Now(); status != http.StatusOK; { // the admin endpoint is one of them
		if status, text, err = g.tryToAsk(http.MethodGet, "/debug/pprof/goroutine?debug=1", ""); time.Since(began) > testTimeout {
			g.t.Fatalf("the goroutines: status %d, %v", status, err)
		}
	}
	_, text, _ = strings.Cut(text, "\n")                // the first line says how many goroutines there are
	for stack := range strings.SplitSeq(text, "\n\n") { // each with the number of goroutines that have it
		if strings.Contains(stack, "\tnet/http.(*Server).Serve+") {
			number, _, _ := strings.Cut(strings.TrimSpace(stack), " ")
			n, err := strconv.Atoi(number)
			if err != nil {
				g.t.Fatalf("no number of goroutines: %q", stack)
			}
			servers += n
		}
	}
	return servers
}

// awaitLog waits until the log has a text n times.
func (p *process) awaitLog(text string, n int) {
	p.t.Helper()
	timeout := time.After(testTimeout)
	for strings.Count(p.errorText(), text) < n {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-timeout:
			p.t.Fatalf("the log has not got %q %d times", text, n)
		}
	}
}

// ask asks the admin endpoint.
func (g *gateway) ask(method, path, body string) (status int, answer string) {
	g.t.Helper()
	status, answer, err := g.tryToAsk(method, path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	return status, answer
}

// tryToAsk is ask while a configuration may be being loaded.
func (g *gateway) tryToAsk(method, path, body string) (status int, answer string, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return g.dialAdmin(ctx)
	}}
	host := "127.0.0.1"
	if g.setup.admin != "" {
		host = g.admin
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+host+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	client := &http.Client{Transport: transport, Timeout: testTimeout}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// reload is load for directives that have to be taken. New requests meet them when it returns.
func (g *gateway) reload(directives string) (took time.Duration) {
	g.t.Helper()
	took, err := g.load(directives)
	if err != nil {
		g.t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: anyCertificate()}, Timeout: testTimeout}
	resp, err := client.Get(g.url("/configuration"))
	if err != nil {
		g.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != configurationStatus+g.loads {
		g.t.Fatalf("the configuration answers %d, expected %d", resp.StatusCode, configurationStatus+g.loads)
	}
	return took
}

func (g *gateway) url(path string) string {
	scheme := "http://"
	if g.setup.tls {
		scheme = "https://"
	}
	return scheme + g.address + path
}

// memory returns how many bytes of memory the gateway has.
func (g *gateway) memory() int64 {
	g.t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(g.cmd.Process.Pid), "status"))
	if err != nil {
		g.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	number, _, ok := strings.Cut(rest, "kB")
	kilobytes, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if !ok || err != nil {
		g.t.Fatalf("no resident set size in %q", status)
	}
	return kilobytes << 10
}

// route is a handle of a path that shares the streams of an upstream. proxy is what leads to it.
func route(path, options, proxy string) string {
	return "handle " + path + " {\nsse {\nname " + path + "\njoin live\n" + options + "\n}\n" + proxy + "\n}\n"
}

// upstream is an application in a process of its own.
type upstream struct {
	*process
	address string
}

// startTicker starts upstreams/ticker.
func startTicker(t testing.TB, args ...string) *upstream {
	t.Helper()
	return startUpstream(t, "ticker "+strings.Join(args, " "), command(tickerPath, args...))
}

// startNode starts a script with Node.
func startNode(t testing.TB, script string, args ...string) *process {
	t.Helper()
	return start(t, script, command(nodePath, append([]string{script}, args...)...), 0)
}

func startUpstream(t testing.TB, name string, cmd *exec.Cmd) *upstream {
	t.Helper()
	u := &upstream{process: start(t, name, cmd, 0)}
	u.address = u.awaitEvent("listening", 1).Address
	return u
}

// emit makes a ticker send its next n events.
func (u *upstream) emit(n int) {
	u.t.Helper()
	u.tell("emit " + strconv.Itoa(n))
}

// assertOneConnection checks that there has been one connection, and that it still is open, or is not.
func (u *upstream) assertOneConnection(open bool) {
	u.t.Helper()
	all := len(u.all("open"))
	if left := all - len(u.all("close")); all != 1 || (left == 1) != open {
		u.t.Errorf("%s had %d connections and has %d, expected one, open: %v", u.name, all, left, open)
	}
}
