package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// What the client tells the origin, and asks it: requests under this path are no subscribers.
const controlPath = "/bench/"

// order is what is to be published.
type order struct {
	plan     plan
	size     int  // of a block
	burst    int  // events published at a time
	ids      bool // with id lines
	coalesce bool // what is due goes out in one send
	drop     int  // leave out every so many events for every second subscriber: to test the client
	repeat   int  // send every so many events twice: to test the client
}

func (o order) query() string {
	q := url.Values{"steps": {o.plan.String()}}
	for name, n := range map[string]int{"size": o.size, "burst": o.burst, "drop": o.drop, "repeat": o.repeat} {
		q.Set(name, strconv.Itoa(n))
	}
	q.Set("ids", strconv.FormatBool(o.ids))
	q.Set("coalesce", strconv.FormatBool(o.coalesce))
	return q.Encode()
}

func parseOrder(query string) (order, error) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return order{}, fmt.Errorf("parsing the order: %w", err)
	}
	p, err := parsePlan(q.Get("steps"))
	if err != nil {
		return order{}, err
	}
	number := func(name string) int {
		n, _ := strconv.Atoi(q.Get(name)) // absent is 0
		return n
	}
	return order{
		plan: p, size: min(max(number("size"), minSize), maxSize), burst: max(number("burst"), 1),
		ids: q.Get("ids") == "true", coalesce: q.Get("coalesce") == "true", drop: number("drop"), repeat: number("repeat"),
	}, nil
}

// status is what the origin counts.
type status struct {
	Published uint32 `json:"published"` // events of this run
	Running   bool   `json:"running"`
	Current   int    `json:"current"`  // connections
	Peak      int    `json:"peak"`     // connections at once
	Accepted  int    `json:"accepted"` // connections in all
	Dropped   int64  `json:"dropped"`  // events not sent to a subscriber that was too slow
}

// control sends a command to the origin.
func control(ctx context.Context, origin, command string) (status, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+origin+controlPath+command, http.NoBody)
	if err != nil {
		return status{}, fmt.Errorf("calling the origin: %w", err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return status{}, fmt.Errorf("calling the origin: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return status{}, fmt.Errorf("calling the origin: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return status{}, fmt.Errorf("the origin refused %s: %s", command, text)
	}
	var s status
	if err := json.Unmarshal(text, &s); err != nil {
		return status{}, fmt.Errorf("reading the origin's answer: %w", err)
	}
	return s, nil
}
