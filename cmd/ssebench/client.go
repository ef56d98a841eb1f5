package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// clientConfig is what the client is to do.
type clientConfig struct {
	label, scenario string
	address         string
	host            string
	path            string
	headers         headerList
	n               int
	streams         int
	h2              bool
	tls             bool
	perConn         int
	conc            int
	stuck           int
	rcvbuf          int
	settle          time.Duration
	timeout         time.Duration
	saturated       time.Duration
	origin          string
	pid             int
	order           order
	resume          bool
}

type headerList [][2]string

func (h *headerList) String() string { return fmt.Sprint(*h) }

func (h *headerList) Set(s string) error {
	name, value, ok := strings.Cut(s, ":")
	if !ok {
		return errors.New("a header is name: value")
	}
	*h = append(*h, [2]string{strings.TrimSpace(name), strings.TrimSpace(value)})
	return nil
}

func parseClient(args []string) (clientConfig, error) {
	var c clientConfig
	var steps string
	f := flag.NewFlagSet("ssebench client", flag.ContinueOnError)
	f.StringVar(&c.label, "label", "", "name of the system, for the report")
	f.StringVar(&c.scenario, "scenario", "", "name of the scenario, for the report")
	f.StringVar(&c.address, "addr", "127.0.0.1:8080", "the server: IPv4 address and port")
	f.StringVar(&c.host, "host", "", "the field Host of HTTP/1.1, in place of the address: nodes share streams of one host")
	f.StringVar(&c.path, "path", "/events", "path; {s} becomes the stream's number")
	f.Var(&c.headers, "header", "'name: value' of each request; may be given again")
	f.IntVar(&c.n, "n", 100, "subscribers")
	f.IntVar(&c.streams, "streams", 1, "subscriber i asks for stream i modulo this")
	f.BoolVar(&c.h2, "h2", false, "HTTP/2: with prior knowledge, or with -tls as both sides agree")
	f.BoolVar(&c.tls, "tls", false, "TLS 1.3; the server's certificate is not verified")
	f.IntVar(&c.perConn, "per-conn", 50, "with -h2: streams on each connection")
	f.IntVar(&c.conc, "conc", 100, "subscribers that may wait for their response heads at once")
	f.IntVar(&c.stuck, "stuck", 0, "clients in addition that never read (HTTP/1.1)")
	f.IntVar(&c.rcvbuf, "rcvbuf", 4096, "receive buffer of clients that never read, bytes")
	f.DurationVar(&c.settle, "settle", 2*time.Second, "wait between the last response head and the sample of memory")
	f.DurationVar(&c.timeout, "timeout", 2*time.Minute, "for all subscribers to be connected")
	f.DurationVar(&c.saturated, "saturated", 3*time.Second, "stop when an event takes longer")
	f.StringVar(&c.origin, "origin", "", "control address of the origin or publisher; without it no events are ordered")
	f.IntVar(&c.pid, "pid", 0, "server process: its CPU time and memory, and its descendants', are sampled")
	f.StringVar(&steps, "steps", "10:5", "rate:seconds,...: events/s of each stream")
	f.IntVar(&c.order.size, "size", 200, "bytes of an event with its blank line, without its id")
	f.IntVar(&c.order.burst, "burst", 1, "events published at a time")
	f.BoolVar(&c.order.ids, "ids", false, "the origin gives ids")
	f.BoolVar(&c.order.coalesce, "coalesce", false, "the origin sends what is due together")
	f.BoolVar(&c.resume, "resume", false, "one subscriber leaves and comes back, and the upstream connection is cut, in place of all else")
	f.IntVar(&c.order.drop, "drop", 0, "the origin withholds every so many events from every second of its subscribers: a test of this tool")
	f.IntVar(&c.order.repeat, "repeat", 0, "the origin sends every so many events twice: a test of this tool")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	var err error
	if c.order.plan, err = parsePlan(steps); err != nil {
		return c, err
	}
	if c.n < 1 || c.streams < 1 || c.perConn < 1 || c.conc < 1 || c.order.size < minSize || c.order.size > maxSize {
		return c, fmt.Errorf("counts are at least 1, and sizes %d to %d", minSize, maxSize)
	}
	if c.tls && (c.stuck > 0 || c.resume) {
		return c, errors.New("-tls is not for -stuck and -resume")
	}
	return c, nil
}

// pathOf returns the path that a subscriber asks for.
func (c *clientConfig) pathOf(subscriber int) string {
	return strings.ReplaceAll(c.path, "{s}", strconv.Itoa(subscriber%c.streams))
}

// request returns an HTTP/1.1 request.
func (c *clientConfig) request(subscriber int) []byte {
	b := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n", c.pathOf(subscriber), cmp.Or(c.host, c.address))
	for _, h := range c.headers {
		b = fmt.Appendf(b, "%s: %s\r\n", h[0], h[1])
	}
	return append(b, "\r\n"...)
}
