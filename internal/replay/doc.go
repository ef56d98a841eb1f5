// Package replay is what is kept of a stream: blocks, whose wire bytes are built once and never change, and a ring of
// them that is read by position.
//
// A position grows by one with each block and is never given twice. Who is at position p has missed something if, and
// only if, p is below Buffer.Lost.
//
// Nothing here has a lock, a clock or a log: whoever owns a buffer guards it.
package replay
