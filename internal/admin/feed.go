package admin

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// The feed of the live page: once a second what there is, and how it has
// changed in that second.

// feedInterval is how often the streams are looked at while somebody looks.
const feedInterval = time.Second

const (
	// defaultFeed and maxFeed are how many streams a feed shows.
	defaultFeed = 50
	maxFeed     = 200

	// feedSubscribers is how many subscribers the feed of a stream shows.
	feedSubscribers = 50

	// maxHandlers and maxHints are how many of them a feed shows.
	maxHandlers = 50
	maxHints    = 50
)

// look is what was seen of all streams at a moment.
type look struct {
	number  uint64 // of the looks of the process
	at      time.Time
	samples []stream.Sample // never changed
}

// feeder looks at the streams of a hub once in feedInterval, for all viewers,
// while there are any.
type feeder struct {
	hub *stream.Hub

	mu      sync.Mutex
	viewers int
	stop    chan struct{}
	newest  *look         // nil: there is none yet
	number  uint64        // of the last one
	changed chan struct{} // closed and replaced with each
}

// theFeeder is that of the process.
var theFeeder = &feeder{hub: stream.Process}

// join counts a viewer in. The first one starts the looking.
func (f *feeder) join() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.viewers++; f.viewers > 1 {
		return
	}
	f.changed = make(chan struct{})
	f.stop = make(chan struct{})
	go f.run(f.stop)
}

// leave counts a viewer out. The last one ends the looking.
func (f *feeder) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.viewers--; f.viewers == 0 {
		close(f.stop)
		f.newest = nil
	}
}

// after returns the newest look if it is not the one with a number, and what is
// closed when there is another.
func (f *feeder) after(number uint64) (*look, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.newest == nil || f.newest.number == number {
		return nil, f.changed
	}
	return f.newest, f.changed
}

// run looks until stop is closed.
func (f *feeder) run(stop <-chan struct{}) {
	ticker := time.NewTicker(feedInterval)
	defer ticker.Stop()
	var before *look
	for {
		now := time.Now()
		l := &look{at: now, samples: f.hub.Samples(now)}
		if before == nil {
			l.rateSince(theHistory.recall())
		}
		l.rate(before)
		if !f.show(l, stop) {
			return
		}
		before = l
		select {
		case <-ticker.C:
		case <-stop:
			return
		}
	}
}

// show makes a look the newest. It returns false if nobody looks any more.
func (f *feeder) show(l *look, stop <-chan struct{}) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-stop:
		return false // and somebody else may have come
	default:
	}
	f.number++
	l.number = f.number
	f.newest = l
	close(f.changed)
	f.changed = make(chan struct{})
	return true
}

// rate computes the rates since the look before; nil: there was none.
func (l *look) rate(before *look) {
	if before == nil {
		return
	}
	seconds := l.at.Sub(before.at).Seconds()
	if seconds <= 0 {
		return
	}
	had := make(map[stream.Observed]*stream.Sample, len(before.samples))
	for i := range before.samples {
		had[before.samples[i].Of] = &before.samples[i]
	}
	for i := range l.samples {
		s := &l.samples[i]
		b := had[s.Of]
		if b == nil {
			b = new(stream.Sample) // it began meanwhile
		}
		s.ReceivedRate = float64(s.Received-min(b.Received, s.Received)) / seconds
		s.SentRate = float64(s.Sent-min(b.Sent, s.Sent)) / seconds
	}
}

// rateSince computes the rates since the newest glance, for the first look.
func (l *look) rateSince(h *remembered) {
	if len(h.last) == 0 {
		return
	}
	before := &h.last[len(h.last)-1]
	seconds := l.at.Sub(before.at).Seconds()
	if seconds <= 0 || before.of == nil {
		return
	}
	for i := range l.samples {
		s := &l.samples[i]
		received, sent := grown(before.of[s.Number], stream.Glance{Received: s.Received, Sent: s.Sent})
		s.ReceivedRate, s.SentRate = received/seconds, sent/seconds
	}
}

// FeedStream is what the feed tells of a stream.
type FeedStream struct {
	stream.Info

	ReceivedRate float64 `json:"received_rate"`
	SentRate     float64 `json:"sent_rate"`
	Connections  int     `json:"connections"`
	History      []Point `json:"history"`
}

// Totals are sums over all streams; of the lag, the greatest.
type Totals struct {
	Streams      int            `json:"streams"`
	Private      int            `json:"private"`
	Subscribers  int            `json:"subscribers"`
	Connections  int            `json:"connections"`
	Lost         int            `json:"lost"` // whose upstream connection is
	ReceivedRate float64        `json:"received_rate"`
	SentRate     float64        `json:"sent_rate"`
	Lag          stream.LagInfo `json:"lag"`
	History      []Point        `json:"history"`
}

// StreamsEvent is the data of the feed's events of type streams.
type StreamsEvent struct {
	At       time.Time            `json:"at"`
	Totals   Totals               `json:"totals"`
	Matching int                  `json:"matching"`
	Groups   []Group              `json:"groups"`
	Streams  []FeedStream         `json:"streams"`
	Handlers []stream.HandlerInfo `json:"handlers"`
	Hints    []hints.Hint         `json:"hints"`
	Cluster  *cluster.Figures     `json:"cluster"` // nil: there is none
}

// StreamEvent is the data of the feed's events of type stream.
type StreamEvent struct {
	At          time.Time    `json:"at"`
	Stream      FeedStream   `json:"stream"`
	Subscribers []Subscriber `json:"subscriber_list"`
}

// GoneEvent is the data of events of type gone: the stream is over.
type GoneEvent struct {
	ID string `json:"id"`
}

// totals sums the samples up.
func (l *look) totals() Totals {
	t := Totals{Streams: len(l.samples), Private: countPrivate(l.samples), History: []Point{}}
	for i := range l.samples {
		s := &l.samples[i]
		t.Subscribers += s.Subscribers
		t.Connections += s.Connections
		t.ReceivedRate += s.ReceivedRate
		t.SentRate += s.SentRate
		t.Lag.Blocks, t.Lag.Seconds = max(t.Lag.Blocks, s.Lag.Blocks), max(t.Lag.Seconds, s.Lag.Seconds)
		if s.Lost {
			t.Lost++
		}
	}
	return t
}

// tellRates tells about the stream that the sample is of, with its rates; false if
// it is over.
func tellRates(s *stream.Sample, h *remembered) (FeedStream, bool) {
	info, ok := s.Tell()
	return FeedStream{
		Info: info, ReceivedRate: s.ReceivedRate, SentRate: s.SentRate, Connections: s.Connections, History: h.of([]uint64{s.Number}),
	}, ok
}

// serveFeed answers with the feed: of all streams, or of one.
func serveFeed(w http.ResponseWriter, r *http.Request, query params) error {
	page, err := pagingOf(query, feedOrders, "began")
	if err != nil {
		return err
	}
	if page.limit, err = query.number("limit", defaultFeed, 1, maxFeed); err != nil {
		return err
	}
	meant, err := filterOf(query)
	if err != nil {
		return err
	}
	by, err := query.oneOf("by", "stream", []string{"stream", "path"})
	if err != nil {
		return err
	}
	add := func(v *view, l *look, h *remembered) (bool, error) {
		return true, addStreams(v, l, h, page, meant, by == "path")
	}
	if id, ok := query["stream"]; ok {
		s := stream.Process.Find(id)
		if s == nil {
			return noSuchStream(id)
		}
		add = func(v *view, l *look, h *remembered) (bool, error) { return addStream(v, l, h, s) }
	}
	v, err := openView(w, r)
	if err != nil {
		return err
	}
	defer v.close()
	theFeeder.join()
	defer theFeeder.leave()
	number := uint64(0)
	history := theHistory.recall() // for the first event
	for {
		l, changed := theFeeder.after(number)
		if l == nil {
			if !v.wait(changed) {
				return nil
			}
			continue
		}
		number = l.number
		more, err := add(v, l, history)
		history = nil
		if err != nil || v.flush() != nil || !more || !v.stays() {
			return nil // the viewer is gone, or gets no more
		}
	}
}

// addStreams adds the event of a look at the streams that are meant, or at their groups.
func addStreams(v *view, l *look, h *remembered, page paging[stream.Sample], meant filter, grouped bool) error {
	e := StreamsEvent{
		At: l.at, Totals: l.totals(), Groups: []Group{}, Streams: []FeedStream{},
		Handlers: stream.Process.InspectHandlers(), Hints: hints.Process.List(), Cluster: tellCluster(),
	}
	e.Totals.History = h.all()
	e.Handlers = e.Handlers[:min(len(e.Handlers), maxHandlers)]
	e.Hints = e.Hints[:min(len(e.Hints), maxHints)]
	samples := meant.of(l.samples)
	if grouped {
		all := groupsOf(samples)
		e.Matching = len(all)
		for _, g := range pageOf(page, all) {
			e.Groups = append(e.Groups, g.tell(h))
		}
		return v.add("streams", strconv.FormatUint(l.number, 10), e)
	}
	e.Matching = len(samples)
	for _, s := range page.of(samples, streamOrders["began"]) {
		if told, ok := tellRates(&s, h); ok {
			e.Streams = append(e.Streams, told)
		}
	}
	return v.add("streams", strconv.FormatUint(l.number, 10), e)
}

// addStream adds the event of a look at one stream, if that had begun by then. It
// returns false if it is over.
func addStream(v *view, l *look, h *remembered, s stream.Observed) (more bool, err error) {
	for i := range l.samples {
		if l.samples[i].Of != s {
			continue
		}
		told, ok := tellRates(&l.samples[i], h)
		if !ok {
			break
		}
		page := paging[stream.SubscriberSample]{compare: subscriberOrders["lag"], descending: true, limit: feedSubscribers}
		return true, v.add("stream", strconv.FormatUint(l.number, 10), StreamEvent{
			At: l.at, Stream: told, Subscribers: tellSubscribers(s, l.at, page),
		})
	}
	if stream.Process.Find(s.ID()) == s {
		return true, nil
	}
	return false, v.add("gone", strconv.FormatUint(l.number, 10), GoneEvent{ID: s.ID()})
}
