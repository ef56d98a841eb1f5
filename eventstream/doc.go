// Package eventstream reads and writes the text/event-stream format of
// Server-Sent Events as the HTML standard (WHATWG) defines it, in section 9.2.5
// (parsing) and 9.2.6 (interpretation). It depends on the standard library
// only and knows nothing of HTTP.
//
// [Decoder] is for whoever relays or stores streams: it takes bytes as they
// arrive and gives blocks, with their lines as they came. [Reader] is for
// clients: it gives the events that a browser's EventSource would dispatch. The
// Append functions write.
//
// A block is a run of lines that a blank line ends. It is an event, and
// dispatches, if it has a data field; if not, it may still set the last event
// ID or the reconnection time, or be only comments. A comment line with which a
// run would begin is a block of its own: applications that keep a connection
// alive send comments without a blank line.
//
// # Guarantees
//
//  1. Splits do not matter. However the stream is cut into Writes, between CR
//     and LF, within a character or within the byte order mark, the same
//     blocks come out.
//  2. Nothing waits. A block is emitted by the Write that brings the last byte
//     of its blank line; a comment, while nothing else of a block has come, by
//     the one that brings its line end. A CR is a line end as soon as it is there; an LF that
//     follows belongs to it, also in the next Write.
//  3. Lines stay as they came: order, comments, unknown and ignored fields,
//     invalid UTF-8. Changed are only the line ends, to LF, and one byte order
//     mark at the very start of the stream, which is dropped.
//  4. Only whole blocks are emitted. What is not ended by a blank line, and is
//     no comment before the other lines, is in Rest. Of a block over MaxBlockSize nothing is emitted, and the decoder
//     stops for good, with an error.
//  5. The work is linear in the bytes, whatever is in them and however they are
//     cut.
//  6. A block that lies in one Write as a whole and has LF line ends only is not
//     copied and costs no allocation. Others go through one buffer that is
//     used again, is never much larger than the largest block, and is not kept
//     if it is larger than 64 KiB.
//  7. Relaying is faithful: the Lines of each block and an LF, one after the
//     other, are a stream that dispatches the same events as the one that came,
//     with one exception that the writer has to mind. Lines may begin with a
//     byte order mark that did not come at the stream's start and so is part of
//     a field's name. As the first bytes of a response it would be dropped; an
//     LF before it prevents that.
//  8. What the Append functions write is read as what they were given: spaces
//     at the start are kept, and CR, LF and NUL are refused where they would
//     end the line or make the reader ignore it. Not kept is which line end
//     divides the lines of data, CR and CRLF become LF, and what of a
//     reconnection time is finer than a millisecond.
//
// # Where the standard leaves room
//
// A retry field without a value is ignored, as it is no number. Reconnection
// times over [MaxRetry] are taken as MaxRetry. Bytes that are not UTF-8, for
// which a browser shows U+FFFD, are left as they are.
package eventstream
