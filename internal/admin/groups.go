package admin

import (
	"cmp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Group is what is told of the streams of a path of a handler.
type Group struct {
	Listen        string         `json:"listen"`
	Handler       string         `json:"handler"`
	Path          string         `json:"path"`
	Host          string         `json:"host"`
	Hosts         int            `json:"hosts"`
	Stream        string         `json:"stream"` // its ID, if there is one only
	Streams       int            `json:"streams"`
	Private       int            `json:"private"`
	Subscribers   int            `json:"subscribers"`
	Connections   int            `json:"connections"`
	PerConnection float64        `json:"clients_per_connection"`
	Lost          int            `json:"lost"`
	Owned         int            `json:"owned"`    // by this node
	Followed      int            `json:"followed"` // another node has the upstream connection
	State         string         `json:"state"`
	ReceivedRate  float64        `json:"received_rate"`
	SentRate      float64        `json:"sent_rate"`
	Lag           stream.LagInfo `json:"lag"`
	History       []Point        `json:"history"`
}

// group is the streams of a path of a handler, summed up.
type group struct {
	stream.Sample

	streams, private, lost int
	owned, followed        int
	hosts                  map[string]struct{}
	numbers                []uint64 // of the streams
}

// groupKey is what a group is of.
type groupKey struct{ place, path string }

// worse orders states by how much an operator wants to see them.
var worse = map[string]int{stream.StateOpen: 1, stream.StateEnded: 2, stream.StateOpening: 3, stream.StateWaiting: 4}

// groupsOf groups streams by handler and path.
func groupsOf(samples []stream.Sample) []group {
	index := make(map[groupKey]int)
	var all []group
	for i := range samples {
		s := &samples[i]
		key := groupKey{s.Place, s.Path}
		at, ok := index[key]
		if !ok {
			at = len(all)
			index[key] = at
			all = append(all, group{Sample: stream.Sample{Of: s.Of, Place: s.Place, Host: s.Host, Path: s.Path}, hosts: make(map[string]struct{})})
		}
		all[at].add(s)
	}
	return all
}

// add adds a stream to a group.
func (g *group) add(s *stream.Sample) {
	g.streams++
	if s.Private {
		g.private++
	}
	if s.Lost {
		g.lost++
	}
	switch s.Role {
	case stream.NodeOwns:
		g.owned++
	case stream.NodeFollows:
		g.followed++
	}
	g.hosts[s.Host] = struct{}{}
	g.numbers = append(g.numbers, s.Number)
	g.Number = max(g.Number, s.Number)
	g.Connections += s.Connections
	g.Subscribers += s.Subscribers
	g.Received += s.Received
	g.Sent += s.Sent
	g.Bytes += s.Bytes
	g.Reconnects += s.Reconnects
	g.ReceivedRate += s.ReceivedRate
	g.SentRate += s.SentRate
	g.Lag.Blocks, g.Lag.Seconds = max(g.Lag.Blocks, s.Lag.Blocks), max(g.Lag.Seconds, s.Lag.Seconds)
	if worse[s.State] > worse[g.State] {
		g.State = s.State
	}
}

// tell tells about a group.
func (g *group) tell(h *remembered) Group {
	listen, handler := stream.PlaceOf(g.Place)
	told := Group{
		Listen: listen, Handler: handler, Path: g.Path, Host: stream.Clip(g.Host), Hosts: len(g.hosts), Streams: g.streams, Private: g.private,
		Subscribers: g.Subscribers, Connections: g.Connections, PerConnection: perConnection(&g.Sample), Lost: g.lost, Owned: g.owned, Followed: g.followed, State: g.State,
		ReceivedRate: g.ReceivedRate, SentRate: g.SentRate, Lag: g.Lag, History: h.of(g.numbers),
	}
	if g.streams == 1 {
		told.Stream = g.Of.ID()
	}
	return told
}

// perConnection is how many clients share an upstream connection.
func perConnection(s *stream.Sample) float64 {
	return float64(s.Subscribers) / float64(max(1, s.Connections))
}

// pageOf returns the part of the groups that is asked for. What is equal is in the
// order of their paths.
func pageOf(page paging[stream.Sample], all []group) []group {
	by := paging[group]{
		compare:    func(a, b *group) int { return page.compare(&a.Sample, &b.Sample) },
		descending: page.descending, offset: page.offset, limit: page.limit,
	}
	return by.of(all, func(a, b *group) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Place, b.Place)) })
}
