package eventstream

import (
	"bytes"
	"strings"
	"testing"
)

// streamOf returns at least 256 KiB of copies of block and how many there are.
func streamOf(block string) (stream []byte, blocks int) {
	blocks = 256<<10/len(block) + 1
	return bytes.Repeat([]byte(block), blocks), blocks
}

// event200 is a typical small event, event10K a large one of a single line, and
// lines10K one whose data has a line for each 64 bytes.
var (
	event200 = "id: 1234567\nevent: price\ndata: " + strings.Repeat("x", 167) + "\n\n"
	event10K = "id: 1234567\nevent: price\ndata: " + strings.Repeat("x", 10<<10-33) + "\n\n"
	lines10K = "id: 1234567\n" + strings.Repeat("data: "+strings.Repeat("x", 57)+"\n", 160) + "\n"
)

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
func cr(s string) string   { return strings.ReplaceAll(s, "\n", "\r") }

func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct {
		name  string
		block string
		piece int // bytes per Write
	}{
		{"200B", event200, 32 << 10},
		{"10KiB", event10K, 32 << 10},
		{"10KiBLines", lines10K, 32 << 10},
		{"200B-CRLF", crlf(event200), 32 << 10},
		{"10KiB-CRLF", crlf(event10K), 32 << 10},
		{"200B-CR", cr(event200), 32 << 10},
		{"10KiB-CR", cr(event10K), 32 << 10},
		{"10KiB-split", event10K, 1400},
		{"1MiB-split", "data: " + strings.Repeat("x", 1<<20) + "\n\n", 32 << 10},
		{"200B-bytewise", event200, 1},
		{"comments", ":\n\n", 32 << 10},
		{"blank", "\n", 32 << 10},
	} {
		b.Run(c.name, func(b *testing.B) {
			stream, blocks := streamOf(c.block)
			if c.name == "blank" {
				blocks = 0
			}
			got := 0
			emit := func(Block) error { got++; return nil }
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			var d Decoder
			for b.Loop() {
				got = 0
				for p := stream; len(p) > 0; {
					n := min(c.piece, len(p))
					if err := d.Write(p[:n], emit); err != nil {
						b.Fatal(err)
					}
					p = p[n:]
				}
				if got != blocks {
					b.Fatalf("%d blocks, want %d", got, blocks)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(max(blocks, 1))/float64(b.N), "ns/block")
		})
	}
}

func BenchmarkReader(b *testing.B) {
	for _, c := range []struct{ name, block string }{{"200B", event200}, {"10KiB", event10K}} {
		b.Run(c.name, func(b *testing.B) {
			stream, blocks := streamOf(c.block)
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				got := 0
				for _, err := range NewReader(bytes.NewReader(stream)).Messages() {
					if err != nil {
						b.Fatal(err)
					}
					got++
				}
				if got != blocks {
					b.Fatalf("%d messages, want %d", got, blocks)
				}
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct {
		name string
		e    Event
	}{
		{"200B", Event{ID: "1234567", Type: "price", Data: strings.Repeat("x", 167)}},
		{"10KiB", Event{ID: "1234567", Type: "price", Data: strings.Repeat("x", 10<<10)}},
		{"10KiBLines", Event{ID: "1234567", Data: strings.Repeat(strings.Repeat("x", 63)+"\n", 160)}},
		{"10KiBLines-CRLF", Event{ID: "1234567", Data: strings.Repeat(strings.Repeat("x", 62)+"\r\n", 160)}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.e.Data)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				var err error
				if dst, err = AppendEvent(dst[:0], c.e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendData(b *testing.B) {
	for _, c := range []struct{ name, block string }{{"200B", event200}, {"10KiBLines", lines10K}} {
		b.Run(c.name, func(b *testing.B) {
			block := parse([]byte(strings.TrimSuffix(c.block, "\n")))
			b.SetBytes(int64(len(c.block)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				dst = block.AppendData(dst[:0])
			}
		})
	}
}
