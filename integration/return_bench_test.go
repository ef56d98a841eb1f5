package integration

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"
)

var returners = flag.Int("returners", 10000, "how many clients come back in BenchmarkReturn")

const (
	returnWindow  = time.Second
	returnStreams = 10
	// returnDelivery bounds the 99th percentile of the time that an event of another stream takes.
	returnDelivery = 250 * time.Millisecond
	// returnMemory bounds what the gateway may have for each client.
	returnMemory = 100 << 10
)

// BenchmarkReturn restarts a gateway that has many clients, which all come back within a second, while another stream of
// the new process is live.
func BenchmarkReturn(b *testing.B) {
	u := startTicker(b, "-interval=1s", "-ids=all", "-history")
	other := startPhoenix(b, 10*time.Millisecond, "-ids=all")
	g := gatewaySetup{
		program: plainPath,
		directives: route("/events/*", "drain 1s\nwrite_timeout 30s", "reverse_proxy "+u.address) +
			route("/probe", "", "reverse_proxy "+other.address),
	}.start(b)
	all := make([]*returner, *returners)
	for i := range all {
		all[i] = &returner{path: fmt.Sprint("/events/", i%returnStreams)}
	}
	comeBack := func() (took time.Duration) {
		began := time.Now()
		together(b, len(all), func(i int) error {
			time.Sleep(rand.N(returnWindow))
			return all[i].connect(g.address)
		})
		return time.Since(began)
	}
	comeBack()
	for b.Loop() {
		together(b, len(all), func(i int) error { return all[i].awaitID() })
		before := len(u.all("open"))
		g.stop()
		together(b, len(all), func(i int) error { return all[i].awaitEnd() })
		g.run(b)
		p := startProbe(b, other, g)
		took := comeBack()
		memory := g.memory()
		together(b, len(all), func(i int) error { return all[i].awaitID() })
		p99, most, n := p.stop()
		memory = max(memory, g.memory())
		opened := len(u.all("open")) - before
		b.ReportMetric(took.Seconds(), "s-to-return")
		b.ReportMetric(float64(memory)/float64(len(all)), "B/client")
		b.ReportMetric(p99.Seconds()*1000, "ms-p99")
		b.ReportMetric(float64(opened), "upstream-connections")
		b.Logf("%d clients were back after %v; %d upstream connections for %d streams, %d open; %d MiB; %d events of the other stream, p99 %v, at most %v",
			len(all), took, opened, returnStreams, u.open(), memory>>20, n, p99, most)
		for end := time.Now().Add(time.Minute); u.open() > returnStreams && time.Now().Before(end); { // splices are merged
			time.Sleep(10 * time.Millisecond)
		}
		if u.open() != returnStreams {
			b.Errorf("%d upstream connections, expected %d", u.open(), returnStreams)
		}
		if p99 > returnDelivery {
			b.Errorf("the 99th percentile of the delivery on another stream was %v, expected %v", p99, returnDelivery)
		}
		if perClient := memory / int64(len(all)); perClient > returnMemory {
			b.Errorf("%d bytes for each client, expected %d", perClient, returnMemory)
		}
	}
	for _, r := range all {
		_ = r.conn.Close()
	}
}

// probe is a client that takes the time of events, in a process of its own: those that come back keep this one busy.
type probe struct {
	*process
	upstream *phoenix
}

func startProbe(b *testing.B, u *phoenix, g *gateway) *probe {
	b.Helper()
	p := &probe{startReaders(b, 1, false, g.url("/probe"), ""), u}
	p.awaitEvent("message", 1)
	return p
}

// stop returns the 99th percentile of the times from when each event was due, the longest, and how many there are.
func (p *probe) stop() (p99, most time.Duration, n int) {
	p.t.Helper()
	var times []time.Duration
	for _, message := range p.all("message") {
		number, err := strconv.Atoi(message.Data)
		if err != nil {
			p.t.Fatal(err)
		}
		times = append(times, time.Unix(0, message.At).Sub(p.upstream.since.Add(time.Duration(number)*p.upstream.every)))
	}
	p.kill()
	slices.Sort(times)
	return times[len(times)*99/100], times[len(times)-1], len(times)
}

// returner is a client that costs little. It has a connection of its own.
type returner struct {
	path string
	conn net.Conn
	in   *bufio.Reader
	id   string
}

var dialing = make(chan struct{}, 256) // what the listener's backlog holds, at most

func (r *returner) connect(address string) error {
	dialing <- struct{}{}
	conn, err := net.Dial("tcp", address)
	<-dialing
	if err != nil {
		return err
	}
	request := "GET " + r.path + " HTTP/1.1\r\nHost: gateway.test\r\nAccept: text/event-stream\r\n"
	if r.id != "" {
		request += "Last-Event-ID: " + r.id + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return err
	}
	r.conn, r.in = conn, bufio.NewReaderSize(conn, 512)
	status, err := r.in.ReadString('\n')
	if err != nil {
		return err
	}
	if status != "HTTP/1.1 200 OK\r\n" {
		return fmt.Errorf("%s: %s", r.path, status)
	}
	return nil
}

// awaitID reads to the next id of an event with data.
func (r *returner) awaitID() error {
	if err := r.conn.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		return err
	}
	for {
		line, err := r.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if id, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
			r.id = string(bytes.TrimSpace(id))
		}
		if bytes.HasPrefix(line, []byte("data: ")) {
			return nil
		}
	}
}

// awaitEnd reads to the end of the response.
func (r *returner) awaitEnd() error {
	defer r.conn.Close()
	for {
		line, err := r.in.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if id, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
			r.id = string(bytes.TrimSpace(id))
		}
	}
}
