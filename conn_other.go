//go:build !linux

package caddysse

import (
	"net"
	"time"
)

// setUserTimeout does nothing here: write_timeout ends the connection to a
// vanished peer once what was sent to it fills the socket's buffer.
func setUserTimeout(net.Conn, time.Duration) {}
