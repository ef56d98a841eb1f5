//go:build !windows

package caddysse

import (
	"net"
	"syscall"
)

// smallWindow makes a client's system take little that the client has not read.
func smallWindow(bytes int) *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, bytes)
		})
		if controlErr != nil {
			return controlErr
		}
		return err
	}}
}
