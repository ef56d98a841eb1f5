package eventstream

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// addConformance adds the streams of the conformance table to the seeds, with
// two ways to cut them.
func addConformance(f *testing.F, add func(stream []byte, cuts []byte)) {
	f.Helper()
	for _, c := range conformanceCases(f) {
		add([]byte(c.input), nil)
		add([]byte(c.input), []byte{3, 1, 4, 1, 5, 9, 2, 6})
	}
}

// FuzzDecoderSplits: any split of the input gives the blocks of the reference,
// up to the first one over the limit.
func FuzzDecoderSplits(f *testing.F) {
	addConformance(f, func(stream, cuts []byte) { f.Add(stream, cuts, uint16(0)); f.Add(stream, cuts, uint16(20)) })
	f.Fuzz(func(t *testing.T, input, cuts []byte, limit uint16) {
		stream := string(input)
		want := reference(stream)
		blocks, fails := limited(stream, want, int(limit))
		for _, pieces := range [][]string{{stream}, bytewise(stream), pieceUp(stream, cutsOf(stream, cuts)...)} {
			d := Decoder{MaxBlockSize: int(limit)}
			got, err := decode(t, &d, pieces)
			if !equalBlocks(got, blocks) {
				t.Fatalf("got blocks %s, want %s; pieces %q", show(got), show(blocks), pieces)
			}
			if fails != errors.Is(err, ErrBlockTooLarge) || !fails && err != nil {
				t.Fatalf("error %v, want one: %v; pieces %q", err, fails, pieces)
			}
			if rest := string(d.Rest()); !fails && rest != want.rest {
				t.Fatalf("rest %q, want %q; pieces %q", rest, want.rest, pieces)
			}
		}
	})
}

// limited returns the blocks before the first one over the limit, and whether
// there is such a one, the unfinished one included.
func limited(stream string, d decoded, limit int) (blocks []decodedBlock, fails bool) {
	if limit == 0 {
		return d.blocks, false
	}
	for i, b := range d.blocks {
		if len(b.lines) > limit {
			return d.blocks[:i], true
		}
	}
	if strings.HasPrefix(byteOrderMark, stream) {
		return nil, false // not yet known to be a line
	}
	rest := len(d.rest)
	if rest > 0 && !strings.HasSuffix(d.rest, "\n") {
		rest++ // the line's end is still to come
	}
	return d.blocks, rest > limit
}

// FuzzReaderReference: the Reader dispatches what the reference dispatches.
func FuzzReaderReference(f *testing.F) {
	addConformance(f, func(stream, cuts []byte) { f.Add(stream, cuts) })
	f.Fuzz(func(t *testing.T, input, cuts []byte) {
		stream := string(input)
		want := reference(stream)
		for _, pieces := range [][]string{{stream}, bytewise(stream), pieceUp(stream, cutsOf(stream, cuts)...)} {
			for _, eofEarly := range []bool{false, true} {
				r := NewReader(&piecesReader{pieces: pieces, eofEarly: eofEarly})
				checkReader(t, want, r, pieces)
			}
		}
	})
}

// FuzzRoundTrip: what AppendEvent writes is read as the same event, by the
// package and by the reference.
func FuzzRoundTrip(f *testing.F) {
	f.Add("", "", "", false, int64(0))
	f.Add("add", "hello", "1", true, int64(3000))
	f.Add(" add", " hello\n  you\r\n\rthere\n", " 1", false, int64(-5))
	f.Add("a\nb", "x", "", true, int64(1)<<40)
	f.Add("a", "x\x00", "1\x00", true, int64(1))
	f.Add("\uFEFF", "\uFEFFdata", "\xFF", true, int64(1))
	f.Fuzz(func(t *testing.T, typ, data, id string, hasID bool, retry int64) {
		e := Event{Type: typ, Data: data, ID: id, HasID: hasID, Retry: time.Duration(retry) * time.Microsecond}
		wire, err := AppendEvent(nil, e)
		if invalid := strings.ContainsAny(typ+id, "\r\n\x00"); invalid || err != nil {
			if !invalid || !errors.Is(err, ErrInvalidField) || len(wire) > 0 {
				t.Fatalf("AppendEvent(%+v) = %q, %v", e, wire, err)
			}
			return
		}
		want := reference(string(wire))
		checkStream(t, want, []string{string(wire)})
		if len(want.blocks) != 1 || want.rest != "" {
			t.Fatalf("%+v is written as %q", e, wire)
		}
		b := want.blocks[0]
		lines := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data)
		if !b.hasData || b.data != lines || b.typ != typ || b.id != id || b.hasID != (hasID || id != "") {
			t.Fatalf("%+v is written as %q, read as %+v", e, wire, b)
		}
		if b.hasRetry != (e.Retry > 0) || e.Retry > 0 && !roundedUp(e.Retry, b.retry) {
			t.Fatalf("retry %v is read as %v", e.Retry, b.retry)
		}
	})
}

func roundedUp(d, got time.Duration) bool {
	if d > MaxRetry {
		return got == MaxRetry
	}
	return got >= d && got-d < time.Millisecond
}

// FuzzRelay: a stream that is relayed block by block dispatches the same
// events, and is itself relayed unchanged.
func FuzzRelay(f *testing.F) {
	addConformance(f, func(stream, cuts []byte) { f.Add(stream, cuts) })
	f.Fuzz(func(t *testing.T, input, cuts []byte) {
		stream := string(input)
		once := relay(t, pieceUp(stream, cutsOf(stream, cuts)...))
		want, got := reference(stream), reference(once)
		if !equalBlocks(got.blocks, want.blocks) || show(got) != show(want) {
			t.Fatalf("%q relayed is %q:\n got %s\nwant %s", stream, once, show(got), show(want))
		}
		if twice := relay(t, bytewise(once)); twice != once {
			t.Fatalf("%q relayed is %q, relayed again %q", stream, once, twice)
		}
	})
}

// relay does what a gateway does: each block's lines and a blank line, at the
// end the rest.
func relay(t *testing.T, pieces []string) string {
	t.Helper()
	var d Decoder
	var out []byte
	for _, piece := range pieces {
		if err := d.Write([]byte(piece), func(b Block) error {
			out = append(append(out, b.Lines...), '\n')
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	out = append(out, d.Rest()...)
	if strings.HasPrefix(string(out), byteOrderMark) {
		// Not at the start of what came, but it would be at the start of what
		// goes (guarantee 7 of the package).
		out = append([]byte("\n"), out...)
	}
	return string(out)
}
