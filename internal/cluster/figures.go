package cluster

import (
	"sync/atomic"
)

// Process is this process among the nodes; nil: no configuration has had a cluster yet.
var Process atomic.Pointer[Node]

// figures count what a node does, for operators. All are of its whole life.
type figures struct {
	takeOvers, gaveWay, malformed   atomic.Uint64
	messagesSent, messagesReceived  atomic.Uint64
	bytesSent, bytesReceived        atomic.Uint64
	alone, owned, followed, waiting atomic.Int64 // streams, by what the node is in them
}

// Figures are what operators are told of a node.
type Figures struct {
	Node  string   `json:"node"`   // this one
	Peers []string `json:"others"` // that are alive, sorted

	// Streams that it has now, by its role in them: see stream.NodeRole.
	Asks    int64 `json:"asks"`
	Alone   int64 `json:"alone"`
	Owns    int64 `json:"owns"`
	Follows int64 `json:"follows"`

	TakeOvers uint64 `json:"take_overs"`       // streams that it took over from a node that was gone
	GaveWay   uint64 `json:"gave_way"`         // streams that it gave up because another node had them, too
	Malformed uint64 `json:"messages_dropped"` // they were malformed

	// Between nodes: messages, requests and replies, as the bus is given them.
	MessagesSent     uint64 `json:"messages_sent"`
	MessagesReceived uint64 `json:"messages_received"`
	BytesSent        uint64 `json:"bytes_sent"`
	BytesReceived    uint64 `json:"bytes_received"`
}

// Figures returns them as of now.
func (n *Node) Figures() Figures {
	f := &n.figures
	return Figures{
		Node: n.name, Peers: append([]string{}, n.others()...), // never null
		Asks: f.waiting.Load(), Alone: f.alone.Load(), Owns: f.owned.Load(), Follows: f.followed.Load(),
		TakeOvers: f.takeOvers.Load(), GaveWay: f.gaveWay.Load(), Malformed: f.malformed.Load(),
		MessagesSent: f.messagesSent.Load(), MessagesReceived: f.messagesReceived.Load(),
		BytesSent: f.bytesSent.Load(), BytesReceived: f.bytesReceived.Load(),
	}
}

func (f *figures) sent(text []byte) []byte {
	f.messagesSent.Add(1)
	f.bytesSent.Add(uint64(len(text)))
	return text
}

func (f *figures) received(text []byte) {
	f.messagesReceived.Add(1)
	f.bytesReceived.Add(uint64(len(text)))
}
