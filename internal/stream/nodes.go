package stream

// NodeRole is what a node is in a stream that several may have.
type NodeRole string

// The roles of a node.
const (
	NodeAsks    NodeRole = "asks"    // it does not know yet whether another one has the stream
	NodeAlone   NodeRole = "alone"   // it has an upstream connection, which is not proven to be for all
	NodeOwns    NodeRole = "owns"    // others are given what its upstream connection brings
	NodeFollows NodeRole = "follows" // it is given that
)

// NodeRoles are all of them.
var NodeRoles = []NodeRole{NodeAsks, NodeAlone, NodeOwns, NodeFollows}

// NodesInfo is what is told of the nodes that have a stream. Names are those of
// cluster.Bus.
type NodesInfo struct {
	Role      NodeRole `json:"role"`
	Owner     string   `json:"owner"`     // "": not known, or none
	Followers []string `json:"followers"` // of the owner, as far as this node knows
	Term      uint64   `json:"term"`      // grows with each take-over; 0: there is no owner
}
