package cluster

import "time"

// What a node tells others of a stream, for tests that tell it.
const (
	KindClaim  = kindClaim
	KindEnded  = kindEnded
	KindLeft   = kindLeft
	KindClosed = kindClosed
)

// Say tells others on a bus what an owner of a term would tell of a stream.
func Say(bus Bus, stream string, kind kind, term, after uint64) error {
	m := &message{
		kind: kind, node: bus.Node(), rank: rank{term: term, age: 1, node: bus.Node()}, after: after, reason: "upstream",
	}
	return bus.Publish(blocksOf(stream), m.encode(time.Now()))
}
