package eventstream

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

// copyBlock copies what is only valid during emit, and checks what holds for
// every block.
func copyBlock(tb testing.TB, b Block, lastEventID string) decodedBlock {
	tb.Helper()
	if len(b.Lines) == 0 || b.Lines[len(b.Lines)-1] != '\n' {
		tb.Fatalf("lines %q of a block do not end in LF", b.Lines)
	}
	if strings.HasPrefix(string(b.Lines), "\n") || strings.Contains(string(b.Lines), "\n\n") || strings.Contains(string(b.Lines), "\r") {
		tb.Fatalf("lines %q of a block have a blank line or CR", b.Lines)
	}
	if b.Dispatches() != b.HasData || b.CommentOnly() != (!b.HasData && !b.HasID && !b.HasRetry) {
		tb.Fatalf("block %q: Dispatches %v, CommentOnly %v", b.Lines, b.Dispatches(), b.CommentOnly())
	}
	if !b.HasID && len(b.ID) > 0 || !b.HasRetry && b.Retry != 0 {
		tb.Fatalf("block %q has an id or retry and says that it has none", b.Lines)
	}
	return decodedBlock{
		lines: string(b.Lines), id: string(b.ID), hasID: b.HasID, typ: string(b.Type),
		data: string(b.AppendData(nil)), hasData: b.HasData, retry: b.Retry, hasRetry: b.HasRetry,
		lastEventID: lastEventID,
	}
}

// decode gives the pieces of a stream to a Decoder, in a buffer that is
// overwritten after each, as a read buffer is.
func decode(tb testing.TB, d *Decoder, pieces []string) (blocks []decodedBlock, err error) {
	tb.Helper()
	last := ""
	var p []byte
	for _, piece := range pieces {
		p = append(p[:0], piece...)
		err = d.Write(p, func(b Block) error {
			if b.HasID {
				last = string(b.ID)
			}
			blocks = append(blocks, copyBlock(tb, b, last))
			return nil
		})
		for i := range p {
			p[i] = '#'
		}
		if err != nil {
			break
		}
	}
	return blocks, err
}

// piecesReader gives one piece for each Read. The last comes with io.EOF if
// eofEarly, as the contract of io.Reader allows.
type piecesReader struct {
	pieces   []string
	eofEarly bool
	next     int // the piece to read from
	at       int // and where in it
}

func (r *piecesReader) Read(p []byte) (int, error) {
	if r.next == len(r.pieces) {
		return 0, io.EOF
	}
	n := copy(p, r.pieces[r.next][r.at:])
	if r.at += n; r.at == len(r.pieces[r.next]) {
		r.next, r.at = r.next+1, 0
		if r.next == len(r.pieces) && r.eofEarly {
			return n, io.EOF
		}
	}
	return n, nil
}

// checkStream decodes the pieces with Decoder and Reader and compares with want.
func checkStream(tb testing.TB, want decoded, pieces []string) {
	tb.Helper()
	checkDecoder(tb, want, pieces)
	for _, eofEarly := range []bool{false, true} {
		checkReader(tb, want, NewReader(&piecesReader{pieces: pieces, eofEarly: eofEarly}), pieces)
	}
}

func checkDecoder(tb testing.TB, want decoded, pieces []string) {
	tb.Helper()
	var d Decoder
	blocks, err := decode(tb, &d, pieces)
	if err != nil {
		tb.Fatalf("Decoder: %v; pieces %s", err, show(pieces))
	}
	if !equalBlocks(blocks, want.blocks) {
		tb.Fatalf("Decoder:\n got blocks %s\nwant blocks %s\npieces %s", show(blocks), show(want.blocks), show(pieces))
	}
	if got := string(d.Rest()); got != want.rest {
		tb.Fatalf("Decoder: Rest is %s, want %s; pieces %s", show(got), show(want.rest), show(pieces))
	}
}

func checkReader(tb testing.TB, want decoded, r *Reader, pieces []string) {
	tb.Helper()
	var got decoded
	for m, err := range r.Messages() {
		if err != nil {
			tb.Fatalf("Reader: %v; pieces %s", err, show(pieces))
		}
		if m.LastEventID != r.LastEventID() {
			tb.Fatalf("Reader: last event ID %q of %+v; pieces %s", r.LastEventID(), m, show(pieces))
		}
		got.messages = append(got.messages, m)
	}
	if len(got.messages) != len(want.messages) || len(got.messages) > 0 && !reflect.DeepEqual(got.messages, want.messages) {
		tb.Fatalf("Reader:\n got messages %s\nwant messages %s\npieces %s", show(got.messages), show(want.messages), show(pieces))
	}
	if id := r.LastEventID(); id != want.lastEventID {
		tb.Fatalf("Reader: last event ID %q, want %q; pieces %s", id, want.lastEventID, show(pieces))
	}
	if d, ok := r.Retry(); d != want.retry || ok != want.hasRetry {
		tb.Fatalf("Reader: retry %v %v, want %v %v; pieces %s", d, ok, want.retry, want.hasRetry, show(pieces))
	}
	if rest := string(r.Rest()); rest != want.rest {
		tb.Fatalf("Reader: Rest is %s, want %s; pieces %s", show(rest), show(want.rest), show(pieces))
	}
}

func equalBlocks(a, b []decodedBlock) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// show prints v, but not megabytes of it.
func show(v any) string {
	s := fmt.Sprintf("%#v", v)
	if len(s) > 2000 {
		s = s[:1000] + " … " + s[len(s)-1000:]
	}
	return s
}

// pieceUp cuts stream at the given positions, which must be in order.
func pieceUp(stream string, cuts ...int) []string {
	var pieces []string
	from := 0
	for _, cut := range append(cuts, len(stream)) {
		pieces = append(pieces, stream[from:cut])
		from = cut
	}
	return pieces
}

// bytewise cuts stream into pieces of one byte.
func bytewise(stream string) []string {
	pieces := make([]string, len(stream))
	for i := range len(stream) {
		pieces[i] = stream[i : i+1]
	}
	return pieces
}

// cutsOf turns a fuzzer's bytes into cuts: each is the length of a piece.
func cutsOf(stream string, lengths []byte) []int {
	var cuts []int
	at, empty := 0, 0
	for _, n := range lengths {
		at += int(n)
		if at > len(stream) {
			break
		}
		if n > 0 {
			empty = 0
		} else if empty++; empty > 10 {
			continue // a source that never brings anything is given up by a Reader: io.ErrNoProgress
		}
		cuts = append(cuts, at)
	}
	return cuts
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
