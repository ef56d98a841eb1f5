package caddysse

import "github.com/caddy-sse/caddy-sse/internal/delivery"

// markCutter cuts a byte order mark off the start of a stream, where something
// else was sent before: there a client would take it for part of a line.
type markCutter struct {
	seen int  // how many bytes of it
	past bool // no more of it is to come
}

// cut returns what is to be sent when b comes.
func (c *markCutter) cut(b []byte) []byte {
	for !c.past && len(b) > 0 {
		if b[0] != delivery.ByteOrderMark[c.seen] {
			c.past = true
			return append(delivery.ByteOrderMark[:c.seen:c.seen], b...) // it only began like one
		}
		b = b[1:]
		c.seen++
		c.past = c.seen == len(delivery.ByteOrderMark)
	}
	return b
}
