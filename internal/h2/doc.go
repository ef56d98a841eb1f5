// Package h2 shares an HTTP/2 connection (RFC 9113) with the server that speaks
// it: some of the server's responses are taken over, and their bodies written by
// others, between the server's own frames.
//
// A [Conn] stands between the transport (TLS) and the server, which is given its
// [Side]. It sees the frames of both. What does not concern a stream that was
// taken over passes as it is. Its guarantees:
//
//  1. A client is never sent more DATA than its windows allow, whoever sends it.
//  2. Frames of one stream go out in the order in which they were written, those
//     of a header block together, and none after the end of its stream.
//  3. The server is never told of more room than there is: what the client gives
//     for bytes that others have sent, it does not see. What it sends because it
//     does not know of them is held until the client gives room.
//  4. What the client does wrong reaches the server, which punishes it.
//  5. Nothing waits under the lock of the state. Only the server's own Write, and
//     goroutines of this package, wait for the client.
//
// How a stream is found: whoever serves the response sends its head, makes a
// [Claim], and writes the claim's marker in one flush. The frame with the marker
// names the stream; it is not sent to the client, all that was written before it
// is. So nothing of the server's insides is relied upon. A server that splits the
// marker sends it, which has to be harmless: it is a comment of an event stream.
//
// The locks, in this order: rmu or wmu (who reads from, who writes to the
// transport), then mu (the state). The functions given to Watch and Written are
// called under mu.
package h2
