// Command ticker is an application with one event stream, for the end-to-end tests. All its connections get the same
// events, which are numbered from 1: at an interval, or as told on its standard input. What happens is told on standard
// output, one JSON object a line. It ends with its standard input, or at SIGTERM after it has ended its responses.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// report is a line of the standard output.
type report struct {
	Event       string `json:"event"` // listening, open, close or emitted
	Address     string `json:"address,omitempty"`
	Connection  int    `json:"connection,omitempty"`
	Protocol    string `json:"protocol,omitempty"`
	LastEventID string `json:"last_event_id,omitempty"`
	Number      int    `json:"number,omitempty"` // of the newest event
	At          int64  `json:"at"`               // Unix time in nanoseconds
}

// source numbers the events and gives them to all connections.
type source struct {
	term    <-chan os.Signal
	ids     string        // none, all, or mixed: every third event has one
	history bool          // a connection with a last event ID first gets what came after it
	line    string        // a second line of data, if any
	retry   time.Duration // a reconnection time for each connection, if any

	mu          sync.Mutex
	number      int
	connections int
	open        map[chan<- string]struct{}
	out         *json.Encoder
}

// queue is how many events a connection may be behind. The gateway reads as they come.
const queue = 1 << 14

func (s *source) report(r report) {
	r.At = time.Now().UnixNano()
	if err := s.out.Encode(r); err != nil {
		log.Fatal(err)
	}
}

// emit sends the next n events.
func (s *source) emit(n int) { s.emitUntil(func() int { return s.number + n }) }

// emitUntil sends the events up to a number, which is asked for under the lock.
func (s *source) emitUntil(last func() int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range last() - s.number {
		s.number++
		text := s.event(s.number)
		for events := range s.open {
			events <- text
		}
	}
	s.report(report{Event: "emitted", Number: s.number})
}

func (s *source) event(number int) string {
	var b strings.Builder
	if s.ids == "all" || (s.ids == "mixed" && number%3 == 0) {
		fmt.Fprintf(&b, "id: %d\n", number)
	}
	fmt.Fprintf(&b, "data: %d\n", number)
	if s.line != "" {
		b.WriteString("data: " + s.line + "\n")
	}
	b.WriteByte('\n')
	return b.String()
}

// serve writes the events to one connection until ctx is done or a write fails. Whoever has the head, which begin
// writes, gets all events from then on.
func (s *source) serve(ctx context.Context, protocol, lastEventID string, begin func() error, write func(text string) error) {
	events := make(chan string, queue)
	if s.retry > 0 {
		events <- fmt.Sprintf("retry: %d\n\n", s.retry.Milliseconds())
	}
	s.mu.Lock()
	if had, err := strconv.Atoi(lastEventID); err == nil && s.history {
		for number := had + 1; number <= s.number; number++ {
			events <- s.event(number)
		}
	}
	s.connections++
	n := s.connections
	s.open[events] = struct{}{}
	s.report(report{Event: "open", Connection: n, Protocol: protocol, LastEventID: lastEventID})
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, events)
		s.report(report{Event: "close", Connection: n, Number: s.number})
	}()
	if begin() != nil {
		return
	}
	for {
		select {
		case text := <-events:
			if write(text) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// obey carries out the commands of the standard input until it ends: "emit <n>".
func (s *source) obey(in io.Reader) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		count, ok := strings.CutPrefix(lines.Text(), "emit ")
		n, err := strconv.Atoi(count)
		if !ok || err != nil {
			return fmt.Errorf("unknown command %q", lines.Text())
		}
		s.emit(n)
	}
	return lines.Err()
}

// patience is for an address that a listener had which is closed: a process that is just being started may have it until it
// runs its program.
const patience = 10 * time.Second

func main() {
	mode := flag.String("mode", "http", "http, h2c, h2, fastcgi, gzip, http10 or bytes")
	ids := flag.String("ids", "none", "which events have an id: none, all or mixed")
	history := flag.Bool("history", false, "give a connection with a last event ID what came after it")
	size := flag.Int("size", 0, "how many bytes of data an event has in addition")
	line := flag.String("line", "", "second line of the data")
	retry := flag.Duration("retry", 0, "reconnection time that each connection is told first")
	interval := flag.Duration("interval", 0, "time between events; 0: only as told")
	since := flag.Int64("since", 0, "Unix time in nanoseconds of event 0: after a restart the numbers go on")
	address := flag.String("address", "127.0.0.1:0", "where to listen")
	flag.Parse()

	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	s := &source{
		term:    term,
		ids:     *ids,
		history: *history,
		line:    cmp.Or(*line, strings.Repeat("x", *size)),
		retry:   *retry,
		open:    make(map[chan<- string]struct{}),
		out:     json.NewEncoder(os.Stdout),
	}
	listener, err := net.Listen("tcp", *address)
	for began := time.Now(); errors.Is(err, syscall.EADDRINUSE) && time.Since(began) < patience; listener, err = net.Listen("tcp", *address) {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		log.Fatal(err)
	}
	due := func() int { return s.number + 1 }
	if *since > 0 {
		due = func() int { return int(time.Since(time.Unix(0, *since)) / *interval) }
		s.number = due()
	}
	s.mu.Lock()
	s.report(report{Event: "listening", Address: listener.Addr().String()})
	s.mu.Unlock()
	if *interval > 0 {
		go func() {
			for range time.Tick(*interval) {
				s.emitUntil(due)
			}
		}()
	}
	ended := make(chan error, 2)
	go func() { ended <- s.listen(*mode, listener) }()
	go func() { ended <- cmp.Or(s.obey(os.Stdin), io.EOF) }()
	if err := <-ended; !errors.Is(err, io.EOF) {
		log.Fatal(err)
	}
}
