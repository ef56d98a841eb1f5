// Package eventstream reads and writes the wire format of Server-Sent Events.
package eventstream
