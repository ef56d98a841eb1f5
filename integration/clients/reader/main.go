// Command reader is a number of clients of an event stream, for the end-to-end tests that freeze or cut off a process. It
// tells its responses' heads and events on its standard output, one JSON object a line.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// report is a line of the standard output.
type report struct {
	Event   string `json:"event"` // open, message or state
	Data    string `json:"data,omitempty"`
	At      int64  `json:"at,omitempty"`      // when it came, in nanoseconds since 1970
	Number  int64  `json:"number,omitempty"`  // of the newest event that all clients have
	Missing int64  `json:"missing,omitempty"` // events, of all clients
	Doubled int64  `json:"doubled,omitempty"`
	Gaps    int64  `json:"gaps,omitempty"`
	Ended   int64  `json:"ended,omitempty"` // responses
}

// state is what all clients have seen, where events are numbered.
type state struct {
	newest                        []atomic.Int64 // of each client
	missing, doubled, gaps, ended atomic.Int64
}

func (s *state) take(client int, m eventstream.Message) {
	if m.Type == "lost" {
		s.gaps.Add(1)
		return
	}
	number, err := strconv.ParseInt(m.Data, 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	newest := s.newest[client].Swap(number)
	switch {
	case newest == 0:
	case number <= newest:
		s.doubled.Add(1)
	default:
		s.missing.Add(number - newest - 1)
	}
}

func (s *state) report() report {
	r := report{
		Event: "state", Number: s.newest[0].Load(),
		Missing: s.missing.Load(), Doubled: s.doubled.Load(), Gaps: s.gaps.Load(), Ended: s.ended.Load(),
	}
	for i := range s.newest {
		r.Number = min(r.Number, s.newest[i].Load())
	}
	return r
}

// receiveBuffer is what a kernel takes for a client that does not read.
const receiveBuffer = 64 << 10

func newTransport(http2 bool) *http.Transport {
	transport := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(receiveBuffer)
		}
		return conn, err
	}
	return transport
}

func read(transport *http.Transport, url string, opened func(), take func(m eventstream.Message)) error {
	req, err := http.NewRequest(http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	req.Host = "gateway.test"
	req.Header.Set("Accept", "text/event-stream")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	opened()
	for m, err := range eventstream.NewReader(resp.Body).Messages() {
		if err != nil {
			return err
		}
		take(m)
	}
	return nil
}

// perConnection is how many clients share an HTTP/2 connection.
const perConnection = 50

func main() {
	n := flag.Int("n", 1, "how many clients")
	http2 := flag.Bool("h2", false, "speak HTTP/2 without TLS")
	count := flag.Bool("count", false, "do not tell events but, now and then, what all clients have seen: their data are numbers")
	flag.Parse()
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	tell := func(r report) {
		mu.Lock()
		defer mu.Unlock()
		if err := out.Encode(r); err != nil {
			log.Fatal(err)
		}
	}
	s := &state{newest: make([]atomic.Int64, *n)}
	var all sync.WaitGroup
	var transport *http.Transport
	for i := range *n {
		if !*http2 || i%perConnection == 0 {
			transport = newTransport(*http2)
		}
		take := func(m eventstream.Message) { tell(report{Event: "message", Data: m.Data, At: time.Now().UnixNano()}) }
		if *count {
			take = func(m eventstream.Message) { s.take(i, m) }
		}
		via := transport
		all.Go(func() {
			err := read(via, flag.Arg(0), func() { tell(report{Event: "open"}) }, take)
			s.ended.Add(1)
			log.Print(err)
		})
	}
	if *count {
		for range time.Tick(100 * time.Millisecond) {
			tell(s.report())
		}
	}
	all.Wait()
}
