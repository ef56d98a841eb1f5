package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errNoBytes is what a read of a TLS connection returns when its socket has no more bytes. crypto/tls goes on after
// errors that are temporary.
var errNoBytes net.Error = noBytesError{}

type noBytesError struct{}

func (noBytesError) Error() string   { return "no bytes yet" }
func (noBytesError) Timeout() bool   { return true }
func (noBytesError) Temporary() bool { return true }

// tlsSocket is a non-blocking socket as crypto/tls reads and writes it.
type tlsSocket struct {
	fd    int
	waits bool // a read waits for bytes: the handshake's do
}

func (s *tlsSocket) Read(b []byte) (int, error) {
	for {
		n, err := receive(s.fd, b)
		switch {
		case err == nil && n == 0:
			return 0, io.EOF
		case err == nil:
			return n, nil
		case !again(err):
			return 0, os.NewSyscallError("read", err)
		case !s.waits:
			return 0, errNoBytes
		}
		if err := s.wait(unix.POLLIN); err != nil {
			return 0, err
		}
	}
}

// Write waits until the socket has taken everything: a client of event streams writes little.
func (s *tlsSocket) Write(b []byte) (int, error) {
	for written := 0; ; {
		n, err := send(s.fd, b[written:])
		if err != nil && !again(err) {
			return written, os.NewSyscallError("send", err)
		}
		if written += n; written == len(b) {
			return written, nil
		}
		if err := s.wait(unix.POLLOUT); err != nil {
			return written, err
		}
	}
}

const tlsPatience = 30 * time.Second

func (s *tlsSocket) wait(event int16) error {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: event}}, int(tlsPatience.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("poll", err)
	}
	if n == 0 && err == nil {
		return errors.New("the server was silent for too long")
	}
	return nil
}

func (s *tlsSocket) Close() error                     { return nil } // the file is the client's
func (s *tlsSocket) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *tlsSocket) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *tlsSocket) SetDeadline(time.Time) error      { return nil }
func (s *tlsSocket) SetReadDeadline(time.Time) error  { return nil }
func (s *tlsSocket) SetWriteDeadline(time.Time) error { return nil }

// handshake makes a TLS connection of a socket that is being connected, and returns when it is there: one connection
// after the other, so that the client stays on one thread.
func handshake(ctx context.Context, fd int, h2 bool) (*tls.Conn, error) {
	s := &tlsSocket{fd: fd, waits: true}
	if err := s.wait(unix.POLLOUT); err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true, // the servers that are measured have certificates of their own making
	}
	if h2 {
		config.NextProtos = []string{"h2"}
	}
	conn := tls.Client(s, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; h2 && got != "h2" {
		return nil, fmt.Errorf("the server speaks %q over TLS, not h2", got)
	}
	s.waits = false
	return conn, nil
}
