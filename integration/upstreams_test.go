package integration

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
)

// Issue 2, acceptance 2.
func TestUpstreams(t *testing.T) {
	t.Parallel()
	deliverytest.Once(t) // it is about the upstream's side
	const interval = "-interval=40ms"
	kinds := []struct {
		name     string
		start    func(t *testing.T, name string, cmd *exec.Cmd) *upstream
		cmd      *exec.Cmd
		proxy    string // {} stands for the address
		protocol string
	}{
		{name: "node", cmd: command(nodePath, "upstreams/tutorial.mjs"), proxy: "reverse_proxy {}", protocol: "HTTP/1.1"},
		{name: "express", cmd: command(nodePath, "upstreams/express.mjs"), proxy: "reverse_proxy {}", protocol: "HTTP/1.1"},
		{name: "go", cmd: command(tickerPath, interval), proxy: "reverse_proxy {}", protocol: "HTTP/1.1"},
		{name: "go-ids", cmd: command(tickerPath, interval, "-ids=all"), proxy: "reverse_proxy {}", protocol: "HTTP/1.1"},
		{name: "h2c", cmd: command(tickerPath, interval, "-mode=h2c"), proxy: "reverse_proxy h2c://{}", protocol: "HTTP/2.0"},
		{name: "h2", cmd: command(tickerPath, interval, "-mode=h2"), proxy: "reverse_proxy https://{} {\n" +
			"transport http {\ntls_insecure_skip_verify\n}\n}", protocol: "HTTP/2.0"},
		{name: "fastcgi", cmd: command(tickerPath, interval, "-mode=fastcgi"), proxy: "reverse_proxy {} {\n" +
			"transport fastcgi\n}", protocol: "HTTP/1.1"},
		{name: "php_fastcgi", cmd: command(tickerPath, interval, "-mode=fastcgi"), proxy: "php_fastcgi {} {\n" +
			"try_files index.php\n}", protocol: "HTTP/1.1"},
		{name: "gzip", cmd: command(tickerPath, interval, "-mode=gzip"), proxy: "reverse_proxy {}", protocol: "HTTP/1.1"},
		{name: "http10", cmd: command(tickerPath, interval, "-mode=http10"), proxy: "reverse_proxy {}", protocol: "HTTP/1.1"},
		{name: "bytes", cmd: command(tickerPath, interval, "-mode=bytes"), proxy: "reverse_proxy {}", protocol: "HTTP/1.1"},
	}
	var directives strings.Builder
	upstreams := make([]*upstream, len(kinds))
	for i, kind := range kinds {
		upstreams[i] = startUpstream(t, kind.name, kind.cmd)
		proxy := strings.ReplaceAll(kind.proxy, "{}", upstreams[i].address)
		directives.WriteString(route("/"+kind.name, "linger 0s\nheartbeat 10ms", proxy))
	}
	g := startGateway(t, directives.String())
	g.expectHint("linger", "the upstream connection is to be closed as soon as the client has left")
	for i, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			testUpstream(t, upstreams[i], kind.protocol, g.url("/"+kind.name))
		})
	}
}

// testUpstream tests a gateway in front of an upstream whose events come at an interval.
func testUpstream(t *testing.T, u *upstream, protocol, url string) {
	t.Helper()
	const clients = 5
	all := make([]*follower, clients)
	for i := range all {
		all[i] = follow(t, fmt.Sprint("client ", i), url, "")
	}
	for _, f := range all {
		if err := f.until("10 events and a heartbeat", func() bool { return len(f.events()) >= 10 && f.heartbeats() > 0 }); err != nil {
			t.Fatal(err)
		}
	}
	if open := u.awaitEvent("open", 1); open.Protocol != protocol {
		t.Errorf("the upstream was asked over %s, expected %s", open.Protocol, protocol)
	}

	cut, other := all[0], all[1]
	cut.close()
	had := cut.newest()
	other.await(had + 5)
	missed := other.newest() - had
	back := follow(t, "client that came back", url, cut.lastEventID())
	if n, ok := back.replayed(); !ok || n < missed {
		t.Errorf("SSE-Resume: %s, expected %d events or more", back.outcome(), missed)
	}
	all[0] = back
	for _, f := range all {
		f.await(had + missed + 10)
	}
	cut.assertRun(0, had)
	back.assertRun(had+1, had+missed+10)
	for _, f := range all[1:] {
		f.assertRun(0, had+missed+10)
	}
	u.assertOneConnection(true)
	for _, f := range all {
		f.close()
	}
	u.awaitEvent("close", 1)
	u.assertOneConnection(false)
}
