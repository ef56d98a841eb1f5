package stream

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// What operators are told of the streams that there are. No value of a query
// parameter, of a header field or of a cookie is in it, and of a stream's epoch
// only what the log has: an ID of the gateway cannot be made of it.

// DeliveredBy notes how the subscriber's client is written to.
func (sub *Subscriber) DeliveredBy(way Way) {
	sub.Origin.mu.Lock()
	defer sub.Origin.mu.Unlock()
	sub.delivery = way
}

// listed reports whether a stream is shown as one. A splice that can still be
// merged, and a connection that is to succeed a stream's, are not. The lock is
// held.
func (s *Stream) listed() bool { return s.splice == nil }

// separatedBy names the parts of requests that separate those of the stream
// from others of its path.
func (s *Stream) separatedBy() []string {
	names := []string{}
	for _, part := range s.parts {
		switch kind, _, _ := strings.Cut(part.name, " "); kind {
		case "query", "header", "placeholder", "user", "client":
			names = append(names, Clip(part.name))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxNames)]
}

// Inspect tells about the stream, less its lag; false if it is none that is
// shown.
func (s *Stream) Inspect() (info Info, ok bool) {
	info = Info{ID: s.ID(), Kind: s.kind.label, Stream: s.Key.String(), Epoch: s.epoch[:8], SeparatedBy: s.separatedBy(), BeganAt: s.born}
	info.Listen, info.Handler = PlaceOf(s.place)
	info.Host, info.Path = s.shownHost, s.shownPath
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.listed() {
		return Info{}, false
	}
	f := &s.buffer
	info.Draining = s.draining && !s.private
	info.Private = s.why.Info()
	info.Subscribers, info.Splices = s.countSubscribers(), len(s.splices)
	info.EventsReceived, info.BytesReceived = f.Events, s.figures.received
	info.EventsSent, info.BytesSent = s.figures.given.events, s.figures.given.bytes
	info.Upstream = s.inspectUpstream()
	info.Nodes = s.nodesInfo()
	info.Buffer = BufferInfo{
		Blocks: len(f.Blocks), Bytes: f.Size, Newest: f.Newest, Lost: f.Lost,
		MaxBlocks: f.Limits.Events, MaxBytes: f.Limits.Size, MaxAge: f.Limits.Age.Seconds(),
	}
	if len(f.Blocks) > 0 {
		info.Buffer.Oldest = &f.Blocks[0].At
	}
	info.LastIDs.Upstream = Clip(s.said.lastID)
	if s.givesIDs() && f.Newest > 0 {
		info.LastIDs.Gateway = shownID(string(replay.AppendID(nil, s.epoch, f.Newest)))
	}
	return info, true
}

// inspectUpstream tells about the stream's upstream connection. The lock is
// held.
func (s *Stream) inspectUpstream() UpstreamInfo {
	u := UpstreamInfo{
		State: s.upstreamState(), Since: s.born, Connections: s.attempts.connections, Reconnects: s.figures.reconnects, Attempts: s.attempts.count(),
	}
	switch {
	case u.State == StateOpen:
		u.Since = s.track.HeadAt
	case !s.figures.endedAt.IsZero():
		u.Since = s.figures.endedAt
	}
	if s.figures.lastError != "" {
		u.LastError = &ErrorInfo{Text: s.figures.lastError, At: s.figures.lastErrorAt}
	}
	return u
}

// lag is how far the last subscriber is behind. The lock is held.
func (s *Stream) lag(now time.Time) (most LagInfo) {
	for sub := range s.subscribers() {
		l := sub.lag(now)
		most.Blocks, most.Seconds = max(most.Blocks, l.Blocks), max(most.Seconds, l.Seconds)
	}
	return most
}

// lag is how far the subscriber is behind what it reads. The lock is held.
func (sub *Subscriber) lag(now time.Time) (l LagInfo) {
	f := &sub.stream.buffer
	if !sub.waiting && sub.cursor < f.Newest && (sub.finish() == "" || sub.cursor < sub.ending.at) {
		l.Blocks = f.Newest - sub.cursor
		if rest := f.After(sub.cursor); len(rest) > 0 {
			l.Seconds = max(0, now.Sub(rest[0].At).Seconds())
		}
	}
	if sub.unwritten > 0 {
		l.Blocks += uint64(sub.unwritten)
		l.Seconds = max(0, now.Sub(sub.oldest.At).Seconds())
	}
	return l
}

// SampleSubscribers looks at the stream's subscribers. There may be very many,
// and the stream waits.
func (s *Stream) SampleSubscribers(now time.Time) []SubscriberSample {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]SubscriberSample, 0, s.countSubscribers())
	for sub := range s.subscribers() {
		all = append(all, SubscriberSample{
			sub.client, sub.delivery.String(), sub.joined(), sub.outcome(), sub.waiting || sub.stream != s, sub.lag(now), sub.Sent, sub.bytes,
		})
	}
	return all
}

// LetGo drains the stream because an operator says so.
func (s *Stream) LetGo(window time.Duration) (subscribers int) {
	s.mu.Lock()
	subscribers = s.countSubscribers()
	s.mu.Unlock()
	s.Log().Info("drained by an operator", zap.Duration("window", window), zap.Int("subscribers", subscribers))
	s.drain(window, EndAdmin)
	return subscribers
}

// Sample looks at the stream; false if it is none that is shown.
func (s *Stream) Sample(now time.Time) (Sample, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.upstreamState()
	connections := len(s.splices)
	if (state == StateOpen || state == StateOpening) && !s.follows() {
		connections++
	}
	role := NodeRole("")
	if s.member != nil {
		role = s.member.nodes.Role
	}
	return Sample{
		Of:          s,
		Role:        role,
		Number:      s.number,
		Kind:        s.kind.label,
		Key:         s.Key,
		Place:       s.place,
		Host:        s.shownHost,
		Path:        s.shownPath,
		Connections: connections,
		Subscribers: s.countSubscribers(),
		Received:    s.buffer.Events,
		Sent:        s.figures.given.events,
		Bytes:       s.figures.given.bytes,
		Reconnects:  s.figures.reconnects,
		State:       state,
		Lost:        (state == StateOpening || state == StateWaiting) && !s.figures.endedAt.IsZero(),
		Lag:         s.lag(now),
	}, s.listed()
}

// Glance looks at the stream; false if it is none that is shown.
func (s *Stream) Glance() (Glance, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Glance{s.number, s.countSubscribers(), s.buffer.Events, s.figures.given.events}, s.listed()
}

// Tell tells about the stream that the sample is of; false if it is over.
func (s *Sample) Tell() (Info, bool) {
	info, ok := s.Of.Inspect()
	info.Lag = s.Lag
	return info, ok
}

// Observed returns all streams, private ones too.
func (h *Hub) Observed() []Observed {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	all := make([]Observed, 0, len(h.all)+len(h.private))
	for s := range h.all {
		all = append(all, s)
	}
	for p := range h.private {
		all = append(all, p)
	}
	return all
}

// Samples looks at all streams.
func (h *Hub) Samples(now time.Time) []Sample {
	every := h.Observed()
	all := make([]Sample, 0, len(every))
	for _, o := range every {
		if one, ok := o.Sample(now); ok {
			all = append(all, one)
		}
	}
	return all
}

// Glances looks at all streams.
func (h *Hub) Glances() []Glance {
	every := h.Observed()
	all := make([]Glance, 0, len(every))
	for _, o := range every {
		if one, ok := o.Glance(); ok {
			all = append(all, one)
		}
	}
	return all
}

// HandlerInfo is what is told of a handler.
type HandlerInfo struct {
	Listen   string `json:"listen"`
	Handler  string `json:"handler"`
	Requests uint64 `json:"requests"`
	Streams  uint64 `json:"event_streams"`
}

// InspectHandlers tells of those of all configurations that are in use, in the order in
// which they were provisioned.
func (h *Hub) InspectHandlers() []HandlerInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]HandlerInfo, 0, len(h.instances))
	for _, inst := range h.instances {
		if inst.Retired.Load() {
			continue
		}
		info := HandlerInfo{Requests: inst.Requests.Load(), Streams: inst.Answers.Load()}
		info.Listen, info.Handler = PlaceOf(inst.Place)
		all = append(all, info)
	}
	return all
}

// Find returns the stream that an ID of the admin API names, nil if there is
// none.
func (h *Hub) Find(id string) Observed {
	_, digits, _ := strings.Cut(id, "-")
	number, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return nil
	}
	for _, o := range h.Observed() {
		if o.Serial() != number || o.ID() != id {
			continue
		}
		if _, ok := o.Sample(time.Now()); ok {
			return o
		}
	}
	return nil
}

// nodesInfo is what is told of other nodes; nil: they have nothing to do with the
// stream. The lock is held.
func (s *Stream) nodesInfo() *NodesInfo {
	if s.member == nil {
		return nil
	}
	n := s.member.nodes
	n.Followers = append([]string{}, n.Followers...) // never null
	return &n
}
