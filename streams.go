package caddysse

import (
	"cmp"
	"maps"
	"strings"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// subscriberInfo is what is told of a subscriber.
type subscriberInfo struct {
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
func tellSubscriber(s *stream.SubscriberSample) subscriberInfo {
	resume, _, _ := strings.Cut(s.Outcome, ";")
	return subscriberInfo{
		Address: s.Client.Remote, ClientIP: s.Client.Address(), Protocol: s.Client.Protocol, Delivery: s.Delivery,
		JoinedAt: s.Joined, Resume: resume, Spliced: s.Spliced, Lag: s.Lag, Events: s.Events, Bytes: s.Bytes,
	}
}

// tellSubscribers tells about the part of a stream's subscribers that is asked
// for.
func tellSubscribers(o stream.Observed, now time.Time, page paging[stream.SubscriberSample]) []subscriberInfo {
	part := page.of(o.SampleSubscribers(now), func(a, b *stream.SubscriberSample) int {
		return cmp.Or(a.Joined.Compare(b.Joined), cmp.Compare(a.Client.Remote, b.Client.Remote))
	})
	all := make([]subscriberInfo, 0, len(part))
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
