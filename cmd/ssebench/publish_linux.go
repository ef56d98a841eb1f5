package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// publisher stands in for the origin where the server is a hub: it posts each event to it, one after the other on one
// connection. It takes the same orders.
type publisher struct {
	target *url.URL
	clock  clock

	running   atomic.Bool
	stop      atomic.Bool
	published atomic.Uint32
	failure   atomic.Pointer[error]
	wg        sync.WaitGroup
}

func runPublisher(ctx context.Context, address, target string) error {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return fmt.Errorf("%q is not an http URL", target)
	}
	p := &publisher{target: u, clock: newClock()}
	server := &http.Server{Addr: address, Handler: p, ReadHeaderTimeout: 10 * time.Second}
	end := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer end()
	err = server.ListenAndServe()
	p.stop.Store(true)
	p.wg.Wait()
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving orders: %w", err)
	}
	return nil
}

func (p *publisher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case controlPath + "start":
		ord, err := parseOrder(r.URL.RawQuery)
		if err != nil || !p.running.CompareAndSwap(false, true) {
			http.Error(w, fmt.Sprintf("running already, or %v", err), http.StatusBadRequest)
			return
		}
		p.stop.Store(false)
		p.wg.Go(func() { //nolint:contextcheck // publishing outlives the order's request
			if err := p.publish(context.WithoutCancel(r.Context()), ord); err != nil {
				p.failure.Store(&err)
			}
			p.running.Store(false)
		})
	case controlPath + "stop":
		p.stop.Store(true)
	case controlPath + "cut", controlPath + "status": // there is nothing to cut
	default:
		http.NotFound(w, r)
		return
	}
	if err := p.failure.Load(); err != nil {
		http.Error(w, (*err).Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(status{Published: p.published.Load(), Running: p.running.Load()}) // fails when the client has gone
}

// publish posts all events of the order, and the end mark.
func (p *publisher) publish(ctx context.Context, ord order) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", p.target.Host)
	if err != nil {
		return fmt.Errorf("connecting to the hub: %w", err)
	}
	defer func() { _ = conn.Close() }()
	answers := bufio.NewReader(conn)
	p.published.Store(0)
	s := schedule{plan: ord.plan}
	begun := p.clock.now() + int64(startDelay)
	for seq := uint32(1); ; seq++ {
		at, step, more := s.next()
		more = more && !p.stop.Load()
		due := begun + int64(at)
		if more {
			sleepUntil(due)
		}
		e := event{seq: seq, time: due, step: step, last: !more}
		if now := p.clock.now(); now-due < int64(onTime) || !more {
			e.time = now
		}
		if err := p.post(conn, answers, e, ord.size); err != nil {
			return err
		}
		if !more {
			return nil
		}
		p.published.Store(seq)
	}
}

func (p *publisher) post(conn net.Conn, answers *bufio.Reader, e event, size int) error {
	data := bytes.TrimPrefix(bytes.TrimSuffix(appendEvent(nil, e, size, false), []byte("\n\n")), []byte(dataPrefix))
	b := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		p.target.RequestURI(), p.target.Host, len(data), data)
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("posting an event: %w", err)
	}
	resp, err := http.ReadResponse(answers, nil)
	if err != nil {
		return fmt.Errorf("reading the hub's answer: %w", err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode/100 != 2 {
		return fmt.Errorf("the hub answered %s (%w)", resp.Status, err)
	}
	return nil
}

func sleepUntil(at int64) {
	ts := unix.NsecToTimespec(at)
	for errors.Is(unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil), unix.EINTR) {
	}
}
