package caddysse

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/doctor"
	"github.com/caddy-sse/caddy-sse/internal/hints"
)

const (
	// maxProbes bounds how many probe streams a handler serves at once.
	maxProbes = 8

	// maxProbeIdle bounds how long a probe stream is idle: longer than the 60 s
	// after which many proxies cut.
	maxProbeIdle = 65 * time.Second

	// probeHeartbeats is how many heartbeats an idle probe stream is to have.
	probeHeartbeats = 2
)

// errTooManyProbes: there are maxProbes of the handler.
var errTooManyProbes = errors.New("too many probe streams")

func newProbes() *probes {
	return &probes{places: make(chan struct{}, maxProbes), over: make(chan struct{})}
}

// end ends all probe streams: the process stops, or the configuration is left.
func (p *probes) end() { p.once.Do(func() { close(p.over) }) }

// asked returns the kind of probe stream that a request asks for; "": none.
func (p *probes) asked(r *http.Request) string {
	if p == nil || r.Method != http.MethodGet || !acceptsEventStream(r.Header) {
		return ""
	}
	switch kind := r.Header.Get(doctor.ProbeField); kind {
	case doctor.ProbeFlow, doctor.ProbeIdle:
		return kind
	}
	return ""
}

// serveProbe answers with a probe stream.
func (h *Handler) serveProbe(w http.ResponseWriter, r *http.Request, kind string) error {
	select {
	case h.probes.places <- struct{}{}:
		defer func() { <-h.probes.places }()
	default:
		w.Header().Set("Retry-After", "10")
		return caddyhttp.Error(http.StatusServiceUnavailable, errTooManyProbes)
	}
	header := w.Header()
	header.Set("Content-Type", eventStreamType)
	header.Set("Cache-Control", "no-cache")
	setStreamHeaders(header)
	header.Set(doctor.ProbeField, kind)
	w.WriteHeader(http.StatusOK)

	out := delivery.NewResponse(w, r, h.settings, false)
	defer out.Close()
	s := &probeStream{probes: h.probes, hints: h.hints, settings: h.settings, request: r, out: out, began: time.Now()}
	if kind == doctor.ProbeFlow {
		s.flow()
	} else {
		s.idle()
	}
	return nil
}

// probeStream is one probe stream.
type probeStream struct {
	probes   *probes
	hints    *hints.Source
	settings *delivery.Settings
	request  *http.Request
	out      *delivery.Response
	began    time.Time
	number   int
}

// flow sends events at intervals. The last tells what the gateway has noticed of
// the handler by then, by the names of the kinds.
func (s *probeStream) flow() {
	for range doctor.ProbeEvents - 1 {
		if !s.event(doctor.ProbeData{}) || !s.wait(doctor.ProbeInterval) {
			return
		}
	}
	var noticed []string
	for _, kind := range s.hints.Kinds() {
		noticed = append(noticed, string(kind))
	}
	s.event(doctor.ProbeData{Last: true, Hints: noticed})
}

// idle sends nothing but heartbeats, until there were enough.
func (s *probeStream) idle() {
	interval := s.settings.Heartbeat
	if !s.event(doctor.ProbeData{Heartbeat: float64(interval) / float64(time.Millisecond)}) {
		return
	}
	left := maxProbeIdle
	for range probeHeartbeats {
		if interval == 0 || interval > left {
			break
		}
		left -= interval
		if !s.wait(interval) {
			return
		}
		if err := s.out.Send(s.settings.Beat); err != nil {
			return
		}
		delivery.Counts.Heartbeats.Inc()
	}
	if interval > 0 {
		left = min(left, interval/2)
	}
	if s.wait(left) {
		s.event(doctor.ProbeData{Last: true})
	}
}

// event sends an event. It returns false if the client is gone.
func (s *probeStream) event(data doctor.ProbeData) bool {
	s.number++
	data.Number = s.number
	data.At = float64(time.Since(s.began).Microseconds()) / 1000
	text, err := json.Marshal(data)
	if err != nil {
		return false // cannot happen: numbers
	}
	wire, err := eventstream.AppendEvent(nil, eventstream.Event{Type: doctor.ProbeType, Data: string(text)})
	if err != nil {
		return false // cannot happen: JSON has no line ends
	}
	return s.out.Send(wire) == nil
}

// wait returns false if the stream is to end: because the client is gone, or after
// an event that says so.
func (s *probeStream) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.request.Context().Done():
	case <-s.probes.over:
		s.event(doctor.ProbeData{Last: true})
	}
	return false
}
