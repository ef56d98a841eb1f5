package integration

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var reloads = flag.Int("reloads", 10, "how often the gateway is reloaded under load")

const (
	reloadClients = 1000
	// reloadBound is how long a reload may take. How long it may be before its upstreams are used is the subject of tests
	// in fake time: here it depends on the machine.
	reloadBound = time.Second
)

// plainHTTP2 lets clients speak HTTP/2 without TLS.
const plainHTTP2 = "servers {\nprotocols h1 h2c\n}"

// Issue 4, acceptance 2: reloads under load are not seen by clients.
func TestReloadsUnderLoad(t *testing.T) {
	for _, ids := range []string{"all", "none"} {
		t.Run("ids="+ids, func(t *testing.T) {
			u := startPhoenix(t, 5*time.Millisecond, "-ids="+ids)
			directives := route("/events", "buffer 100000\ngap_event lost", "reverse_proxy "+u.address)
			g := gatewaySetup{program: plainPath, globals: plainHTTP2, directives: directives}.start(t)
			g.expectHint("linger", "the streams of the other routes are to go at once")
			// In processes of their own, without the race detector: there are many events.
			readers := []*process{
				startReaders(t, reloadClients/2, false, g.url("/events"), "", "-count"),
				startReaders(t, reloadClients/2, true, g.url("/events"), "", "-count"),
			}
			var took []time.Duration
			for i := range *reloads {
				took = append(took, g.reload(directives+extraRoute(u, i)))
				// What is new is there, and what was there goes on.
				f := follow(t, "client of the new route", g.url(fmt.Sprint("/extra/", i)), "")
				f.await(1)
				f.close()
				f = follow(t, "client that comes later", g.url("/events"), "")
				f.await(1)
				f.close()
				time.Sleep(rand.N(2 * time.Second))
			}
			last := u.due()
			for _, r := range readers {
				assertCount(t, r, last)
			}
			opened, _ := u.connections()
			slices.Sort(took)
			middle := took[len(took)/2] // others the machine may have kept waiting
			t.Logf("%d reloads took %v in the middle, at most %v; %d upstream connections, %d for the other routes",
				*reloads, middle, took[len(took)-1], opened, *reloads)
			if opened < *reloads+2 {
				t.Error("the stream's upstream connection has not moved")
			}
			u.awaitOpen(1)
			if middle >= reloadBound {
				t.Errorf("a reload took %v, expected less than %v", middle, reloadBound)
			}
		})
	}
}

// assertCount waits until all clients of a process have an event, and checks that nothing happened to any.
func assertCount(t *testing.T, readers *process, last int) {
	t.Helper()
	states := only(readers.await(fmt.Sprint("event ", last), func(rs []report) bool {
		newest := rs[len(rs)-1]
		return newest.Event == "state" && (newest.Number >= last || newest.Ended > 0)
	}), "state")
	if s := states[len(states)-1]; s.Missing > 0 || s.Doubled > 0 || s.Gaps > 0 || s.Ended > 0 {
		t.Errorf("%d events missing, %d doubled, %d gaps, %d clients disconnected", s.Missing, s.Doubled, s.Gaps, s.Ended)
	}
}

func extraRoute(u *phoenix, i int) string {
	return route(fmt.Sprint("/extra/", i), "linger 0s", "reverse_proxy "+u.address)
}

// Issue 4, acceptance 2: what a reload leaves behind is freed, while the clients of before are there.
func TestReloadsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	u := startPhoenix(t, 500*time.Millisecond, "-ids=all")
	directives := route("/events", "buffer 1000\ngap_event lost", "reverse_proxy "+u.address)
	g := gatewaySetup{program: plainPath, globals: plainHTTP2, directives: directives}.start(t)
	c := startCrowd(t, reloadClients, true, g.url("/events"))
	opened := 1
	reload := func(n int) (resident, heap int64) {
		for range n {
			g.reload(directives)
			// The upstream connection moves each time.
			opened++
			u.awaitEvent("open", opened)
		}
		u.awaitOpen(1)
		heap = g.heap() // collects garbage
		return g.memory(), heap
	}
	resident10, heap10 := reload(10)
	resident50, heap50 := reload(40)
	t.Logf("resident after 10 reloads %d MiB, after 50 %d MiB; heap %d and %d MiB",
		resident10>>20, resident50>>20, heap10>>20, heap50>>20)
	if resident50 > resident10*3/2 {
		t.Errorf("resident memory grew from %d to %d MiB", resident10>>20, resident50>>20)
	}
	if heap50 > heap10*3/2 {
		t.Errorf("the heap grew from %d to %d MiB", heap10>>20, heap50>>20)
	}
	c.assert(record.check, record.checkStayed, record.checkNoGap)
	c.leave()
}

// heap returns how many bytes are in use in the gateway's heap after a garbage collection.
func (g *gateway) heap() int64 {
	g.t.Helper()
	_, text := g.ask(http.MethodGet, "/debug/pprof/heap?gc=1&debug=1", "")
	_, rest, _ := strings.Cut(text, "# HeapInuse = ")
	number, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

// Issue 4, acceptance 2: a configuration that fails changes nothing.
func TestFailedReload(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	u := startPhoenix(t, 20*time.Millisecond, "-ids=none")
	other := u.twin("-ids=none")
	directives := func(address, more string) string {
		return route("/events", "gap_event lost", "reverse_proxy "+address) + more
	}
	g := startGateway(t, directives(u.address, ""))
	c := startCrowd(t, 20, false, g.url("/events"))
	for _, failure := range []struct{ name, more string }{
		{"is not one", "no_such_directive"},
		{"cannot be provisioned", "handle /bad {\nreverse_proxy " + u.address + " {\n" +
			"transport http {\ntls_client_auth /nowhere /nowhere\n}\n}\n}"},
		{"cannot be started", "}\nhttp://other.test {\nbind tcp/127.0.0.2\n}\n" +
			"http://other.test:" + port(taken) + " {\nbind 127.0.0.2"},
	} {
		took, err := g.load(directives(other.address, failure.more))
		if err == nil {
			t.Fatalf("a configuration that %s was taken", failure.name)
		}
		t.Logf("a configuration that %s was refused after %v: %.200s", failure.name, took, err)
		last := u.due() + 20
		c.until("events after it", func(r record) bool { return r.newest >= last })
		f := follow(t, "client that comes later", g.url("/events"), "")
		f.await(last)
		f.close()
	}
	c.assert(record.check, record.checkStayed, record.checkNoGap)
	u.assertOneConnection(true)
	if all, _ := other.connections(); all > 0 {
		t.Errorf("an upstream of a configuration that was refused had %d connections", all)
	}
	// The next that can be taken is.
	g.reload(directives(other.address, ""))
	u.awaitOpen(0)
	last := other.due() + 20
	c.until("events of the other upstream", func(r record) bool { return r.newest >= last })
	c.assert(record.check, record.checkStayed)
}

func port(l net.Listener) string { return strconv.Itoa(l.Addr().(*net.TCPAddr).Port) }

// Issue 4, acceptance 2: a stream that has no handler any more ends, after a whole block.
func TestReloadWithoutHandler(t *testing.T) {
	for _, c := range []struct{ name, directives string }{
		{"refused", "handle /events {\nrespond 410\n}"},
		{"plain", "handle /events {\nreverse_proxy 127.0.0.1:1\n}"},
		{"gone", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := startPhoenix(t, 5*time.Millisecond, "-ids=none")
			kept := route("/kept", "", "reverse_proxy "+u.address)
			g := gatewaySetup{globals: plainHTTP2, directives: kept + route("/events", "", "reverse_proxy "+u.address)}.start(t)
			stay := startCrowd(t, 20, true, g.url("/kept"))
			leave := startCrowd(t, 100, true, g.url("/events"))
			g.reload(kept + c.directives)
			reloaded := time.Now()
			leave.until("the end", func(r record) bool { return len(r.ends) > 0 || r.gaveUp != nil })
			t.Logf("the last response ended after %v", time.Since(reloaded))
			leave.until("the new configuration's answer", func(r record) bool { return r.gaveUp != nil })
			leave.assert(record.checkEnds, func(r record) error {
				if r.heads != 1 || r.missing > 0 || r.doubled > 0 {
					return fmt.Errorf("%d heads, %d events missing, %d doubled", r.heads, r.missing, r.doubled)
				}
				return nil
			})
			u.awaitOpen(1)
			last := u.due() + 100
			stay.until("events", func(r record) bool { return r.newest >= last })
			stay.assert(record.check, record.checkStayed)
		})
	}
}

// Issue 4, acceptance 3: a reload that changes the upstream's address.
func TestReloadChangesUpstream(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, new []string
		ids      bool
		dead     bool // the old upstream, before the reload
	}{
		// Both send the same events, as behind a load balancer.
		{"ids", []string{"-ids=all"}, []string{"-ids=all"}, true, false},
		{"ids, from a dead one", []string{"-ids=all"}, []string{"-ids=all"}, true, true},
		{"no ids, same events", []string{"-ids=none"}, []string{"-ids=none"}, false, false},
		{"no ids, other events", []string{"-ids=none", "-line=old"}, []string{"-ids=none", "-line=new"}, false, false},
		{"no ids, from a dead one", []string{"-ids=none", "-line=old"}, []string{"-ids=none", "-line=new"}, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before := startPhoenix(t, 50*time.Millisecond, c.old...)
			after := before.twin(c.new...)
			testChangeOfUpstream(t, before, after, "reverse_proxy "+before.address, "reverse_proxy "+after.address, c.ids, c.dead)
		})
	}
}

// Issue 4, acceptance 3: many streams are moved in the same time.
func TestReloadMovesManyStreams(t *testing.T) {
	const streams = 300
	before := startPhoenix(t, 200*time.Millisecond, "-ids=all")
	after := before.twin("-ids=all")
	directives := func(u *phoenix) string {
		return route("/events/*", "buffer 1000\ngap_event lost", "reverse_proxy "+u.address)
	}
	g := gatewaySetup{program: plainPath, directives: directives(before)}.start(t)
	c := &crowd{t: t}
	for i := range streams {
		c.all = append(c.all, newEventSource(t, newTransport(), fmt.Sprint("client ", i), http.MethodGet, g.url(fmt.Sprint("/events/", i))))
	}
	c.until("an event", func(r record) bool { return r.events > 0 })
	g.reload(directives(after))
	reloaded := time.Now()
	before.awaitOpen(0)
	last := max(c.newest(), after.due()) + 1
	c.until("events of the new upstream", func(r record) bool { return r.newest >= last })
	took := time.Since(reloaded)
	t.Logf("%d streams moved in %v", streams, took)
	if n := after.open(); n != streams {
		t.Errorf("the new upstream has %d connections, expected %d", n, streams)
	}
	c.assert(record.check, record.checkStayed, record.checkNoGap)
}

// Issue 4, acceptance 3: over HTTP/3 the old upstream connection does not outlive its configuration.
func TestReloadWithHTTP3Upstream(t *testing.T) {
	for _, ids := range []string{"all", "none"} {
		t.Run("ids="+ids, func(t *testing.T) {
			t.Parallel()
			before := startPhoenix(t, 50*time.Millisecond, "-ids="+ids)
			after := before.twin("-ids=" + ids)
			testChangeOfUpstream(t, before, after,
				startHTTP3(t, before), startHTTP3(t, after), ids == "all", false)
		})
	}
}

// testChangeOfUpstream reloads a gateway so that it leads from one upstream to another.
func testChangeOfUpstream(t *testing.T, before, after *phoenix, oldProxy, newProxy string, ids, dead bool) {
	t.Helper()
	directives := func(proxy string) string { return route("/events", "buffer 100000\ngap_event lost", proxy) }
	g := gatewaySetup{globals: plainHTTP2, directives: directives(oldProxy)}.start(t)
	c := startCrowd(t, 100, true, g.url("/events"))
	if dead {
		before.crash()
		g.awaitLog("upstream lost", 4) // it waits longer and longer
	}
	g.reload(directives(newProxy))
	reloaded := time.Now()
	after.awaitEvent("open", 1)
	opened := time.Since(reloaded)
	if !dead {
		before.awaitOpen(0)
	}
	last := max(c.newest(), after.due()) + 1
	c.until("events of the new upstream", func(r record) bool { return r.newest >= last })
	took := time.Since(reloaded)
	c.assert(record.check, record.checkStayed)
	if ids {
		c.assert(record.checkNoGap)
	}
	t.Logf("connected after %v, all clients moved after %v; %d gaps told, %d events skipped, %d repeated by them",
		opened, took, c.count(func(r record) int { return len(r.gaps) }),
		c.count(func(r record) int { return r.skipped }), c.count(func(r record) int { return r.overlapped }))
	if n := after.open(); n != 1 {
		t.Errorf("the new upstream has %d connections, expected 1", n)
	}
	// One that comes now is served by the new upstream too.
	f := follow(t, "client that comes later", g.url("/events"), "")
	f.await(1)
	if all, most := before.connections(); all != 1 || most != 1 {
		t.Errorf("the old upstream had %d connections, %d at a time, expected 1", all, most)
	}
}

// startHTTP3 starts a Caddy in front of a ticker that speaks HTTP/3 only. It returns what leads to it.
func startHTTP3(t *testing.T, u *phoenix) (proxy string) {
	t.Helper()
	dir := t.TempDir()
	caddyfile := filepath.Join(dir, "Caddyfile")
	text := "{\nadmin off\npersist_config off\nauto_https disable_redirects\nskip_install_trust\n}\n" +
		"https://http3.test {\nbind fdgram/3 {\nprotocols h3\n}\ntls internal\nreverse_proxy " + u.address + "\n}\n"
	if err := os.WriteFile(caddyfile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	file, err := socket.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := command(plainPath, "run", "--config", caddyfile, "--adapter", "caddyfile")
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	p := start(t, "http3", cmd, syscall.SIGKILL)
	p.ended = true
	p.awaitLog("certificate obtained successfully", 1)
	return "reverse_proxy https://" + socket.LocalAddr().String() + " {\nheader_up Host http3.test\n" +
		"transport http {\nversions 3\ntls_server_name http3.test\ntls_insecure_skip_verify\n}\n}"
}
