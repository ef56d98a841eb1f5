package stream

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// What operators are told of the streams that there are. No value of a query
// parameter, of a header field or of a cookie is in it, and of a stream's epoch
// only what the log has: an ID of the gateway cannot be made of it.

// maxTold bounds what is told of a text that comes from outside, in bytes.
const maxTold = 256

// maxNames bounds how many parts of a key are named.
const maxNames = 32

// streamNumbers is how many streams the process has had.
var streamNumbers atomic.Uint64

// NextNumber numbers a stream.
func NextNumber() uint64 { return streamNumbers.Add(1) }

// tally counts what was given to the subscribers of a stream.
type tally struct{ events, bytes uint64 }

// count counts blocks that are given to the subscriber. The lock is held.
func (sub *Subscriber) count(blocks []*replay.Block) {
	bytes := uint64(0)
	for _, b := range blocks {
		bytes += uint64(len(b.Wire))
	}
	sub.bytes += bytes
	total := &sub.home.given
	total.bytes += bytes
	total.events += sub.Sent - sub.counted
	sub.counted = sub.Sent
}

// Client is what is told of a client.
type Client struct {
	Remote   string // the address of its connection
	IP       string // its own, if a proxy that is trusted has told another one than remote
	Protocol string // of HTTP
}

// Address is that of the client, if a proxy has not told another one that of its
// connection.
func (c Client) Address() string { return cmp.Or(c.IP, hostOf(c.Remote)) }

// DeliveredBy notes how the subscriber's client is written to.
func (sub *Subscriber) DeliveredBy(delivery string) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.delivery = delivery
}

// noteEnd notes that a connection of the stream has ended. The lock is held.
func (s *Stream) noteEnd(end Ending, now time.Time) {
	if end.Events {
		s.endedAt = now
	}
	if text := end.text(); text != "" {
		s.lastError, s.lastErrorAt = text, now
	}
}

// text says what an upstream connection failed of; empty: it did not.
func (e Ending) text() string {
	switch {
	case e.Clean && e.Events:
		return ""
	case e.Err != nil:
		return Clip(e.Err.Error())
	case e.Status != 0:
		return "status " + strconv.Itoa(e.Status)
	}
	return "no answer"
}

// Clip shortens a text that comes from outside.
func Clip(text string) string {
	if len(text) <= maxTold {
		return text
	}
	return strings.ToValidUTF8(text[:maxTold], "") + "…"
}

// Observed is what operators see and act on: a stream of the hub, or a private
// stream.
type Observed interface {
	// id names it to operators, as nothing else in the process; serial is the
	// number in that.
	ID() string
	Serial() uint64

	// sample and inspect look at it; false if it is none that is shown. The lag,
	// for which a stream looks at each subscriber, is only in the sample.
	Sample(now time.Time) (Sample, bool)
	Inspect() (Info, bool)
	Glance() (Glance, bool)
	SampleSubscribers(now time.Time) []SubscriberSample

	// watch is what a tail reads.
	Watch() TailSource

	// DrainTime is the time of the option drain; LetGo ends the responses of
	// its subscribers within another one, and returns how many there are.
	DrainTime() time.Duration
	LetGo(window time.Duration) (subscribers int)
}

// Info is what is told of a stream.
type Info struct {
	ID             string       `json:"id"`
	Kind           string       `json:"kind"`
	Stream         string       `json:"stream"`
	Epoch          string       `json:"epoch"`
	Listen         string       `json:"listen"`
	Handler        string       `json:"handler"`
	Host           string       `json:"host"`
	Path           string       `json:"path"`
	SeparatedBy    []string     `json:"separated_by"`
	BeganAt        time.Time    `json:"began_at"`
	Private        *PrivateInfo `json:"private"`
	Draining       bool         `json:"draining"`
	Subscribers    int          `json:"subscribers"`
	Splices        int          `json:"splices"`
	EventsReceived uint64       `json:"events_received"`
	BytesReceived  int64        `json:"bytes_received"`
	EventsSent     uint64       `json:"events_sent"`
	BytesSent      uint64       `json:"bytes_sent"`
	FirstEvent     float64      `json:"first_event_seconds"`
	Lag            LagInfo      `json:"lag"`
	Upstream       UpstreamInfo `json:"upstream"`
	Buffer         BufferInfo   `json:"buffer"`
	LastIDs        LastIDs      `json:"last_ids"`
}

// LagInfo is how far a subscriber is behind the newest block; of a stream, how
// far the last one is.
type LagInfo struct {
	Blocks  uint64  `json:"blocks"`
	Seconds float64 `json:"seconds"`
}

// UpstreamInfo is what is told of a stream's upstream connection.
type UpstreamInfo struct {
	State       string     `json:"state"`
	Since       time.Time  `json:"since"`
	Connections int        `json:"connections"`
	Reconnects  int        `json:"reconnects"`
	Attempts    int        `json:"attempts"`
	LastError   *ErrorInfo `json:"last_error"`
}

// ErrorInfo is what an upstream connection failed of.
type ErrorInfo struct {
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// BufferInfo is what is told of a replay buffer.
type BufferInfo struct {
	Blocks    int        `json:"blocks"`
	Bytes     int64      `json:"bytes"`
	Oldest    *time.Time `json:"oldest"`
	Newest    uint64     `json:"newest"`
	Lost      uint64     `json:"lost"`
	MaxBlocks int        `json:"max_blocks"`
	MaxBytes  int64      `json:"max_bytes"`
	MaxAge    float64    `json:"max_age_seconds"`
}

// LastIDs are the newest event IDs of a stream.
type LastIDs struct {
	Upstream string `json:"upstream"`
	Gateway  string `json:"gateway"`
}

// ID names the stream to operators, as nothing else in the process.
func (s *Stream) ID() string { return s.Key.String() + "-" + strconv.FormatUint(s.number, 10) }

// Serial grows from stream to stream of the process.
func (s *Stream) Serial() uint64 { return s.number }

// listed reports whether a stream is shown as one. A splice that can still be
// merged, and a connection that is to succeed a stream's, are not. The lock is
// held.
func (s *Stream) listed() bool { return s.splice == nil }

// shownOf returns the parts of a request that are told: its host, and its path as
// it was received.
func shownOf(parts []Part) (host, path string) {
	for _, part := range parts {
		switch part.Name {
		case "host":
			host = Clip(part.Value)
		case "path", "original path": // the latter comes after
			path = Clip(part.Value)
		}
	}
	return host, path
}

// PlaceOf returns the listen addresses and the handler's name of a place.
func PlaceOf(place string) (listen, handler string) {
	listen, handler, _ = strings.Cut(place, "\x00")
	return listen, handler
}

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
	info = Info{ID: s.ID(), Kind: s.kind(), Stream: s.Key.String(), Epoch: s.epoch[:8], SeparatedBy: s.separatedBy(), BeganAt: s.born}
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
	info.Subscribers, info.Splices = len(s.subs), len(s.splices)
	info.EventsReceived, info.BytesReceived = f.Events, s.received
	info.EventsSent, info.BytesSent = s.given.events, s.given.bytes
	info.Upstream = s.inspectUpstream()
	info.Buffer = BufferInfo{
		Blocks: len(f.Blocks), Bytes: f.Size, Newest: f.Newest, Lost: f.Lost,
		MaxBlocks: f.Limits.Events, MaxBytes: f.Limits.Size, MaxAge: f.Limits.Age.Seconds(),
	}
	if len(f.Blocks) > 0 {
		info.Buffer.Oldest = &f.Blocks[0].At
	}
	info.LastIDs.Upstream = Clip(s.lastUpstreamID)
	if !s.upstreamIDs && s.options.IDs != IDsUpstream && !s.isSplice && f.Newest > 0 {
		info.LastIDs.Gateway = shownID(string(replay.AppendID(nil, s.epoch, f.Newest)))
	}
	return info, true
}

// inspectUpstream tells about the stream's upstream connection. The lock is
// held.
func (s *Stream) inspectUpstream() UpstreamInfo {
	u := UpstreamInfo{
		State: s.upstreamState(), Since: s.born, Connections: s.connections, Reconnects: s.reconnects, Attempts: s.backoff.attempts,
	}
	switch {
	case u.State == StateOpen:
		u.Since = s.track.HeadAt
	case !s.endedAt.IsZero():
		u.Since = s.endedAt
	}
	if s.lastError != "" {
		u.LastError = &ErrorInfo{Text: s.lastError, At: s.lastErrorAt}
	}
	return u
}

// lag is how far the last subscriber is behind. The lock is held.
func (s *Stream) lag(now time.Time) (most LagInfo) {
	for sub := range s.subs {
		l := sub.lag(now)
		most.Blocks, most.Seconds = max(most.Blocks, l.Blocks), max(most.Seconds, l.Seconds)
	}
	return most
}

// lag is how far the subscriber is behind what it reads. The lock is held.
func (sub *Subscriber) lag(now time.Time) (l LagInfo) {
	f := &sub.stream.buffer
	if !sub.waiting && sub.cursor < f.Newest && (sub.finish == "" || sub.cursor < sub.finishAt) {
		l.Blocks = f.Newest - sub.cursor
		if rest := f.After(sub.cursor); len(rest) > 0 {
			l.Seconds = max(0, now.Sub(rest[0].At).Seconds())
		}
	}
	if sub.unwritten > 0 {
		l.Blocks += uint64(sub.unwritten)
		l.Seconds = max(0, now.Sub(sub.unwrittenAt).Seconds())
	}
	return l
}

// SubscriberSample is what was seen of a subscriber.
type SubscriberSample struct {
	Client   Client
	Delivery string
	Joined   time.Time
	Outcome  string
	Spliced  bool
	Lag      LagInfo
	Events   uint64
	Bytes    uint64
}

// SampleSubscribers looks at the stream's subscribers. There may be very many,
// and the stream waits.
func (s *Stream) SampleSubscribers(now time.Time) []SubscriberSample {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]SubscriberSample, 0, len(s.subs))
	for sub := range s.subs {
		all = append(all, SubscriberSample{
			sub.client, sub.delivery, sub.joined, sub.Outcome, sub.waiting || sub.stream != s, sub.lag(now), sub.Sent, sub.bytes,
		})
	}
	return all
}

// hostOf is the host of an address.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// LetGo drains the stream because an operator says so.
func (s *Stream) LetGo(window time.Duration) (subscribers int) {
	s.mu.Lock()
	subscribers = len(s.subs)
	s.mu.Unlock()
	s.Log().Info("drained by an operator", zap.Duration("window", window), zap.Int("subscribers", subscribers))
	s.drain(window, EndAdmin)
	return subscribers
}

// Sample is what changes of a stream, for sorting and for rates.
type Sample struct {
	Of          Observed
	Number      uint64
	Kind        string
	Key         Key    // of a private stream it says nothing
	Place       string // of its handler
	Host        string
	Path        string
	Private     bool
	Connections int // upstream connections, those of splices too
	Subscribers int
	Received    uint64 // events
	Sent        uint64
	Bytes       uint64 // sent
	Reconnects  int
	State       string
	Lost        bool // an upstream connection that was open
	Lag         LagInfo

	// Of the last second; see internal/admin.
	ReceivedRate float64
	SentRate     float64
}

// Sample looks at the stream; false if it is none that is shown.
func (s *Stream) Sample(now time.Time) (Sample, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.upstreamState()
	connections := len(s.splices)
	if state == StateOpen || state == StateOpening {
		connections++
	}
	return Sample{
		Of:          s,
		Number:      s.number,
		Kind:        s.kind(),
		Key:         s.Key,
		Place:       s.place,
		Host:        s.shownHost,
		Path:        s.shownPath,
		Connections: connections,
		Subscribers: len(s.subs),
		Received:    s.buffer.Events,
		Sent:        s.given.events,
		Bytes:       s.given.bytes,
		Reconnects:  s.reconnects,
		State:       state,
		Lost:        (state == StateOpening || state == StateWaiting) && !s.endedAt.IsZero(),
		Lag:         s.lag(now),
	}, s.listed()
}

// Glance is what changes of a stream and costs little to look at, however many
// subscribers it has.
type Glance struct {
	Number      uint64
	Subscribers int
	Received    uint64 // events
	Sent        uint64
}

// Glance looks at the stream; false if it is none that is shown.
func (s *Stream) Glance() (Glance, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Glance{s.number, len(s.subs), s.buffer.Events, s.given.events}, s.listed()
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
