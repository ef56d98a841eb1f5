package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/net/http2/hpack"
)

func runClient(ctx context.Context, args []string) error {
	cfg, err := parseClient(args)
	if err != nil {
		return err
	}
	if cfg.resume {
		r, err := runResume(ctx, cfg)
		if err != nil {
			return err
		}
		return r.print(os.Stdout, os.Stderr)
	}
	c, err := newClient(cfg)
	if err != nil {
		return err
	}
	ownThread()
	r, err := c.run(ctx)
	if err != nil {
		return err
	}
	return r.print(os.Stdout, os.Stderr)
}

func runOrigin(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("ssebench origin", flag.ContinueOnError)
	address := f.String("addr", "127.0.0.1:9000", "IPv4 address and port to listen on")
	hello := f.Bool("hello", true, "a comment right after the response head, as many applications send")
	publish := f.String("publish", "", "URL to which each event is posted; then subscribers are served by a hub, not here")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *publish != "" {
		return runPublisher(ctx, *address, *publish)
	}
	ownThread()
	o, port, err := newOrigin(*address, *hello)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "origin on port %d\n", port)
	return o.run(ctx)
}

// ownThread gives the caller a thread, and what else there is to run (signals) another one, on one core too: the
// caller's system calls do not make way for anybody.
func ownThread() {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), 2))
	runtime.LockOSThread()
}

// fields are the header fields of a request over HTTP/2.
func (c *clientConfig) fields(subscriber int) []hpack.HeaderField {
	scheme := "http"
	if c.tls {
		scheme = "https"
	}
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: scheme}, {Name: ":authority", Value: c.address},
		{Name: ":path", Value: c.pathOf(subscriber)}, {Name: "accept", Value: "text/event-stream"},
	}
	for _, h := range c.headers {
		fields = append(fields, hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	return fields
}
