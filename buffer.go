// The replay buffer as its user sees it: how much is kept. The ring itself is in internal/replay/buffer.go.

package caddysse

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

const (
	// defaultBufferEvents is how many blocks a replay buffer keeps. What a
	// buffer costs is its bytes: with replay.BlockOverhead each, so many blocks
	// take as much again as the default size.
	defaultBufferEvents = 16384

	// defaultBufferSize is how many bytes a replay buffer keeps.
	defaultBufferSize = 4 << 20

	// defaultBufferAge is how long a replay buffer keeps a block: longer than
	// a laptop's nap between two meetings or a phone's in a tunnel.
	defaultBufferAge = 5 * time.Minute
)

// Buffer bounds a replay buffer. The newest block is always kept.
type Buffer struct {
	// How many blocks are kept. A block takes some 256 bytes beside those in
	// size. Default: 16384.
	Events int `json:"events,omitempty"`

	// How many bytes are kept. Default: 4 MiB.
	Size int64 `json:"size,omitempty"`

	// How long a block is kept. Default: 5m.
	Age caddy.Duration `json:"age,omitempty"`
}

// parse takes the arguments of the Caddyfile's option.
func (b *Buffer) parse(d *caddyfile.Dispenser) (err error) {
	args := d.RemainingArgs()
	if len(args) == 0 || len(args) > 3 {
		return d.Err("buffer: expected <events> [<size>] [<age>], such as 16384 4MiB 5m")
	}
	if b.Events, err = countValue(d, "buffer", args[0]); err != nil || len(args) == 1 {
		return err
	}
	if b.Size, err = sizeValue(d, "buffer", args[1]); err != nil || len(args) == 2 {
		return err
	}
	b.Age, err = durationValue(d, "buffer", args[2])
	if err == nil && b.Age == 0 {
		return d.Err("buffer: expected an age above 0")
	}
	return err
}

// limits are those of a replay buffer, defaults filled in.
func (b *Buffer) limits() replay.Limits {
	limits := replay.Limits{Events: defaultBufferEvents, Size: defaultBufferSize, Age: defaultBufferAge}
	if b == nil {
		return limits
	}
	if b.Events > 0 {
		limits.Events = b.Events
	}
	if b.Size > 0 {
		limits.Size = b.Size
	}
	if b.Age > 0 {
		limits.Age = time.Duration(b.Age)
	}
	return limits
}

// validate tells what is wrong with the bounds, if they are given.
func (b *Buffer) validate() error {
	if b != nil && (b.Events < 0 || b.Size < 0 || b.Age < 0) {
		return fmt.Errorf("buffer: expected numbers above 0, not %d events, %d bytes, %v", b.Events, b.Size, time.Duration(b.Age))
	}
	return nil
}
