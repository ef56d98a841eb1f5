package caddysse

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestZstdWindow: a body whose coding asks for a larger window than RFC 9659
// allows is not decoded: the decoder would keep that much.
func TestZstdWindow(t *testing.T) {
	for window, taken := range map[int]bool{1 << 20: true, 8 << 20: true, 16 << 20: false, 64 << 20: false} {
		var coded bytes.Buffer
		z, err := zstd.NewWriter(&coded, zstd.WithWindowSize(window), zstd.WithSingleSegment(false), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat("data: x\n\n", 1000)
		for _, step := range []func() error{
			func() error { _, err := io.WriteString(z, text); return err },
			z.Flush, // so that the size is not known in advance
			z.Close,
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		var got bytes.Buffer
		body, _ := newBodyWriter("zstd", &got)
		_, _ = body.Write(coded.Bytes()) // Close tells what was wrong
		err = body.Close(true)
		if taken && (err != nil || got.String() != text) {
			t.Errorf("window of %d bytes: %v, %d bytes", window, err, got.Len())
		}
		if !taken && (!errors.Is(err, zstd.ErrWindowSizeExceeded) || got.Len() > 0) {
			t.Errorf("window of %d bytes: %v, %d bytes", window, err, got.Len())
		}
	}
}
