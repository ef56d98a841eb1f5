package integration

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// gateway is a Caddy with the module, in a process of its own.
type gateway struct {
	*process
	address string
}

// startGateway starts a gateway with one site that has the directives. What is not in a handle of theirs is for all.
func startGateway(t testing.TB, directives string) *gateway {
	t.Helper()
	return startGatewayOf(t, gatewayPath, directives)
}

// startGatewayOf is startGateway for a Caddy of its own.
func startGatewayOf(t testing.TB, path, directives string) *gateway {
	t.Helper()
	dir := t.TempDir()
	caddyfile := filepath.Join(dir, "Caddyfile")
	text := "{\nadmin off\npersist_config off\nauto_https off\n}\n" +
		"http:// {\nbind fd/3\nlog {\noutput stdout\n}\n" + directives + "\n}\n"
	if err := os.WriteFile(caddyfile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// It is given a listener, so that no port has to be agreed on.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := command(path, "run", "--config", caddyfile, "--adapter", "caddyfile")
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	g := &gateway{address: listener.Addr().String()}
	t.Cleanup(func() { // runs when it has ended
		if strings.Contains(g.errorText(), "DATA RACE") {
			t.Errorf("the race detector found something in the gateway:\n%s", g.errorText())
		}
	})
	g.process = start(t, "gateway", cmd, syscall.SIGTERM)
	return g
}

func (g *gateway) url(path string) string { return "http://" + g.address + path }

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
