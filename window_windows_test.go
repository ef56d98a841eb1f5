package caddysse

import (
	"net"
	"syscall"
)

// smallWindow makes a client's system take little that the client has not read.
func smallWindow(bytes int) *net.Dialer {
	return &net.Dialer{Control: setBuffer(syscall.SO_RCVBUF, bytes)}
}

// smallSends makes a server's system take little that its clients' have not.
func smallSends(bytes int) *net.ListenConfig {
	return &net.ListenConfig{Control: setBuffer(syscall.SO_SNDBUF, bytes)}
}

func setBuffer(option, bytes int) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(syscall.Handle(fd), syscall.SOL_SOCKET, option, bytes)
		})
		if controlErr != nil {
			return controlErr
		}
		return err
	}
}
