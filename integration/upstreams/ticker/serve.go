package main

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/fcgi"
	"time"
)

// listen serves connections in one of the ways that upstreams do.
func (s *source) listen(mode string, listener net.Listener) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	server := &http.Server{
		Handler: s, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	server.RegisterOnShutdown(cancel) // ends the responses
	server.Protocols.SetHTTP1(true)
	switch mode {
	case "http":
		return s.serveUntilTerm(server, listener)
	case "h2c":
		server.Protocols.SetUnencryptedHTTP2(true)
		return s.serveUntilTerm(server, listener)
	case "h2":
		certificate, err := newCertificate()
		if err != nil {
			return err
		}
		server.Protocols.SetHTTP2(true)
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
		return server.ServeTLS(listener, "", "")
	case "fastcgi":
		return fcgi.Serve(listener, s)
	case "gzip":
		server.Handler = http.HandlerFunc(s.serveGzip)
		return s.serveUntilTerm(server, listener)
	case "http10":
		return s.listenRaw(listener, "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", io.WriteString)
	case "bytes":
		return s.listenRaw(listener, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"+
			"Transfer-Encoding: chunked\r\n\r\n", writeBytes)
	}
	return fmt.Errorf("unknown mode %q", mode)
}

// serveUntilTerm serves until SIGTERM, and then ends well.
func (s *source) serveUntilTerm(server *http.Server, listener net.Listener) error {
	ended := make(chan error, 1)
	go func() {
		<-s.term
		ended <- cmp.Or(server.Shutdown(context.Background()), io.EOF)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

// ServeHTTP is an event stream as an application with net/http has it.
func (s *source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	s.serveBody(w, r, w, func() error { return nil })
}

// serveGzip is ServeHTTP with a content coding, whether it was asked for or not.
func (s *source) serveGzip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Content-Encoding", "gzip")
	body := gzip.NewWriter(w)
	s.serveBody(w, r, body, body.Flush)
}

func (s *source) serveBody(w http.ResponseWriter, r *http.Request, body io.Writer, flush func() error) {
	out := w.(http.Flusher)
	begin := func() error {
		w.WriteHeader(http.StatusOK)
		out.Flush()
		return nil
	}
	s.serve(r.Context(), r.Proto, r.Header.Get("Last-Event-ID"), begin, func(text string) error {
		if _, err := io.WriteString(body, text); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
		out.Flush()
		return nil
	})
}

// listenRaw writes the answers itself, because net/http does not make such.
func (s *source) listenRaw(listener net.Listener, head string, write func(w io.Writer, text string) (int, error)) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			in := bufio.NewReader(conn)
			request, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() {
				defer cancel()
				_, _ = io.Copy(io.Discard, in) // until the gateway closes
			}()
			begin := func() error {
				_, err := io.WriteString(conn, head)
				return err
			}
			s.serve(ctx, request.Proto, request.Header.Get("Last-Event-ID"), begin, func(text string) error {
				_, err := write(conn, text)
				return err
			})
		}()
	}
}

// writeBytes writes each byte as a chunk of its own, in a write of its own.
func writeBytes(w io.Writer, text string) (int, error) {
	for i := range len(text) {
		if _, err := w.Write([]byte{'1', '\r', '\n', text[i], '\r', '\n'}); err != nil {
			return i, err
		}
	}
	return len(text), nil
}

// newCertificate makes a certificate that nobody has to trust.
func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
