package eventstream

import (
	"errors"
	"fmt"
)

var (
	// ErrBlockTooLarge is what a [BlockTooLargeError] wraps. Decoding: the
	// block grew over [Decoder.MaxBlockSize].
	ErrBlockTooLarge = errors.New("eventstream: block too large")

	// ErrInvalidField is wrapped by the errors of the Append functions.
	// Encoding: the value cannot be written as one line, or would be ignored
	// by its reader.
	ErrInvalidField = errors.New("eventstream: value contains CR, LF or NUL")
)

// BlockTooLargeError says that a block was given up because it is larger than
// the limit. It wraps [ErrBlockTooLarge].
type BlockTooLargeError struct {
	Limit int // bytes, the [Decoder.MaxBlockSize] that was exceeded
}

func (e *BlockTooLargeError) Error() string {
	return fmt.Sprintf("%v: over the limit of %d bytes", ErrBlockTooLarge, e.Limit)
}

// Unwrap returns [ErrBlockTooLarge].
func (e *BlockTooLargeError) Unwrap() error { return ErrBlockTooLarge }
