package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// What a server does for a subscriber that comes back, and when its upstream connection breaks: two subscribers
// read; one leaves, misses some events, and comes back with the last event ID that it saw, if it saw any. At the end
// the origin cuts its connections.

// resumeResult is what became of them.
type resumeResult struct {
	ID     string `json:"id"`     // the last one before the subscriber left
	Missed int64  `json:"missed"` // events that it never got
	Kept   bool   `json:"kept"`   // subscribers stayed when the upstream connection was cut
}

const (
	resumeRate  = 50 // events/s
	resumeAway  = 20 // events published while the subscriber is away
	resumeAfter = 50 // events before it leaves, and after it came back
	cutTime     = 3 * time.Second
)

// follower is one subscriber that is read on demand.
type follower struct {
	scanner scanner
	track   track
	body    io.ReadCloser
}

func (f *follower) deliver(e event, ok bool) {
	switch {
	case !ok:
	case e.last:
		f.track.ended = true
	default:
		f.track.arrive(e.seq)
	}
}

func (f *follower) foreign() {}

func (f *follower) connect(ctx context.Context, c *clientConfig, id string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.address+c.pathOf(0), http.NoBody)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if id != "" {
		req.Header.Set("Last-Event-ID", id)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return fmt.Errorf("connecting: answer %s", resp.Status)
	}
	f.body = resp.Body
	f.scanner = scanner{keepID: true}
	return nil
}

// until reads until done says so.
func (f *follower) until(done func() bool) error {
	for b := make([]byte, 4096); !done(); {
		n, err := f.body.Read(b)
		f.scanner.feed(b[:n], f)
		if err != nil {
			return fmt.Errorf("reading events: %w", err)
		}
	}
	return nil
}

func (f *follower) untilNewest(seq uint32) error {
	return f.until(func() bool { return f.track.newest >= seq })
}

func runResume(ctx context.Context, cfg clientConfig) (*result, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.timeout)
	defer cancel()
	cfg.order.plan = plan{{resumeRate, 10 * time.Minute}} // stopped when it is over
	var stays, leaves follower
	for _, f := range []*follower{&stays, &leaves} {
		if err := f.connect(ctx, &cfg, ""); err != nil {
			return nil, err
		}
		defer func() { _ = f.body.Close() }()
	}
	if _, err := control(ctx, cfg.origin, "start?"+cfg.order.query()); err != nil {
		return nil, err
	}
	if err := leaves.untilNewest(resumeAfter); err != nil {
		return nil, err
	}
	_ = leaves.body.Close()
	left := leaves.track.newest
	if err := stays.untilNewest(left + resumeAway); err != nil {
		return nil, err
	}
	r := &result{
		Label: cfg.label, Scenario: cfg.scenario, Time: time.Now().UTC().Truncate(time.Second), N: 2, Proto: "http/1.1", Streams: 1,
		Size: cfg.order.size, Load: loadAverage(), Resume: &resumeResult{ID: string(leaves.scanner.id)},
	}
	if err := leaves.connect(ctx, &cfg, r.Resume.ID); err != nil {
		return nil, err
	}
	if err := leaves.untilNewest(left + resumeAway + resumeAfter); err != nil {
		return nil, err
	}
	r.Resume.Missed = leaves.track.missing(leaves.track.newest)

	s, err := control(ctx, cfg.origin, "cut")
	if err != nil {
		return nil, err
	}
	r.Origin = &s
	r.Resume.Kept = stays.lasts(cutTime)
	_, err = control(ctx, cfg.origin, "stop")
	return r, err
}

// lasts tells whether the connection is there for so long.
func (f *follower) lasts(d time.Duration) bool {
	timer := time.AfterFunc(d, func() { _ = f.body.Close() })
	_ = f.until(func() bool { return false }) // ends with the connection, or with the timer
	return !timer.Stop()
}
