package caddysse

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The Caddyfile names the wrapper, and it takes nothing.
func TestListenerWrapperSyntax(t *testing.T) {
	for options, want := range map[string]string{
		"sse":                       `"listener_wrappers":[{"wrapper":"sse"}]`,
		"proxy_protocol\ntls\nsse":  `{"wrapper":"tls"},{"wrapper":"sse"}]`,
		"sse park":                  "!wrong argument count",
		"sse {\npark 30s\n}":        `!unknown option "park"`,
		"sse {\n}\nhttp_redirect\n": `[{"wrapper":"sse"},{"wrapper":"http_redirect"}]`,
	} {
		got, err := adapt(t, strings.Replace(testGlobals, "admin off", "admin off\nservers {\nlistener_wrappers {\n"+options+"\n}\n}", 1)+site("sse\nrespond ok"))
		if err != nil {
			got = "!" + err.Error()
		}
		if want, isError := strings.CutPrefix(want, "!"); !strings.Contains(got, want) || isError != (err != nil) {
			t.Errorf("%q: %s, expected %s", options, got, want)
		}
	}
}

// Connections of other protocols are as without the wrapper, and what is wrong
// with a connection is found.
func TestListenerWrapperLeavesOtherConnections(t *testing.T) {
	u := startUpstream(t, nil)
	s := startSharing(t, u, "heartbeat off\nprime off")
	dial := func(protocol string) *tls.Conn {
		config := s.config.Clone()
		config.NextProtos = []string{protocol}
		conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetReadDeadline(time.Now().Add(testTimeout))
		return conn.(*tls.Conn)
	}

	one := dial("http/1.1")
	_, _ = io.WriteString(one, "GET / HTTP/1.1\r\nHost: gateway.test:2\r\nAccept: text/event-stream\r\n\r\n")
	up := u.accept()
	up.event("1")
	resp, err := http.ReadResponse(bufio.NewReader(one), nil)
	if err != nil {
		t.Fatal(err)
	}
	newTestClient(t, resp).expect("1")
	awaitMetric(t, "subscribers delivery=connection protocol=1.1", 1)
	_ = one.Close()

	plain, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	_, _ = io.WriteString(plain, "GET / HTTP/1.1\r\nHost: gateway.test:2\r\n\r\n")
	_ = plain.SetReadDeadline(time.Now().Add(testTimeout))
	if text, _ := io.ReadAll(plain); !strings.Contains(string(text), "400 Bad Request") {
		t.Errorf("plain HTTP is answered with %q", text)
	}

	wrong := dial("h2")
	_, _ = io.WriteString(wrong, "GET / HTTP/1.1\r\nHost: gateway.test:2\r\n\r\n")
	if text, err := io.ReadAll(wrong); len(text) > 0 || (err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !isReset(err)) {
		t.Errorf("HTTP/1.1 where HTTP/2 was agreed upon is answered with %q, %v", text, err)
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout()
}

// A connection whose handshake has begun when the listener is closed is served
// yet; one that does not get on with it is not waited for.
func TestListenerHandsOutWhatHasBegun(t *testing.T) {
	pair, err := newPair("server")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{}, 2)
	ln := new(ListenerWrapper).WrapListener(tls.NewListener(inner, &tls.Config{
		Certificates: []tls.Certificate{pair},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			begun <- struct{}{}
			return nil, nil
		},
	}))
	type result struct {
		conn net.Conn
		err  error
	}
	accepted := make(chan result, 10)
	go func() {
		for {
			conn, err := ln.Accept()
			accepted <- result{conn, err}
			if err != nil {
				return
			}
		}
	}()
	dial := func() net.Conn {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	silent := dial()
	client := dial()
	release := make(chan struct{})
	go func() {
		over := tls.Client(client, &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error {
			<-release
			return nil
		}})
		_ = over.Handshake()
	}()
	<-begun
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	close(release)
	if r := <-accepted; r.err != nil {
		t.Fatalf("the connection that had begun: %v", r.err)
	} else {
		_ = r.conn.Close()
	}
	if r := <-accepted; !errors.Is(r.err, net.ErrClosed) {
		t.Errorf("then: %v", r.err)
	}
	_ = silent.Close()
}
