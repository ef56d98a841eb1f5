package caddysse

import (
	"cmp"
	"maps"
	"strings"
	"time"
)

// subscriberInfo is what is told of a subscriber.
type subscriberInfo struct {
	Address  string    `json:"address"`
	ClientIP string    `json:"client_ip"`
	Protocol string    `json:"protocol"`
	Delivery string    `json:"delivery"`
	JoinedAt time.Time `json:"joined_at"`
	Resume   string    `json:"resume"`
	Spliced  bool      `json:"spliced"`
	Lag      lagInfo   `json:"lag"`
	Events   uint64    `json:"events_sent"`
	Bytes    uint64    `json:"bytes_sent"`
}

// tellSubscriber tells about a subscriber.
func tellSubscriber(s *subscriberSample) subscriberInfo {
	resume, _, _ := strings.Cut(s.outcome, ";")
	return subscriberInfo{
		Address: s.client.remote, ClientIP: s.client.address(), Protocol: s.client.protocol, Delivery: s.delivery,
		JoinedAt: s.joined, Resume: resume, Spliced: s.spliced, Lag: s.lag, Events: s.events, Bytes: s.bytes,
	}
}

// tellSubscribers tells about the part of a stream's subscribers that is asked
// for.
func tellSubscribers(o observed, now time.Time, page paging[subscriberSample]) []subscriberInfo {
	part := page.of(o.sampleSubscribers(now), func(a, b *subscriberSample) int {
		return cmp.Or(a.joined.Compare(b.joined), cmp.Compare(a.client.remote, b.client.remote))
	})
	all := make([]subscriberInfo, 0, len(part))
	for i := range part {
		all = append(all, tellSubscriber(&part[i]))
	}
	return all
}

// countPrivate counts those of private streams.
func countPrivate(all []sample) (n int) {
	for i := range all {
		if all[i].private {
			n++
		}
	}
	return n
}

// streamOrders compare streams by what they can be sorted by.
var streamOrders = map[string]func(a, b *sample) int{
	"began":       func(a, b *sample) int { return cmp.Compare(a.number, b.number) },
	"path":        func(a, b *sample) int { return cmp.Compare(a.path, b.path) },
	"subscribers": func(a, b *sample) int { return cmp.Compare(a.subscribers, b.subscribers) },
	"received":    func(a, b *sample) int { return cmp.Compare(a.received, b.received) },
	"sent":        func(a, b *sample) int { return cmp.Compare(a.sent, b.sent) },
	"bytes":       func(a, b *sample) int { return cmp.Compare(a.bytes, b.bytes) },
	"lag":         func(a, b *sample) int { return cmp.Compare(a.lag.Seconds, b.lag.Seconds) },
	"state":       func(a, b *sample) int { return cmp.Compare(a.state, b.state) },
	"reconnects":  func(a, b *sample) int { return cmp.Compare(a.reconnects, b.reconnects) },
}

// feedOrders are those of feeds, which know rates.
var feedOrders = func() map[string]func(a, b *sample) int {
	orders := maps.Clone(streamOrders)
	orders["received_rate"] = func(a, b *sample) int { return cmp.Compare(a.receivedRate, b.receivedRate) }
	orders["sent_rate"] = func(a, b *sample) int { return cmp.Compare(a.sentRate, b.sentRate) }
	return orders
}()

// subscriberOrders compare subscribers by what they can be sorted by.
var subscriberOrders = map[string]func(a, b *subscriberSample) int{
	"joined":  func(a, b *subscriberSample) int { return a.joined.Compare(b.joined) },
	"address": func(a, b *subscriberSample) int { return cmp.Compare(a.client.remote, b.client.remote) },
	"lag":     func(a, b *subscriberSample) int { return cmp.Compare(a.lag.Seconds, b.lag.Seconds) },
	"events":  func(a, b *subscriberSample) int { return cmp.Compare(a.events, b.events) },
	"bytes":   func(a, b *subscriberSample) int { return cmp.Compare(a.bytes, b.bytes) },
}
