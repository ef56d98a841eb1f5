package admin

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Subscriber is what is told of a subscriber.
type Subscriber struct {
	Address  string         `json:"address"`
	ClientIP string         `json:"client_ip"`
	Protocol string         `json:"protocol"`
	Delivery string         `json:"delivery"`
	JoinedAt time.Time      `json:"joined_at"`
	Resume   string         `json:"resume"`
	Spliced  bool           `json:"spliced"`
	Lag      stream.LagInfo `json:"lag"`
	Events   uint64         `json:"events_sent"`
	Bytes    uint64         `json:"bytes_sent"`
}

// tellSubscriber tells about a subscriber.
func tellSubscriber(s *stream.SubscriberSample) Subscriber {
	resume, _, _ := strings.Cut(s.Outcome, ";")
	return Subscriber{
		Address: s.Client.Remote, ClientIP: s.Client.Address(), Protocol: s.Client.Protocol, Delivery: s.Delivery,
		JoinedAt: s.Joined, Resume: resume, Spliced: s.Spliced, Lag: s.Lag, Events: s.Events, Bytes: s.Bytes,
	}
}

// tellSubscribers tells about the part of a stream's subscribers that is asked
// for.
func tellSubscribers(o stream.Observed, now time.Time, page paging[stream.SubscriberSample]) []Subscriber {
	part := page.of(o.SampleSubscribers(now), func(a, b *stream.SubscriberSample) int {
		return cmp.Or(a.Joined.Compare(b.Joined), cmp.Compare(a.Client.Remote, b.Client.Remote))
	})
	all := make([]Subscriber, 0, len(part))
	for i := range part {
		all = append(all, tellSubscriber(&part[i]))
	}
	return all
}

// countPrivate counts those of private streams.
func countPrivate(all []stream.Sample) (n int) {
	for i := range all {
		if all[i].Private {
			n++
		}
	}
	return n
}

// streamOrders compare streams by what they can be sorted by.
var streamOrders = map[string]func(a, b *stream.Sample) int{
	"began":       func(a, b *stream.Sample) int { return cmp.Compare(a.Number, b.Number) },
	"path":        func(a, b *stream.Sample) int { return cmp.Compare(a.Path, b.Path) },
	"subscribers": func(a, b *stream.Sample) int { return cmp.Compare(a.Subscribers, b.Subscribers) },
	"received":    func(a, b *stream.Sample) int { return cmp.Compare(a.Received, b.Received) },
	"sent":        func(a, b *stream.Sample) int { return cmp.Compare(a.Sent, b.Sent) },
	"bytes":       func(a, b *stream.Sample) int { return cmp.Compare(a.Bytes, b.Bytes) },
	"lag":         func(a, b *stream.Sample) int { return cmp.Compare(a.Lag.Seconds, b.Lag.Seconds) },
	"state":       func(a, b *stream.Sample) int { return cmp.Compare(a.State, b.State) },
	"reconnects":  func(a, b *stream.Sample) int { return cmp.Compare(a.Reconnects, b.Reconnects) },
}

// feedOrders are those of feeds, which know rates.
var feedOrders = func() map[string]func(a, b *stream.Sample) int {
	orders := maps.Clone(streamOrders)
	orders["received_rate"] = func(a, b *stream.Sample) int { return cmp.Compare(a.ReceivedRate, b.ReceivedRate) }
	orders["clients_per_connection"] = func(a, b *stream.Sample) int { return cmp.Compare(perConnection(a), perConnection(b)) }
	orders["sent_rate"] = func(a, b *stream.Sample) int { return cmp.Compare(a.SentRate, b.SentRate) }
	return orders
}()

// subscriberOrders compare subscribers by what they can be sorted by.
var subscriberOrders = map[string]func(a, b *stream.SubscriberSample) int{
	"joined":  func(a, b *stream.SubscriberSample) int { return a.Joined.Compare(b.Joined) },
	"address": func(a, b *stream.SubscriberSample) int { return cmp.Compare(a.Client.Remote, b.Client.Remote) },
	"lag":     func(a, b *stream.SubscriberSample) int { return cmp.Compare(a.Lag.Seconds, b.Lag.Seconds) },
	"events":  func(a, b *stream.SubscriberSample) int { return cmp.Compare(a.Events, b.Events) },
	"bytes":   func(a, b *stream.SubscriberSample) int { return cmp.Compare(a.Bytes, b.Bytes) },
}

// StreamList answers GET /sse/streams.
type StreamList struct {
	Total   int              `json:"total"`
	Offset  int              `json:"offset"`
	Limit   int              `json:"limit"`
	Private int              `json:"private"`
	Cluster *cluster.Figures `json:"cluster"` // nil: there is none
	Streams []stream.Info    `json:"streams"`
}

// tellCluster tells of this node and others; nil: there has been no cluster.
func tellCluster() *cluster.Figures {
	node := cluster.Process.Load()
	if node == nil {
		return nil
	}
	figures := node.Figures()
	return &figures
}

// listStreams answers with all streams.
func listStreams(w http.ResponseWriter, _ *http.Request, query params) error {
	page, err := pagingOf(query, streamOrders, "began")
	if err != nil {
		return err
	}
	meant, err := filterOf(query)
	if err != nil {
		return err
	}
	all := meant.of(stream.Process.Samples(time.Now()))
	list := StreamList{
		Total: len(all), Offset: page.offset, Limit: page.limit, Private: countPrivate(all), Cluster: tellCluster(), Streams: []stream.Info{},
	}
	for _, sample := range page.of(all, streamOrders["began"]) {
		if info, ok := sample.Tell(); ok {
			list.Streams = append(list.Streams, info)
		}
	}
	return writeJSON(w, http.StatusOK, list)
}

// streamOf returns the stream that a request names.
func streamOf(r *http.Request) (stream.Observed, error) {
	id := r.PathValue("id")
	if s := stream.Process.Find(id); s != nil {
		return s, nil
	}
	return nil, noSuchStream(id)
}

func noSuchStream(id string) error {
	return apiError(http.StatusNotFound, "there is no stream %q (any more)", stream.Clip(id))
}

// StreamDetail answers GET /sse/streams/{id}.
type StreamDetail struct {
	stream.Info

	Offset int          `json:"offset"`
	Limit  int          `json:"limit"`
	List   []Subscriber `json:"subscriber_list"`
}

// showStream answers with a stream and its subscribers.
func showStream(w http.ResponseWriter, r *http.Request, query params) error {
	page, err := pagingOf(query, subscriberOrders, "joined")
	if err != nil {
		return err
	}
	s, err := streamOf(r)
	if err != nil {
		return err
	}
	now := time.Now()
	sample, ok := s.Sample(now)
	if !ok {
		return noSuchStream(r.PathValue("id"))
	}
	info, ok := sample.Tell()
	if !ok {
		return noSuchStream(r.PathValue("id"))
	}
	return writeJSON(w, http.StatusOK, StreamDetail{
		Info: info, Offset: page.offset, Limit: page.limit, List: tellSubscribers(s, now, page),
	})
}

// DrainRequest is the body of POST /sse/streams/{id}/drain.
type DrainRequest struct {
	Window *caddy.Duration `json:"window"`
}

// DrainAnswer answers POST /sse/streams/{id}/drain and DELETE /sse/streams/{id}.
type DrainAnswer struct {
	ID          string  `json:"id"`
	Subscribers int     `json:"subscribers"`
	Window      float64 `json:"window_seconds"`
}

const (
	// maxDrainRequest bounds the body of a request to drain, in bytes.
	maxDrainRequest = 4 << 10

	// maxDrain bounds the time over which a stream is drained.
	maxDrain = time.Hour
)

// drainStream lets a stream's subscribers go, each at a random moment.
func drainStream(w http.ResponseWriter, r *http.Request, _ params) error {
	s, err := streamOf(r)
	if err != nil {
		return err
	}
	window := s.DrainTime()
	var body DrainRequest
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxDrainRequest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil && !errors.Is(err, io.EOF) {
		return apiError(http.StatusBadRequest, `expected no body or {"window": "<duration>"}: %v`, err)
	}
	if body.Window != nil {
		window = time.Duration(*body.Window)
	}
	if window < 0 || window > maxDrain {
		return apiError(http.StatusBadRequest, "window: expected a duration from 0s to %v, not %v", maxDrain, window)
	}
	return letGo(w, s, window)
}

// endStream lets a stream's subscribers go at once.
func endStream(w http.ResponseWriter, r *http.Request, _ params) error {
	s, err := streamOf(r)
	if err != nil {
		return err
	}
	return letGo(w, s, 0)
}

// LetGo drains a stream and tells how many subscribers it has.
func letGo(w http.ResponseWriter, s stream.Observed, window time.Duration) error {
	return writeJSON(w, http.StatusAccepted, DrainAnswer{ID: s.ID(), Subscribers: s.LetGo(window), Window: window.Seconds()})
}
