// Package caddysse is a Caddy HTTP middleware for Server-Sent Events: it turns many clients of one event stream into one
// upstream connection, and makes that stream survive what happens to clients, upstreams and Caddy itself.
//
// What it guarantees:
//
//  1. No client is given an event that was not meant for it. Requests share a stream only if all that an answer may
//     depend on is the same in them or is withheld from the upstream, and only as far as the operator vouches for it, or
//     it was seen, that the upstream tells them the same. What is not known keeps clients apart.
//  2. Nothing is lost or doubled in silence. A client is given the blocks of its stream in their order, each once; what it
//     cannot be given is told to it: in the response header SSE-Resume, by a gap event, or by the end of its response.
//  3. Nothing is held back: a block goes out when it is complete, and on private streams each byte when it comes.
//  4. A slow client slows nobody but itself. It is cut when it has taken nothing for write_timeout, or lags behind the
//     replay buffer.
//  5. A reload of the configuration ends no stream, and a stop of the process waits for none longer than drain.
//  6. What is no event stream passes as it is.
//  7. Memory is bounded: by buffer for a stream and by memory for the process. What clients choose, in keys, paths or ids,
//     makes nothing grow without a bound.
//
// The packages, each of which imports only those below it (imports_test.go):
//
//	                     caddysse                      Caddy's side: options, requests in, answers
//	                        |                          captured, private streams, metrics
//	  .-----------.---------+-----.-------------.
//	admin        key         delivery        cluster   operators: API, feed, page | who may share, what goes
//	  |           |          |      |           |      upstream | to clients: a request's goroutine, or writers
//	  |           |          |      h2          |      streams of HTTP/2 beside the server | streams of other nodes
//	  '-----------+-----.----'------------------+
//	                  stream                    |      the core: hub, streams, subscribers, splices
//	                 /      \                   |
//	          evidence    upstreams             |      do two connections bring the same? | upstream connections, one
//	             |            |                 |      after the other
//	           replay    logs, meter            |      ring, blocks, ids | lines that must not flood, counters
//	             |            |                 |
//	             '-eventstream'                 |      the wire format; public
//	                              access, hints |      clients to ask for again | advice
//
// internal/doctor is what the command sse-doctor does, and knows eventstream only. internal/number is for conversions.
//
// The files of this package have such an order as well: each names only what itself and files below it declare, module.go
// below most of them and provision.go above all (go -C tools run ./knot ..).
//
// The way of an event, from the upstream's bytes to the client's socket:
//
//  1. upstreamRequest.Open runs the handlers behind sse, with capture as their ResponseWriter: capture.Write.
//  2. upstreams.Conn.Write counts the bytes and gives them to eventstream.Decoder.Write, which cuts them into blocks.
//  3. stream.intake.Take waits for room where somebody is still reading, and takes the stream's lock.
//  4. stream.intake.take drops what a connection repeats, and tells what it skipped: intake.decide.
//  5. stream.intake.wireBlock builds the bytes that every client is sent, once, with their id.
//  6. stream.Stream.apply puts it into the ring (replay.Buffer.Append) and rings: Bell.Ring.
//  7. That closes a channel, for the goroutines in Delivery.Run, and hands lists of connections to writers: inbox.Wake.
//  8. stream.Subscriber.Next, or NextOf for a connection, gives what is after the subscriber's position.
//  9. Response.Send writes and flushes it by the handlers before sse; or writer.write sends the same bytes as a chunk.
//  10. fdSocket.write, asyncSocket.write or streamSocket.write: send(2), TLS, or a frame of HTTP/2.
//
// A private stream takes a shorter way: passThrough.Write, eventWriter.Write, Response.SendBytes.
package caddysse
