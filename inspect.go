package caddysse

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

// nextNumber numbers a stream.
func nextNumber() uint64 { return streamNumbers.Add(1) }

// tally counts what was given to the subscribers of a stream.
type tally struct{ events, bytes uint64 }

// count counts blocks that are given to the subscriber. The lock is held.
func (sub *subscriber) count(blocks []*replay.Block) {
	bytes := uint64(0)
	for _, b := range blocks {
		bytes += uint64(len(b.Wire))
	}
	sub.bytes += bytes
	total := &sub.home.given
	total.bytes += bytes
	total.events += sub.sent - sub.counted
	sub.counted = sub.sent
}

// clientInfo is what is told of a client.
type clientInfo struct {
	remote   string // the address of its connection
	ip       string // its own, if a proxy that is trusted has told another one than remote
	protocol string // of HTTP
}

// address is that of the client, if a proxy has not told another one that of its
// connection.
func (c clientInfo) address() string { return cmp.Or(c.ip, hostOf(c.remote)) }

// deliveredBy notes how the subscriber's client is written to.
func (sub *subscriber) deliveredBy(delivery string) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.delivery = delivery
}

// noteEnd notes that a connection of the stream has ended. The lock is held.
func (s *stream) noteEnd(end ending, now time.Time) {
	if end.events {
		s.endedAt = now
	}
	if text := end.text(); text != "" {
		s.lastError, s.lastErrorAt = text, now
	}
}

// text says what an upstream connection failed of; empty: it did not.
func (e ending) text() string {
	switch {
	case e.clean && e.events:
		return ""
	case e.err != nil:
		return clipText(e.err.Error())
	case e.status != 0:
		return "status " + strconv.Itoa(e.status)
	}
	return "no answer"
}

// clipText shortens a text that comes from outside.
func clipText(text string) string {
	if len(text) <= maxTold {
		return text
	}
	return strings.ToValidUTF8(text[:maxTold], "") + "…"
}

// observed is what operators see and act on: a stream of the hub, or a private
// stream.
type observed interface {
	// id names it to operators, as nothing else in the process; serial is the
	// number in that.
	id() string
	serial() uint64

	// sample and inspect look at it; false if it is none that is shown. The lag,
	// for which a stream looks at each subscriber, is only in the sample.
	sample(now time.Time) (sample, bool)
	inspect() (streamInfo, bool)
	sampleSubscribers(now time.Time) []subscriberSample

	// watch is what a tail reads.
	watch() tailSource

	// drainTime is the time of the option drain; letGo ends the responses of
	// its subscribers within another one, and returns how many there are.
	drainTime() time.Duration
	letGo(window time.Duration) (subscribers int)
}

// streamInfo is what is told of a stream.
type streamInfo struct {
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
	Draining       bool         `json:"draining"`
	Subscribers    int          `json:"subscribers"`
	Splices        int          `json:"splices"`
	EventsReceived uint64       `json:"events_received"`
	BytesReceived  int64        `json:"bytes_received"`
	EventsSent     uint64       `json:"events_sent"`
	BytesSent      uint64       `json:"bytes_sent"`
	FirstEvent     float64      `json:"first_event_seconds"`
	Lag            lagInfo      `json:"lag"`
	Upstream       upstreamInfo `json:"upstream"`
	Buffer         bufferInfo   `json:"buffer"`
	LastIDs        lastIDs      `json:"last_ids"`
}

// lagInfo is how far a subscriber is behind the newest block; of a stream, how
// far the last one is.
type lagInfo struct {
	Blocks  uint64  `json:"blocks"`
	Seconds float64 `json:"seconds"`
}

// upstreamInfo is what is told of a stream's upstream connection.
type upstreamInfo struct {
	State       string     `json:"state"`
	Since       time.Time  `json:"since"`
	Connections int        `json:"connections"`
	Reconnects  int        `json:"reconnects"`
	Attempts    int        `json:"attempts"`
	LastError   *errorInfo `json:"last_error"`
}

// errorInfo is what an upstream connection failed of.
type errorInfo struct {
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// bufferInfo is what is told of a replay buffer.
type bufferInfo struct {
	Blocks    int        `json:"blocks"`
	Bytes     int64      `json:"bytes"`
	Oldest    *time.Time `json:"oldest"`
	Newest    uint64     `json:"newest"`
	Lost      uint64     `json:"lost"`
	MaxBlocks int        `json:"max_blocks"`
	MaxBytes  int64      `json:"max_bytes"`
	MaxAge    float64    `json:"max_age_seconds"`
}

// lastIDs are the newest event IDs of a stream.
type lastIDs struct {
	Upstream string `json:"upstream"`
	Gateway  string `json:"gateway"`
}

// id names the stream to operators, as nothing else in the process.
func (s *stream) id() string { return s.key.String() + "-" + strconv.FormatUint(s.number, 10) }

func (s *stream) serial() uint64 { return s.number }

// listed reports whether a stream is shown as one. A splice that can still be
// merged, and a connection that is to succeed a stream's, are not. The lock is
// held.
func (s *stream) listed() bool { return s.splice == nil }

// shownOf returns the parts of a request that are told: its host, and its path as
// it was received.
func shownOf(parts []keyPart) (host, path string) {
	for _, part := range parts {
		switch part.name {
		case "host":
			host = clipText(part.value)
		case "path", "original path": // the latter comes after
			path = clipText(part.value)
		}
	}
	return host, path
}

// placeOf returns the listen addresses and the handler's name of a place.
func placeOf(place string) (listen, handler string) {
	listen, handler, _ = strings.Cut(place, "\x00")
	return listen, handler
}

// separatedBy names the parts of requests that separate those of the stream
// from others of its path.
func (s *stream) separatedBy() []string {
	names := []string{}
	for _, part := range s.parts {
		switch kind, _, _ := strings.Cut(part.name, " "); kind {
		case "query", "header", "placeholder", "user", "client":
			names = append(names, clipText(part.name))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxNames)]
}

// inspect tells about the stream, less its lag; false if it is none that is
// shown.
func (s *stream) inspect() (info streamInfo, ok bool) {
	info = streamInfo{ID: s.id(), Kind: s.kind(), Stream: s.key.String(), Epoch: s.epoch[:8], SeparatedBy: s.separatedBy(), BeganAt: s.born}
	info.Listen, info.Handler = placeOf(s.place)
	info.Host, info.Path = s.shownHost, s.shownPath
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.listed() {
		return streamInfo{}, false
	}
	f := &s.buffer
	info.Draining = s.draining && !s.private
	info.Subscribers, info.Splices = len(s.subs), len(s.splices)
	info.EventsReceived, info.BytesReceived = f.Events, s.received
	info.EventsSent, info.BytesSent = s.given.events, s.given.bytes
	info.Upstream = s.inspectUpstream()
	info.Buffer = bufferInfo{
		Blocks: len(f.Blocks), Bytes: f.Size, Newest: f.Newest, Lost: f.Lost,
		MaxBlocks: f.Limits.Events, MaxBytes: f.Limits.Size, MaxAge: f.Limits.Age.Seconds(),
	}
	if len(f.Blocks) > 0 {
		info.Buffer.Oldest = &f.Blocks[0].At
	}
	info.LastIDs.Upstream = clipText(s.lastUpstreamID)
	if !s.upstreamIDs && s.options.ids != idsUpstream && !s.isSplice && f.Newest > 0 {
		info.LastIDs.Gateway = shownID(string(replay.AppendID(nil, s.epoch, f.Newest)))
	}
	return info, true
}

// inspectUpstream tells about the stream's upstream connection. The lock is
// held.
func (s *stream) inspectUpstream() upstreamInfo {
	u := upstreamInfo{
		State: s.upstreamState(), Since: s.born, Connections: s.connections, Reconnects: s.reconnects, Attempts: s.backoff.attempts,
	}
	switch {
	case u.State == stateOpen:
		u.Since = s.headAt
	case !s.endedAt.IsZero():
		u.Since = s.endedAt
	}
	if s.lastError != "" {
		u.LastError = &errorInfo{Text: s.lastError, At: s.lastErrorAt}
	}
	return u
}

// lag is how far the last subscriber is behind. The lock is held.
func (s *stream) lag(now time.Time) (most lagInfo) {
	for sub := range s.subs {
		l := sub.lag(now)
		most.Blocks, most.Seconds = max(most.Blocks, l.Blocks), max(most.Seconds, l.Seconds)
	}
	return most
}

// lag is how far the subscriber is behind what it reads. The lock is held.
func (sub *subscriber) lag(now time.Time) (l lagInfo) {
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

// subscriberSample is what was seen of a subscriber.
type subscriberSample struct {
	client   clientInfo
	delivery string
	joined   time.Time
	outcome  string
	spliced  bool
	lag      lagInfo
	events   uint64
	bytes    uint64
}

// sampleSubscribers looks at the stream's subscribers. There may be very many,
// and the stream waits.
func (s *stream) sampleSubscribers(now time.Time) []subscriberSample {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]subscriberSample, 0, len(s.subs))
	for sub := range s.subs {
		all = append(all, subscriberSample{
			sub.client, sub.delivery, sub.joined, sub.outcome, sub.waiting || sub.stream != s, sub.lag(now), sub.sent, sub.bytes,
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

// letGo drains the stream because an operator says so.
func (s *stream) letGo(window time.Duration) (subscribers int) {
	s.mu.Lock()
	subscribers = len(s.subs)
	s.mu.Unlock()
	s.log().Info("drained by an operator", zap.Duration("window", window), zap.Int("subscribers", subscribers))
	s.drain(window, endAdmin)
	return subscribers
}

// sample is what changes of a stream, for sorting and for rates.
type sample struct {
	of          observed
	number      uint64
	path        string
	private     bool
	subscribers int
	received    uint64 // events
	sent        uint64
	bytes       uint64 // sent
	reconnects  int
	state       string
	lost        bool // an upstream connection that was open
	lag         lagInfo

	// Of the last second; see feed.go.
	receivedRate float64
	sentRate     float64
}

// sample looks at the stream; false if it is none that is shown.
func (s *stream) sample(now time.Time) (sample, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.upstreamState()
	return sample{
		of:          s,
		number:      s.number,
		path:        s.shownPath,
		subscribers: len(s.subs),
		received:    s.buffer.Events,
		sent:        s.given.events,
		bytes:       s.given.bytes,
		reconnects:  s.reconnects,
		state:       state,
		lost:        (state == stateOpening || state == stateWaiting) && !s.endedAt.IsZero(),
		lag:         s.lag(now),
	}, s.listed()
}

// tell tells about the stream that the sample is of; false if it is over.
func (s *sample) tell() (streamInfo, bool) {
	info, ok := s.of.inspect()
	info.Lag = s.lag
	return info, ok
}

// observed returns all streams, private ones too.
func (h *hub) observed() []observed {
	h.allMu.Lock()
	defer h.allMu.Unlock()
	all := make([]observed, 0, len(h.all)+len(h.private))
	for s := range h.all {
		all = append(all, s)
	}
	for p := range h.private {
		all = append(all, p)
	}
	return all
}

// samples looks at all streams.
func (h *hub) samples(now time.Time) []sample {
	every := h.observed()
	all := make([]sample, 0, len(every))
	for _, o := range every {
		if one, ok := o.sample(now); ok {
			all = append(all, one)
		}
	}
	return all
}

// find returns the stream that an ID of the admin API names, nil if there is
// none.
func (h *hub) find(id string) observed {
	_, digits, _ := strings.Cut(id, "-")
	number, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return nil
	}
	for _, o := range h.observed() {
		if o.serial() != number || o.id() != id {
			continue
		}
		if _, ok := o.sample(time.Now()); ok {
			return o
		}
	}
	return nil
}
