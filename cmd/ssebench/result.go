package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// result is one run, as the client prints it.
type result struct {
	Label    string    `json:"label"`
	Scenario string    `json:"scenario"`
	Time     time.Time `json:"time"`
	N        int       `json:"n"`
	Proto    string    `json:"proto"`
	Streams  int       `json:"streams"`
	Stuck    int       `json:"stuck,omitempty"`
	Size     int       `json:"size"`
	Burst    int       `json:"burst,omitempty"`
	Load     string    `json:"load"` // of the machine, before

	Connect connectResult `json:"connect"`
	Idle    idleResult    `json:"idle"`
	Steps   []stepResult  `json:"steps,omitempty"`

	Published int64   `json:"published"`
	Received  int64   `json:"received"` // different events, of all subscribers
	Missing   int64   `json:"missing"`
	Duplicate int64   `json:"duplicate"`
	Reordered int64   `json:"reordered"`
	Corrupt   int64   `json:"corrupt"`
	Foreign   int64   `json:"foreign"` // blocks of other event types
	Ended     int     `json:"ended"`   // subscribers whose stream ended before the end mark
	Saturated bool    `json:"saturated"`
	Origin    *status `json:"origin,omitempty"`

	Resume *resumeResult `json:"resume,omitempty"`
}

type connectResult struct {
	Seconds float64 `json:"seconds"` // until the last response head
	Failed  int     `json:"failed"`
	CPU     float64 `json:"cpu"`      // server's seconds
	PerS    float64 `json:"per_s"`    // subscribers
	PerCore float64 `json:"per_core"` // subscribers per second of the server's CPU time
}

type idleResult struct {
	RSS0          int64   `json:"rss0"` // before the first connection
	RSS1          int64   `json:"rss1"` // after the settling time
	PerSubscriber float64 `json:"per_subscriber"`
	RSS2          int64   `json:"rss2"` // at the end
}

type stepResult struct {
	Rate       float64   `json:"rate"`
	Seconds    float64   `json:"seconds"`    // measured, from its first event to the next step's
	Deliveries int64     `json:"deliveries"` // within these
	PerS       float64   `json:"per_s"`
	Faults     int64     `json:"faults"` // gaps, repetitions, corrupt events and streams that ended, within these seconds
	MBPerS     float64   `json:"mb_per_s"`
	P50        float64   `json:"p50_ms"`
	P90        float64   `json:"p90_ms"`
	P99        float64   `json:"p99_ms"`
	P999       float64   `json:"p999_ms"`
	Max        float64   `json:"max_ms"`
	CPU        float64   `json:"cpu"`    // server's seconds
	PerUS      float64   `json:"cpu_us"` // server's microseconds for a delivery
	Cores      float64   `json:"cores"`  // of the server
	Client     float64   `json:"client_cores"`
	Busy       []float64 `json:"busy"` // each core of the machine, whoever used it
	PerRead    float64   `json:"per_read"`
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (r *result) setLatency(i int, h *hist) {
	s := &r.Steps[i]
	s.P50, s.P90, s.P99, s.P999 = ms(h.quantile(0.5)), ms(h.quantile(0.9)), ms(h.quantile(0.99)), ms(h.quantile(0.999))
	s.Max = ms(h.max)
}

// clean tells whether every subscriber got every event, once and in order.
func (r *result) clean() bool {
	return r.Missing == 0 && r.Duplicate == 0 && r.Reordered == 0 && r.Corrupt == 0 && r.Ended == 0 && r.Connect.Failed == 0
}

// print writes the run as one line of JSON, and some lines for people.
func (r *result) print(machine, people io.Writer) error {
	if err := json.NewEncoder(machine).Encode(r); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: n=%d %s, %d streams, %d bytes; connected in %.2f s (%.0f/s, %.0f per core second), %d failed; %.1f KiB RSS each\n",
		r.Label, r.Scenario, r.N, r.Proto, r.Streams, r.Size, r.Connect.Seconds, r.Connect.PerS, r.Connect.PerCore, r.Connect.Failed,
		r.Idle.PerSubscriber/1024)
	if r.Resume != nil {
		fmt.Fprintf(&b, "  last event ID %q; %d events missed after coming back; kept when the upstream was cut: %t\n", r.Resume.ID, r.Resume.Missed, r.Resume.Kept)
	}
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "  %7.0f ev/s: %8.0f deliveries/s %7.1f MB/s  p50 %.2f p99 %.2f max %.1f ms  %.2f us CPU each, %.2f cores (client %.2f)\n",
			s.Rate, s.PerS, s.MBPerS, s.P50, s.P99, s.Max, s.PerUS, s.Cores, s.Client)
	}
	if len(r.Steps) > 0 {
		fmt.Fprintf(&b, "  %d published; missing %d, duplicate %d, reordered %d, corrupt %d, ended %d, saturated %t\n",
			r.Published, r.Missing, r.Duplicate, r.Reordered, r.Corrupt, r.Ended, r.Saturated)
	}
	if _, err := io.WriteString(people, b.String()); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return nil
}
