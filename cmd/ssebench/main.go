// Command ssebench measures servers of event streams: it is the origin of the events, and the clients that check
// each one for loss, duplication, order and delay.
//
//	ssebench origin -addr 127.0.0.1:9000                 serves event streams, or publishes to nchan
//	ssebench client -addr 127.0.0.1:8080 -origin 127.0.0.1:9000 -n 1000 -pid PID
//	ssebench report results.jsonl                        medians of many runs, as Markdown
//	ssebench certificate DIRECTORY                       cert.pem and key.pem for servers that speak TLS
//
// The client connects to the server under test, has the origin begin, and prints one JSON object on its standard
// output. Used without a server between, the origin is the floor: what sending costs when nothing else is done.
// docs/benchmarks.md has the method, bench/run.sh all scenarios.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usageText = "usage: ssebench client|origin|report|certificate [flags]; -h after one lists its flags"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "ssebench:", err)
		os.Exit(1) //nolint:gocritic // exitAfterDefer: the process ends, and its signal handler with it
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usageText)
	}
	switch args[0] {
	case "client":
		return runClient(ctx, args[1:])
	case "origin":
		return runOrigin(ctx, args[1:])
	case "certificate":
		return runCertificate(args[1:])
	case "report":
		return runReport(args[1:], os.Stdout)
	default:
		return errors.New(usageText)
	}
}
