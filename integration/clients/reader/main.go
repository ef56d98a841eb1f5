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
	"sync"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// message is a line of the standard output.
type message struct {
	Event string `json:"event"`
	Data  string `json:"data,omitempty"`
}

// receiveBuffer is what a kernel takes for a client that does not read.
const receiveBuffer = 64 << 10

func read(url string, http2 bool, report func(r message)) error {
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
	req, err := http.NewRequest(http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	report(message{Event: "open"})
	for m, err := range eventstream.NewReader(resp.Body).Messages() {
		if err != nil {
			return err
		}
		report(message{Event: "message", Data: m.Data})
	}
	return nil
}

func main() {
	n := flag.Int("n", 1, "how many clients")
	http2 := flag.Bool("h2", false, "speak HTTP/2 without TLS")
	flag.Parse()
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	var all sync.WaitGroup
	for range *n {
		all.Go(func() {
			err := read(flag.Arg(0), *http2, func(r message) {
				mu.Lock()
				defer mu.Unlock()
				if err := out.Encode(r); err != nil {
					log.Fatal(err)
				}
			})
			log.Print(err)
		})
	}
	all.Wait()
}
