package eventstream

import (
	"bytes"
	"slices"
)

const (
	byteOrderMark = "\xEF\xBB\xBF"

	// keepBuffer is the largest buffer that a Decoder keeps between blocks:
	// enough for nearly every event, little enough for thousands of idle
	// streams. A larger one is left to the garbage collector with its block.
	keepBuffer = 64 << 10
)

// Decoder splits an event stream into blocks (HTML 9.2.5), in whatever pieces
// the stream arrives. The zero value is ready to use. See the package
// documentation for what it guarantees. It is not safe for concurrent use.
type Decoder struct {
	// MaxBlockSize bounds Block.Lines, in bytes. A block that grows over it
	// ends the decoding with a [*BlockTooLargeError]. 0 means no limit: the
	// memory used is then up to who writes the stream. Set it before the first
	// Write.
	MaxBlockSize int

	buf    []byte // the unfinished block: lines ended by LF, then what there is of a line
	line   int    // where in buf the unfinished line begins
	bom    int    // bytes of the byte order mark seen; all of them once the stream's start is past
	skipLF bool   // the last byte was CR: an LF now belongs to it
	err    error  // sticky until Reset
}

// Write decodes p, the next bytes of the stream, and calls emit for each block
// that p completes, before Write returns. The block is valid until emit
// returns; emit must not call the Decoder's methods.
//
// If emit returns an error, Write stops and returns it. If a block is larger
// than MaxBlockSize, Write returns a [*BlockTooLargeError]; the blocks before it
// have been emitted and nothing of it is. As what remains of p is not decoded,
// after an error every Write returns the same error until Reset is called.
func (d *Decoder) Write(p []byte, emit func(Block) error) error {
	in := newInput(p)
	for {
		b, ok := d.next(&in)
		if !ok {
			return d.err
		}
		if err := emit(b); err != nil {
			d.fail(err)
			return err
		}
	}
}

// Rest returns what came after the last block: complete lines, their ends
// normalised to LF, then the unfinished line as it came. It is empty where a
// block has just ended and where nothing has come. At the stream's end it
// is not an event (HTML 9.2.6: "any pending data must be discarded"). It is
// valid until the next Write or Reset, and empty after an error.
func (d *Decoder) Rest() []byte {
	if d.bom < len(byteOrderMark) {
		return []byte(byteOrderMark[:d.bom])
	}
	return d.buf
}

// Reset makes d ready for a new stream. MaxBlockSize stays.
func (d *Decoder) Reset() {
	*d = Decoder{MaxBlockSize: d.MaxBlockSize, buf: reusable(d.buf)}
}

// input is a piece of the stream and how far it has been read.
type input struct {
	p   []byte
	pos int // the next byte to read
	cr  int // the first CR at or after pos, or len(p): each byte is searched for CR only once
}

func newInput(p []byte) input {
	in := input{p: p}
	in.findCR()
	return in
}

func (in *input) findCR() {
	in.cr = len(in.p)
	if i := bytes.IndexByte(in.p[in.pos:], '\r'); i >= 0 {
		in.cr = in.pos + i
	}
}

// next reads on to the end of the next block. If there is none, all of in has
// been read, or d.err is set.
func (d *Decoder) next(in *input) (Block, bool) {
	if d.bom < len(byteOrderMark) {
		d.skipBOM(in)
	}
	for d.err == nil && in.pos < len(in.p) {
		if d.skipLF {
			d.skipLF = false
			if in.p[in.pos] == '\n' {
				in.pos++
				continue
			}
		}
		if len(d.buf) == 0 {
			if b, ok := d.view(in); ok {
				return b, true
			}
		}
		if b, ok := d.readLine(in); ok {
			return b, true
		}
	}
	return Block{}, false
}

// skipBOM drops a byte order mark at the very start (HTML 9.2.5: "stream =
// [ bom ] *event"). What only began like one is part of the first line.
func (d *Decoder) skipBOM(in *input) {
	for d.bom < len(byteOrderMark) && in.pos < len(in.p) {
		if in.p[in.pos] != byteOrderMark[d.bom] {
			d.buf = append(d.buf, byteOrderMark[:d.bom]...)
			d.bom = len(byteOrderMark)
			return
		}
		d.bom++
		in.pos++
	}
}

// view is for the usual case: a block that lies in the input as a whole with LF
// line ends only, or a comment before one, is not copied. Of any other block it moves the lines before
// the first CR into the buffer and leaves the rest to readLine.
func (d *Decoder) view(in *input) (Block, bool) {
	start, pos := in.pos, in.pos
	for {
		i := bytes.IndexByte(in.p[pos:in.cr], '\n')
		if i < 0 {
			break
		}
		end := pos
		pos += i + 1
		switch {
		case i > 0 && end == start && in.p[start] == ':': // a comment, and nothing of the block before it
			in.pos = pos
			if !d.fits(pos - start) {
				return Block{}, false
			}
			return parse(in.p[start:pos:pos]), true
		case i > 0: // a line
		case end == start: // a blank line, but no block before it
			start = pos
		default:
			in.pos = pos
			if !d.fits(end - start) {
				return Block{}, false
			}
			return parse(in.p[start:end:end]), true
		}
	}
	in.pos = pos
	if d.fits(pos - start) {
		d.buf = append(d.buf, in.p[start:pos]...)
		d.line = len(d.buf)
	}
	return Block{}, false
}

// readLine reads one line, or what there is of it, into the buffer. It returns
// the block that the line ends if it is blank, or is if it is a comment before
// the other lines of one.
func (d *Decoder) readLine(in *input) (Block, bool) {
	if d.err != nil || in.pos == len(in.p) {
		return Block{}, false
	}
	end := in.cr
	if i := bytes.IndexByte(in.p[in.pos:in.cr], '\n'); i >= 0 {
		end = in.pos + i
	}
	text := in.p[in.pos:end]
	in.pos = end
	if end < len(in.p) {
		in.pos++
		if end == in.cr {
			// The line ends here and now: to wait for a possible LF would delay
			// an event until the next one.
			d.skipLF = true
			in.findCR()
		}
		if len(text) == 0 && d.line == len(d.buf) {
			return d.take()
		}
	}
	if !d.fits(len(text) + 1) { // with its LF, which it has or will get
		return Block{}, false
	}
	d.buf = append(d.buf, text...)
	if end < len(in.p) {
		d.buf = append(d.buf, '\n')
		d.line = len(d.buf)
		if d.buf[0] == ':' { // a comment: what is kept longer does not begin with one
			return d.take()
		}
	}
	return Block{}, false
}

// take returns the buffered block, if there is any. The buffer is free for the
// next block, but not written to before the next call.
func (d *Decoder) take() (Block, bool) {
	lines := d.buf
	d.buf, d.line = reusable(d.buf), 0
	if len(lines) == 0 {
		return Block{}, false
	}
	return parse(slices.Clip(lines)), true
}

// fits reports whether the block may grow by n bytes, and fails if not.
func (d *Decoder) fits(n int) bool {
	if d.MaxBlockSize > 0 && len(d.buf)+n > d.MaxBlockSize {
		d.fail(&BlockTooLargeError{Limit: d.MaxBlockSize})
	}
	return d.err == nil
}

func (d *Decoder) fail(err error) {
	d.err = err
	d.buf, d.line = nil, 0
}

func reusable(buf []byte) []byte {
	if cap(buf) > keepBuffer {
		return nil
	}
	return buf[:0]
}
