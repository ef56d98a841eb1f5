// Package cluster lets several gateways share one upstream connection for each stream:
// who of them has it, who follows, and what is said between them. It knows no HTTP and
// no NATS: messages go over a Bus.
//
// A stream is in one of these states on a node (share.go has the code of Run, which is one
// goroutine for each stream and node):
//
//	asks     who owns the stream? Its clients wait for a head.                  follow.go, findOwner
//	follows  another node's blocks are its own.                                 follow.go
//	alone    it has an upstream connection, and gives others nothing, since it
//	         is not proven that all connections are told the same.              own.go, becomeShared
//	owns     it has an upstream connection, and gives others what comes.        own.go
//
// Who is told by nobody that it owns the stream, or loses its owner, has an upstream
// connection of its own. Of two that own, the one of the higher rank has the stream, and
// the other one's clients come over. So the worst that can happen between nodes costs a
// connection more, and a response that ends; never an event that is given to the wrong
// client, or lost or doubled in silence. The choices are in docs/adr/0011-several-nodes.md.
package cluster
