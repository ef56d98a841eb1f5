package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	halfOpenHeartbeat    = time.Second
	halfOpenWriteTimeout = 2 * time.Second
	// halfOpenSlack is what the issue allows beyond that.
	halfOpenSlack = 5 * time.Second
)

// network is a gateway's host, a router, and a host of clients, each a network namespace.
type network struct {
	t                       testing.TB
	gateway, router, client string // names of namespaces
}

// Addresses in namespaces, which nothing else sees.
const (
	gatewayHost = "192.0.2.1"
	clientHost  = "198.51.100.1"
)

func startNetwork(t testing.TB) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces are needed to drop a client's packets: run this test as root (with CAP_SYS_ADMIN and CAP_NET_ADMIN)")
	}
	prefix := fmt.Sprintf("sse%d-", os.Getpid())
	n := &network{t: t, gateway: prefix + "gateway", router: prefix + "router", client: prefix + "client"}
	for _, name := range []string{n.gateway, n.router, n.client} {
		n.ip("netns", "add", name)
		n.ip("-n", name, "link", "set", "lo", "up")
		t.Cleanup(func() { n.ip("netns", "del", name) })
	}
	n.link(n.gateway, gatewayHost, "192.0.2.2")
	n.link(n.client, clientHost, "198.51.100.2")
	n.ip("netns", "exec", n.router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	return n
}

// link connects a host with the router.
func (n *network) link(host, address, router string) {
	n.t.Helper()
	there := "to-" + host[strings.LastIndexByte(host, '-')+1:]
	n.ip("-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", there, "netns", n.router)
	n.ip("-n", host, "addr", "add", address+"/24", "dev", "eth0")
	n.ip("-n", n.router, "addr", "add", router+"/24", "dev", there)
	n.ip("-n", host, "link", "set", "eth0", "up")
	n.ip("-n", n.router, "link", "set", there, "up")
	n.ip("-n", host, "route", "add", "default", "via", router)
}

// drop makes the router drop what is for the clients. Neither side is told.
func (n *network) drop() {
	n.t.Helper()
	n.ip("-n", n.router, "route", "add", "blackhole", clientHost+"/32")
}

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("network namespaces are needed to drop a client's packets: ip %v: %v\n%s", args, err, out)
	}
}

// startReaders starts clients in a process of their own.
func startReaders(t testing.TB, n int, h2 bool, url string, namespace string, more ...string) *process {
	t.Helper()
	args := append([]string{readerPath, "-n", strconv.Itoa(n), "-h2=" + strconv.FormatBool(h2)}, append(more, url)...)
	if namespace != "" {
		args = append([]string{"ip", "netns", "exec", namespace}, args...)
	}
	p := start(t, "readers", command(args[0], args[1:]...), syscall.SIGKILL)
	p.ended = true
	p.awaitEvent("open", n)
	return p
}

// awaitEntries waits for n entries of the access log that meet a condition.
func (g *gateway) awaitEntries(n int, condition func(r report) bool) (entries []report) {
	g.t.Helper()
	g.await(fmt.Sprint(n, " entries in the access log"), func(rs []report) bool {
		entries = nil
		for _, r := range rs {
			if r.Request.URI != "" && condition(r) {
				entries = append(entries, r)
			}
		}
		return len(entries) >= n
	})
	return entries
}

func (r report) time() time.Time { return time.UnixMicro(int64(r.Time * 1e6)) }

// Issue 4, acceptance 6: a client whose packets do not arrive any more is gone soon, though its stream is quiet.
func TestVanishedClient(t *testing.T) {
	t.Parallel()
	n := startNetwork(t)
	const clients = 5 // over each version of HTTP
	u := startTickerInside(t, n.gateway)
	g := gatewaySetup{
		globals: plainHTTP2, namespace: n.gateway, address: gatewayHost,
		directives: route("/events", "heartbeat 1s\nwrite_timeout 2s", "reverse_proxy "+u.address),
	}.start(t)
	for _, h2 := range []bool{false, true} {
		startReaders(t, clients, h2, g.url("/events"), n.client)
	}
	dropped := time.Now() // or a little later
	n.drop()
	entries := g.awaitEntries(2*clients, func(r report) bool { return r.Request.RemoteIP == clientHost })
	bound := 2*halfOpenHeartbeat + halfOpenWriteTimeout + halfOpenSlack
	for _, entry := range entries {
		took := entry.time().Sub(dropped)
		t.Logf("a client over %s was gone after %v", entry.Request.Protocol, took)
		if took > bound {
			t.Errorf("a client over %s was gone after %v, expected %v", entry.Request.Protocol, took, bound)
		}
		if took < 0 {
			t.Errorf("a client over %s was gone before its packets were dropped", entry.Request.Protocol)
		}
	}
}

// startTickerInside starts a ticker in a namespace.
func startTickerInside(t testing.TB, namespace string) *upstream {
	t.Helper()
	return startUpstream(t, "ticker", command("ip", "netns", "exec", namespace, tickerPath))
}

// Issue 4, acceptance 6: a client that does not read any more, and whose kernel takes nothing more, is gone soon.
func TestFrozenClient(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("h2=", h2), func(t *testing.T) {
			t.Parallel()
			u := startTicker(t, "-interval=20ms", "-size=16384")
			g := gatewaySetup{
				globals:    plainHTTP2,
				directives: route("/events", "buffer 100000 1GiB\nheartbeat 1s\nwrite_timeout 2s", "reverse_proxy "+u.address),
			}.start(t)
			p := startReaders(t, 1, h2, g.url("/events"), "")
			if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			full := awaitFull(t, g)
			entry := g.awaitEntries(1, func(r report) bool { return r.Request.URI == "/events" })[0]
			took := entry.time().Sub(full)
			t.Logf("gone %v after it took nothing more", took)
			if bound := halfOpenWriteTimeout + halfOpenSlack; took > bound {
				t.Errorf("gone %v after it took nothing more, expected %v", took, bound)
			}
		})
	}
}

// awaitFull waits until the kernel of the gateway's only client has not taken anything for a second, or has no
// connection any more. It returns when it last did.
func awaitFull(t testing.TB, g *gateway) (last time.Time) {
	t.Helper()
	_, text, _ := strings.Cut(g.address, ":")
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	had := int64(0)
	last = time.Now()
	for deadline := time.Now().Add(testTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		waiting, ok := receiveQueue(t, port)
		if waiting > had {
			had, last = waiting, time.Now()
		}
		if !ok || had > 0 && time.Since(last) > time.Second {
			return last
		}
	}
	t.Fatal("a frozen client takes more and more")
	return last
}

// receiveQueue returns how many bytes wait for the client that is connected to a port.
func receiveQueue(t testing.TB, port int) (bytes int64, ok bool) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line) // its number, local address, remote address, state, queues
		if !strings.HasSuffix(fields[2], fmt.Sprintf(":%04X", port)) || fields[3] != "01" {
			continue
		}
		_, queue, _ := strings.Cut(fields[4], ":")
		if bytes, err = strconv.ParseInt(queue, 16, 64); err != nil {
			t.Fatal(err)
		}
		return bytes, true
	}
	return 0, false
}
