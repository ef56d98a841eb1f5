package eventstream

import (
	"bytes"
	"io"
	"iter"
	"time"
)

// readSize is how much a Reader asks for at once.
const readSize = 4 << 10

// maxEmptyReads is how many reads in a row may bring neither bytes nor an error.
const maxEmptyReads = 100

// Message is an event as EventSource would dispatch it (HTML 9.2.6).
type Message struct {
	Type        string // "message" if the event has no type
	Data        string
	LastEventID string // of this event, or the last one before that set it
}

// Reader reads an event stream as a client does. It is not safe for concurrent
// use.
type Reader struct {
	// MaxBlockSize is as in [Decoder]. Set it before the first read.
	MaxBlockSize int

	src io.Reader
	dec Decoder
	buf []byte
	in  input // what of buf has not been decoded
	err error // of src; final
	eof bool  // err is the stream's proper end

	lastEventID string
	retry       time.Duration
	hasRetry    bool
}

// NewReader returns a Reader of the event stream r. It never reads more from r
// when it already has a complete event to deliver.
func NewReader(r io.Reader) *Reader { return &Reader{src: r} }

// Messages yields the events of the stream. The stream's end (io.EOF) ends the
// sequence; any other error is yielded, with an empty Message, and then ends
// it. A sequence that was left early goes on with the next call of Messages or
// Blocks.
func (r *Reader) Messages() iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		var data []byte
		for b, err := range r.Blocks() {
			var m Message
			if err == nil {
				if !b.Dispatches() {
					continue
				}
				data = b.AppendData(data[:0])
				m = Message{Type: "message", Data: string(data), LastEventID: r.lastEventID}
				if len(b.Type) > 0 {
					m.Type = string(b.Type)
				}
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// Blocks is like Messages for all blocks, so that comments can be seen too. A
// block is valid until the loop's next turn.
func (r *Reader) Blocks() iter.Seq2[Block, error] {
	return func(yield func(Block, error) bool) {
		for {
			b, err := r.next()
			if r.eof && err != nil || !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// LastEventID returns the last event ID string, which a client sends when it
// reconnects: as of the last block that was read, whether it dispatched or not.
func (r *Reader) LastEventID() string { return r.lastEventID }

// SetLastEventID sets what LastEventID returns until the stream sets another. A
// client that reconnects goes on with the ID it had: browsers do so, although
// HTML 9.2.6 initialises the last event ID buffer of each stream to the empty
// string, by which the first event without an ID would lose it.
func (r *Reader) SetLastEventID(id string) { r.lastEventID = id }

// Retry returns the last reconnection time that the stream has set.
func (r *Reader) Retry() (d time.Duration, ok bool) { return r.retry, r.hasRetry }

// Rest returns what came after the last block; see [Decoder.Rest].
func (r *Reader) Rest() []byte { return r.dec.Rest() }

// next returns the next block or the error that ended the stream.
func (r *Reader) next() (Block, error) {
	for {
		if b, ok := r.dec.next(&r.in); ok {
			if b.HasID && string(b.ID) != r.lastEventID {
				r.lastEventID = string(b.ID)
			}
			r.setRetry(b)
			return b, nil
		}
		if r.dec.err != nil {
			return Block{}, r.dec.err
		}
		if r.err != nil {
			r.endRetry()
			return Block{}, r.err
		}
		r.err = r.read() // bytes may come with it: they are decoded first
	}
}

// read fills the input again.
func (r *Reader) read() error {
	if r.buf == nil {
		r.buf = make([]byte, readSize)
		r.dec.MaxBlockSize = r.MaxBlockSize
	}
	for range maxEmptyReads {
		n, err := r.src.Read(r.buf)
		r.eof = err == io.EOF
		r.in = newInput(r.buf[:n])
		if n > 0 || err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

func (r *Reader) setRetry(b Block) {
	if b.HasRetry {
		r.retry, r.hasRetry = b.Retry, true
	}
}

// endRetry applies the retry fields after the last block. Each is in force from
// its own line on, other than data, type and ID, which wait for the blank line
// (HTML 9.2.6).
func (r *Reader) endRetry() {
	rest := r.dec.Rest()
	r.setRetry(parse(rest[:bytes.LastIndexByte(rest, '\n')+1]))
}
