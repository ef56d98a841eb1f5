package integration

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demoAddresses are those of Caddyfile.example: the page, the application, the live page, and Caddy's admin endpoint.
var demoAddresses = [...]string{"8080", "8081", "8082", "2019"}

// startDemo starts what `caddy run --config Caddyfile.example` starts, on free ports, and returns the ports.
func startDemo(t *testing.T) (p *process, ports [len(demoAddresses)]string) {
	t.Helper()
	text, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	config := string(text)
	free := freePorts(t, demoAddresses[:]...)
	for i, port := range demoAddresses {
		ports[i] = free[port]
		config = strings.ReplaceAll(config, ":"+port, ":"+free[port])
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(plainPath, "run", "--config", file)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "TMPDIR="+dir, "CADDY_ADMIN=localhost:"+ports[3])
	p = start(t, "demo", cmd, syscall.SIGTERM)
	p.awaitLog("serving initial configuration", 1)
	return p, ports
}

// countsOf is a function of the page that returns what a column counts.
const countsOf = `(column) => Object.fromEntries(["missed", "received", "replayed", "doubled", "cut"].map((what) =>
	[what, Number(document.getElementById(column + "-" + what).textContent)]))`

// column is an expression that is true when the counts c of a column meet a condition.
func column(name, condition string) string {
	return "((c) => " + condition + ")((" + countsOf + ")('" + name + "'))"
}

// Issue 21: the demo shows what the gateway is for. Each button is pressed as a visitor would.
func TestDemo(t *testing.T) {
	t.Parallel()
	p, ports := startDemo(t)
	origin := "http://localhost:" + ports[0]
	d := startDriver(t, origin)
	if status := d.do("goto", "url", origin+"/"); status != "200" {
		t.Fatalf("status %s", status)
	}
	d.until(column("direct", "c.received > 4") + " && " + column("gateway", "c.received > 4"))
	d.until("document.getElementById('seen').textContent.includes('has 2 open connections')")
	d.shoot("demo-1")

	// Offline: the gateway replays what was sent meanwhile.
	d.do("click", "selector", "#offline")
	d.until("document.getElementById('offline').disabled && document.getElementById('gateway-state').textContent.includes('offline')")
	d.shoot("demo-2-offline")
	d.until("!document.getElementById('offline').disabled")
	d.until(column("direct", "c.missed > 9") + " && " + column("gateway", "c.replayed > 9"))
	d.shoot("demo-3-online")

	// The application restarts: the gateway's client is not cut.
	d.do("click", "selector", "#restart")
	d.until(column("direct", "c.cut === 1 && c.missed > 20"))
	d.until("document.getElementById('direct-state').textContent.includes('connected')")
	d.shoot("demo-4-restarted")

	// Caddy reloads: neither is cut.
	connections := "fetch('/demo/status').then((r) => r.json()).then((s) => s.accepted"
	before := d.do("eval", "js", connections+")")
	d.do("click", "selector", "#reload")
	d.until(connections + " > " + before + ")") // the gateway's, of the new configuration
	received := d.do("eval", "js", "Number(document.getElementById('gateway-received').textContent)")
	d.until(column("gateway", "c.received > 9 + "+received))
	d.until("document.getElementById('said').textContent.includes('loaded its configuration again')")
	d.shoot("demo-5-reloaded")

	d.until(column("gateway", "c.missed === 0 && c.doubled === 0 && c.cut === 0"))
	d.until(column("direct", "c.cut === 1 && c.replayed === 0"))

	// What the page links to.
	resp, err := http.Get("http://localhost:" + ports[2] + "/sse/")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if link := d.do("eval", "js", "document.getElementById('live').href"); resp.StatusCode != http.StatusOK || link != "http://localhost:8082/sse/" {
		t.Errorf("the live page answers %s, and the link is %s", resp.Status, link)
	}

	p.stop()
	if left, err := net.Dial("tcp", "127.0.0.1:"+ports[1]); err == nil {
		_ = left.Close()
		t.Error("the application is left of the demo")
	}
}

// The demo's application ends with Caddy, also when nobody can tell it to.
func TestDemoLeavesNothing(t *testing.T) {
	p, ports := startDemo(t)
	conn, err := net.Dial("tcp", "127.0.0.1:"+ports[1])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	p.ended = true
	if err := p.cmd.Process.Kill(); err != nil { // the process alone, not its group
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the application goes on without Caddy")
	}
}
