package cluster

import "sync/atomic"

// figures count what a node does, for operators. All are of its whole life.
type figures struct {
	takeOvers, gaveWay, malformed   atomic.Uint64
	messagesSent, messagesReceived  atomic.Uint64
	bytesSent, bytesReceived        atomic.Uint64
	alone, owned, followed, waiting atomic.Int64 // streams, by what the node is in them
}

// Figures are what operators are told of a node.
type Figures struct {
	Node  string   // this one
	Peers []string // others that are alive, sorted

	// Streams that it has now, by its role in them: see stream.NodeRole.
	Asks, Alone, Owns, Follows int64

	TakeOvers uint64 // streams that it took over from a node that was gone
	GaveWay   uint64 // streams that it gave up because another node had them, too
	Malformed uint64 // messages that were dropped

	// Between nodes: messages, requests and replies, as the bus is given them.
	MessagesSent, MessagesReceived uint64
	BytesSent, BytesReceived       uint64
}

// Figures returns them as of now.
func (n *Node) Figures() Figures {
	f := &n.figures
	return Figures{
		Node: n.name, Peers: n.others(),
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
