package eventstream

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestDecoderMaxBlockSize(t *testing.T) {
	const limit = 16 // bytes of Lines
	for _, c := range []struct {
		name, stream string
		blocks       int  // emitted
		fails        bool // at the block after them
	}{
		{"at the limit", "data: 789012345\n\n", 1, false},
		{"over it by one", "data: 7890123456\n\n", 0, true},
		{"at the limit, CRLF counts as LF", "data: 6\r\ndata:34\r\n\r\n", 1, false},
		{"over it in a second line", "data: 6\ndata: 45\n\n", 0, true},
		{"over it with CRLF", "data: 6\r\ndata: 45\r\n\r\n", 0, true},
		{"over it in an unfinished line", "data: 7890123456", 0, true},
		{"at the limit in an unfinished line", "data: 789012345", 0, false},
		{"at the limit with complete lines", "data: 6\ndata:34\n", 0, false},
		{"blocks before it", "data: 1\n\n: x\r\rdata: 7890123456", 2, true},
		{"blocks after it are not read", "data: 7890123456\n\ndata: 1\n\n", 0, true},
		{"a comment at the limit, then another one", ": 3456789012345\n: 3456789012345\n", 2, false},
		{"a comment over it", ": 1\n: 34567890123456\n", 1, true},
		{"comments before a block do not count", strings.Repeat(": 1\n", 9) + "data: 789012345\n\n", 10, false},
		{"each for itself", strings.Repeat("data: 789012345\n\n", 9), 9, false},
		{"blank lines do not count", strings.Repeat("\n\r\r\n", 9) + "data: 789012345\n\n", 1, false},
		{"byte order mark does not count", "\xEF\xBB\xBFdata: 789012345\n\n", 1, false},
		{"half of one counts", "\xEF\xBBdata: 9012345\n\n", 1, false},
		{"half of one, over it", "\xEF\xBBdata: 90123456\n\n", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := reference(c.stream).blocks
			splits := [][]string{{c.stream}, bytewise(c.stream)}
			for i := range len(c.stream) {
				splits = append(splits, pieceUp(c.stream, i))
			}
			for _, pieces := range splits {
				d := Decoder{MaxBlockSize: limit}
				got, err := decode(t, &d, pieces)
				if !equalBlocks(got, want[:c.blocks]) {
					t.Fatalf("pieces %q: blocks %s", pieces, show(got))
				}
				if !c.fails {
					if err != nil {
						t.Fatalf("pieces %q: %v", pieces, err)
					}
					continue
				}
				checkTooLarge(t, err, limit)
				if len(d.Rest()) > 0 {
					t.Fatalf("pieces %q: Rest is %q after an error", pieces, d.Rest())
				}
				checkSticky(t, &d, err)
			}
		})
	}
}

func checkTooLarge(t *testing.T, err error, limit int) {
	t.Helper()
	var tooLarge *BlockTooLargeError
	if !errors.Is(err, ErrBlockTooLarge) || !errors.As(err, &tooLarge) || tooLarge.Limit != limit {
		t.Fatalf("error %v, want a BlockTooLargeError of %d", err, limit)
	}
	if !strings.Contains(err.Error(), "16 bytes") {
		t.Fatalf("error %q does not name the limit", err)
	}
}

// checkSticky checks that the decoder reads nothing more before Reset, and as
// new after it.
func checkSticky(t *testing.T, d *Decoder, want error) {
	t.Helper()
	for _, p := range []string{"", "x", "\n\ndata: 1\n\n"} {
		err := d.Write([]byte(p), func(b Block) error { t.Fatalf("block %q after an error", b.Lines); return nil })
		if !errors.Is(err, want) {
			t.Fatalf("Write(%q) after an error: %v, want %v", p, err, want)
		}
	}
	d.Reset()
	got, err := decode(t, d, []string{"\xEF\xBB\xBFdata: 1\n\n"})
	if err != nil || len(got) != 1 || got[0].lines != "data: 1\n" {
		t.Fatalf("after Reset: %v, blocks %s", err, show(got))
	}
}

func TestDecoderEmitError(t *testing.T) {
	stop := errors.New("stop")
	for _, pieces := range [][]string{{"data: 1\n\ndata: 2\n\ndata: 3\n\n"}, {"data: 1\r\r\ndata: 2\r\n\r", "data: 3\n\n"}} {
		var d Decoder
		var err error
		n := 0
		for _, p := range pieces {
			if err = d.Write([]byte(p), func(Block) error {
				if n++; n == 2 {
					return stop
				}
				return nil
			}); err != nil {
				break
			}
		}
		if !errors.Is(err, stop) || n != 2 {
			t.Fatalf("%q: error %v after %d blocks", pieces, err, n)
		}
		checkSticky(t, &d, stop)
	}
}

func TestDecoderReset(t *testing.T) {
	// Each leaves another kind of state behind.
	for _, before := range []string{"", "\xEF\xBB", "data: 1", "data: 1\n", "data: 1\r", "data: 1\r\r", "data: 1\n\n", "\r"} {
		d := Decoder{MaxBlockSize: 100}
		if _, err := decode(t, &d, []string{before}); err != nil {
			t.Fatal(err)
		}
		d.Reset()
		if len(d.Rest()) != 0 {
			t.Errorf("after %q and Reset: Rest is %q", before, d.Rest())
		}
		const stream = "\xEF\xBB\xBFdata: 2\n\n\ndata: 3"
		got, err := decode(t, &d, []string{stream})
		if want := reference(stream); err != nil || !equalBlocks(got, want.blocks) || string(d.Rest()) != want.rest {
			t.Errorf("after %q and Reset: %v, blocks %s, rest %q", before, err, show(got), d.Rest())
		}
		if d.MaxBlockSize != 100 {
			t.Errorf("MaxBlockSize is %d after Reset", d.MaxBlockSize)
		}
	}
}

// TestDecoderViews checks that a block that lies whole in the input is not
// copied, and that appending to one of a block's slices cannot change what
// comes after it.
func TestDecoderViews(t *testing.T) {
	const stream = "\n: a\n\nid: 1\nevent: x\ndata: y\n\n: b\n\ndata: z\n\n"
	p := []byte(stream)
	var d Decoder
	at := 1
	err := d.Write(p, func(b Block) error {
		if &b.Lines[0] != &p[at] {
			t.Errorf("block %q is a copy", b.Lines)
		}
		at += len(b.Lines) + 1
		_ = append(b.Lines, '#')
		_ = append(b.ID, '#')
		_ = append(b.Type, '#')
		return nil
	})
	if err != nil || at != len(p) {
		t.Errorf("error %v; read up to %d of %d", err, at, len(p))
	}
	if string(p) != stream {
		t.Errorf("the input became %q", p)
	}
	if d.buf != nil {
		t.Error("a buffer was allocated")
	}
}

// TestDecoderKeepsNoHugeBuffer checks that one huge block does not stay in
// memory, and that the usual one's buffer is used again.
func TestDecoderKeepsNoHugeBuffer(t *testing.T) {
	none := func(Block) error { return nil }
	write := func(d *Decoder, s string) {
		t.Helper()
		if err := d.Write([]byte(s), none); err != nil {
			t.Fatal(err)
		}
	}
	huge := "data: " + strings.Repeat("x", 16<<20)

	var d Decoder
	write(&d, huge)
	write(&d, "\n\n")
	if cap(d.buf) > keepBuffer {
		t.Errorf("%d bytes kept after a huge block", cap(d.buf))
	}
	write(&d, huge)
	d.Reset()
	if cap(d.buf) > keepBuffer {
		t.Errorf("%d bytes kept after Reset", cap(d.buf))
	}
	d.MaxBlockSize = 1 << 20
	if err := d.Write([]byte(huge), none); !errors.Is(err, ErrBlockTooLarge) {
		t.Errorf("error %v", err)
	}
	if cap(d.buf) > 0 {
		t.Errorf("%d bytes kept after an error", cap(d.buf))
	}

	d.Reset()
	write(&d, "data: 1")
	before := &d.buf[0]
	write(&d, "\n\ndata: 2")
	if &d.buf[0] != before {
		t.Error("the buffer of a small block is not used again")
	}
}

func TestDecoderAllocs(t *testing.T) {
	blocks := 0
	for _, c := range []struct{ name, block string }{
		{"LF", event200}, {"LF, 10 KiB", event10K}, {"LF, many lines", lines10K}, {"comment", ":\n\n"}, {"comments before an event", ":\n: x\n" + event200},
		{"CRLF", crlf(event200)}, {"CR", cr(event200)}, {"CRLF, many lines", crlf(lines10K)},
	} {
		stream := bytes.Repeat([]byte(c.block), 10)
		var d Decoder
		write := func() {
			if err := d.Write(stream, func(Block) error { blocks++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(c.block, "\r") {
			write() // the buffer, once
		}
		if n := testing.AllocsPerRun(100, write); n != 0 {
			t.Errorf("%s: %v allocations for 10 blocks", c.name, n)
		}
	}
	if blocks == 0 {
		t.Error("nothing decoded")
	}
}

// TestDecoderLinear would take minutes if anything were quadratic in the length
// of a line, in the number of lines, or in the number of writes.
func TestDecoderLinear(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	for _, c := range []struct{ name, stream string }{
		{"a line", "data: " + strings.Repeat("x", size) + "\n\n"},
		{"lines of LF", strings.Repeat("\ndata", size/5) + "\n\n"},
		{"lines of CR", strings.Repeat("\rdata", size/5) + "\r\r"},
		{"LF before a late CR", strings.Repeat("\ndata", size/5) + "\r\r"},
		{"CR before a late LF", strings.Repeat("\rdata", size/5) + "\n\n"},
		{"blank lines of LF", strings.Repeat("\n", size) + "data\n\n"},
		{"blank lines of CR", strings.Repeat("\r", size) + "data\n\n"},
		{"small blocks before a late CR", strings.Repeat("data\n\n", size/6) + "\r"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, piece := range []int{len(c.stream), 4096, 1} {
				var d Decoder
				dispatched := false
				stream := []byte(c.stream)
				for from := 0; from < len(stream); from += piece {
					err := d.Write(stream[from:min(from+piece, len(stream))], func(b Block) error {
						dispatched = dispatched || b.Dispatches()
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				if !dispatched {
					t.Fatal("no event")
				}
			}
		})
	}
}
