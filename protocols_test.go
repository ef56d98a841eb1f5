package caddysse

import (
	"bufio"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// startGatewayWith is startGateway with further global options.
func startGatewayWith(t *testing.T, globals, caddyfile string) *gateway {
	t.Helper()
	g := startGateway(t, site("respond 503"))
	body, err := adapt(t, strings.ReplaceAll(
		strings.Replace(testGlobals, "admin off", "admin off\n"+globals, 1)+caddyfile, "{socket}", "unix/"+g.socket))
	if err != nil {
		t.Fatal(err)
	}
	if err := loadConfig(t, withDelivery(t, []byte(body))); err != nil {
		t.Fatal(err)
	}
	return g
}

// certificate is a self-signed one for gateway.test, in files and in memory.
type certificate struct {
	cert, key string
	pair      tls.Certificate
	pool      *x509.CertPool
}

func newCertificate(t *testing.T, name string) certificate {
	t.Helper()
	pair, err := newPair(name)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate{cert: filepath.Join(t.TempDir(), "cert.pem"), key: filepath.Join(t.TempDir(), "key.pem"), pair: pair, pool: x509.NewCertPool()}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	keyPEM, err := marshalKey(pair)
	if err != nil {
		t.Fatal(err)
	}
	c.pool.AppendCertsFromPEM(certPEM)
	for file, content := range map[string][]byte{c.cert: certPEM, c.key: keyPEM} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// marshalKey returns a certificate's key as it is kept in files.
func marshalKey(pair tls.Certificate) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// newPair makes a self-signed certificate.
func newPair(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{"gateway.test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// tlsClient speaks TLS, and with it HTTP/2 where the server does, to a Unix
// socket whatever the host.
func tlsClient(t *testing.T, socket string, server certificate, change func(config *tls.Config)) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: server.pool, ServerName: "gateway.test", MinVersion: tls.VersionTLS12}
	if change != nil {
		change(config)
	}
	client := unixClient(socket)
	transport := client.Transport.(*http.Transport)
	transport.ForceAttemptHTTP2 = true
	transport.TLSClientConfig = config
	client.Transport = schemeSetter{transport}
	t.Cleanup(transport.CloseIdleConnections)
	return client
}

// schemeSetter sends requests for http over TLS.
type schemeSetter struct{ *http.Transport }

func (s schemeSetter) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = "https"
	return s.Transport.RoundTrip(r)
}

// startRaw starts a server of bytes, to answer in ways in which net/http does
// not. Each connection is handed to serve when the request's head was read.
func startRaw(t *testing.T, serve func(c io.ReadWriteCloser)) (address string) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					serve(c)
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Wait()
	})
	return ln.Addr().String()
}

// expectLive checks that events come one at a time: each before the next is
// sent.
func expectLive(t *testing.T, c *testClient, up *upstreamClient) {
	t.Helper()
	for _, n := range numbers(1, 5) {
		up.event(n)
		c.expect(n)
	}
	if got := c.resp.Header.Values("Content-Encoding"); got != nil {
		t.Errorf("Content-Encoding: %q", got)
	}
	if got := c.resp.Header.Get("Cache-Control"); got != "no-cache, no-transform" {
		t.Errorf("Cache-Control: %q", got)
	}
}

// wrapped is a site on which all is on that wraps a response.
func wrapped(u *upstream, tls, options string) string {
	return tls + " {\n" + `
		bind {socket}
		log {
			output discard
		}
		encode {
			gzip 1
			zstd
			minimum_length 1
			match {
				header Content-Type text/*
			}
		}
		header X-Site 1
		header >X-Deferred 1
		sse {
			join live
			` + options + `
		}
		reverse_proxy ` + u.address + "\n}\n"
}

// wrappedTimeout is the server's time limit for ordinary answers, and for TLS to begin; overWrappedTimeout is an interval
// of heartbeats that is longer.
const (
	wrappedTimeout     = "2s"
	overWrappedTimeout = "2500ms"
)

const wrappedGlobals = "metrics {\nper_host\n}\nservers {\ntimeouts {\nread_body " + wrappedTimeout + "\nread_header " + wrappedTimeout + "\nwrite " + wrappedTimeout + "\nidle 1m\n}\n}"

func TestHTTP1(t *testing.T) {
	overHTTP1(t)
	u := startUpstream(t, nil)
	g := startGatewayWith(t, wrappedGlobals, wrapped(u, "http://", ""))
	c := g.subscribe("/", "Accept-Encoding: gzip, zstd")
	expectLive(t, c, u.accept())
	if c.resp.Proto != "HTTP/1.1" || c.resp.Header.Get("X-Site") != "1" || c.resp.Header.Get("X-Deferred") != "1" {
		t.Errorf("%s %v", c.resp.Proto, c.resp.Header)
	}
	c.close()
}

// TestHTTP10: the body's end is the connection's; there are no chunks.
func TestHTTP10(t *testing.T) {
	overHTTP1(t)
	u := startUpstream(t, nil)
	g := startGateway(t, wrapped(u, "http://", "prime off\nids upstream"))
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\nHost: gateway.test\r\nAccept: text/event-stream\r\nConnection: keep-alive\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.TransferEncoding != nil || resp.ContentLength != -1 || !resp.Close || resp.Header.Get("SSE-Resume") != "live" {
		t.Errorf("%v %d %v %v", resp.TransferEncoding, resp.ContentLength, resp.Close, resp.Header)
	}
	up := u.accept()
	for _, n := range numbers(1, 3) {
		up.event(n)
		want := "data: " + n + "\n\n"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("%q %v, expected %q", got, err, want)
		}
	}
	up.end()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("at the end %q, %v", rest, err)
	}
}

// TestHTTP2: many streams on one connection; one that ends leaves the others.
func TestHTTP2(t *testing.T) {
	u := startUpstream(t, nil)
	g := startTLS(t, newCertificate(t, "server"), u, "")
	c := g.subscribe("/", "Accept-Encoding: gzip")
	up := u.accept()
	other := g.subscribe("/")
	if c.resp.ProtoMajor != 2 {
		t.Errorf("%s", c.resp.Proto)
	}
	expectLive(t, c, up)
	other.expect(numbers(1, 5)...)
	c.close()
	up.event("6")
	other.expect("6")
	if open, all := u.counts(); open != 1 || all != 1 {
		t.Errorf("%d upstream connections of %d", open, all)
	}
	up.end()
	other.expectEnd()
}

// TestHTTP2Idle: a deadline that was left behind would reset an idle stream.
func TestHTTP2Idle(t *testing.T) {
	u := startUpstream(t, nil)
	g := startTLS(t, newCertificate(t, "server"), u, "write_timeout "+wrappedTimeout+"\nheartbeat "+overWrappedTimeout+" event beat")
	c := g.subscribe("/")
	up := u.accept()
	if m := c.next(); m.Type != "beat" { // after more than write_timeout of silence
		t.Errorf("event %+v", m)
	}
	up.event("1")
	c.skipTo("1")
	c.close()
}

// TestWriteTimeoutOfServer: `timeouts write` is for ordinary answers.
func TestWriteTimeoutOfServer(t *testing.T) {
	u := startUpstream(t, nil)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			g := startGatewayWith(t, wrappedGlobals, wrapped(u, "http://", "heartbeat "+overWrappedTimeout+" event beat"))
			resp, err := g.client.Do(g.request(method, "/", "Accept: text/event-stream"))
			if err != nil {
				t.Fatal(err)
			}
			c := newTestClient(t, resp)
			up := u.accept()
			if m := c.next(); m.Type != "beat" { // after more than `write`
				t.Errorf("event %+v", m)
			}
			up.event("1")
			c.skipTo("1")
			c.close()
		})
	}
}

// startTLS starts a gateway that speaks TLS, with all that wraps a response.
func startTLS(t *testing.T, server certificate, u *upstream, options string) *gateway {
	t.Helper()
	config := wrapped(u, "https://", options)
	g := startGatewayWith(t, wrappedGlobals, strings.Replace(config, "bind {socket}", "bind {socket}\ntls "+server.cert+" "+server.key, 1))
	g.client = tlsClient(t, g.socket, server, nil)
	return g
}

// startHTTP3 starts a gateway that speaks HTTP/3 only, and returns its configuration.
func startHTTP3(t *testing.T, globals, caddyfile string) (g *gateway, config string) {
	t.Helper()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	address := socket.LocalAddr().String()
	file, err := socket.File()
	if err != nil {
		t.Fatal(err)
	}
	socket.Close()
	t.Cleanup(func() { file.Close() })

	server := newCertificate(t, "server")
	config = strings.Replace(caddyfile, "bind {socket}",
		fmt.Sprintf("bind fdgram/%d {\nprotocols h3\n}\ntls %s %s", file.Fd(), server.cert, server.key), 1)
	g = startGatewayWith(t, globals, config)
	transport := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: server.pool, ServerName: "gateway.test", MinVersion: tls.VersionTLS13},
		Dial: func(ctx context.Context, _ string, config *tls.Config, quicConfig *quic.Config) (*quic.Conn, error) {
			return quic.DialAddrEarly(ctx, address, config, quicConfig)
		},
		DisableCompression: true,
	}
	t.Cleanup(func() { _ = transport.Close() })
	g.client = &http.Client{Transport: http3Transport{transport}}
	return g, config
}

// TestHTTP3: there a GET has a body of unknown length. It is shared all the same.
func TestHTTP3(t *testing.T) {
	u := startUpstream(t, nil)
	g, _ := startHTTP3(t, wrappedGlobals, wrapped(u, "https://", "heartbeat "+overWrappedTimeout+" event beat"))

	a, b := g.subscribe("/", "Accept-Encoding: gzip"), g.subscribe("/")
	up := u.accept()
	if a.resp.ProtoMajor != 3 || a.resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%s %v", a.resp.Proto, a.resp.Header)
	}
	expect := func(c *testClient, want string) {
		t.Helper()
		for m := c.next(); m.Data != want; m = c.next() {
			if m.Type != "beat" {
				t.Fatalf("event %+v, expected %s", m, want)
			}
		}
	}
	for _, n := range numbers(1, 5) {
		up.event(n)
		expect(a, n)
		expect(b, n)
	}
	a.close()
	if m := b.next(); m.Type != "beat" { // silence longer than `timeouts write`
		t.Errorf("event %+v", m)
	}
	up.event("6")
	expect(b, "6")
	if _, all := u.counts(); all != 1 {
		t.Errorf("%d upstream connections", all)
	}
	b.close()
	eventually(t, "nobody is attached", func() bool { return subscribers() == 0 })
}

// http3Transport sends requests for http over HTTP/3. It takes no connection for idle: http3.Transport does from the head
// of a response on.
type http3Transport struct{ over *http3.Transport }

func (s http3Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = "https"
	return s.over.RoundTrip(r)
}

// TestPrivateStreamUnderEncode: encode keeps off private streams too.
func TestPrivateStreamUnderEncode(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGatewayWith(t, wrappedGlobals, wrapped(u, "http://", ""))
	resp, err := g.client.Do(g.request(http.MethodPost, "/", "Accept-Encoding: gzip, zstd"))
	if err != nil {
		t.Fatal(err)
	}
	c := newTestClient(t, resp)
	expectLive(t, c, u.accept())
	c.close()
}

// TestEncodeStillEncodes: other answers of the same site are compressed.
func TestEncodeStillEncodes(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, strings.Repeat("<p>compressible</p>", 1000))
	}))
	t.Cleanup(server.Close)
	g := startGateway(t, wrapped(&upstream{address: server.Listener.Addr().String()}, "http://", ""))
	for range 2 { // the opener, and one who asks on its own
		resp := g.get("/", "Accept-Encoding: gzip")
		if got := resp.Header.Get("Content-Encoding"); got != "gzip" {
			t.Errorf("Content-Encoding: %q", got)
		}
		if text := body(t, resp); len(text) > 10_000 {
			t.Errorf("%d bytes", len(text))
		}
	}
}

// coder compresses what the upstream writes; flush makes it all readable.
type coder interface {
	io.WriteCloser
	Flush() error
}

// TestCodedUpstream: an upstream that codes its answer although identity was
// asked for. Events are decoded as they come.
func TestCodedUpstream(t *testing.T) {
	for coding, start := range map[string]func(w io.Writer) coder{
		"gzip":    func(w io.Writer) coder { return gzip.NewWriter(w) },
		"X-GZip":  func(w io.Writer) coder { return gzip.NewWriter(w) },
		"deflate": func(w io.Writer) coder { return zlib.NewWriter(w) },
		"zstd": func(w io.Writer) coder {
			z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			return z
		},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(coding+" "+method, func(t *testing.T) {
				u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					w.Header().Set("Cache-Control", "no-cache")
					w.Header().Set("Content-Encoding", coding)
				})
				g := startGateway(t, proxied("", u))
				resp, err := g.client.Do(g.request(method, "/", "Accept: text/event-stream", "Accept-Encoding: gzip, deflate, zstd"))
				if err != nil {
					t.Fatal(err)
				}
				c := newTestClient(t, resp)
				up := u.accept()
				coded := start(writerFunc(func(p []byte) (int, error) {
					up.write(string(p))
					return len(p), nil
				}))
				for i := range 5 {
					text := strings.Repeat(fmt.Sprint(i), 1+i*5000)
					_, _ = io.WriteString(coded, "data: "+text+"\n\n")
					if err := coded.Flush(); err != nil {
						t.Fatal(err)
					}
					c.expect(text)
				}
				if got := c.resp.Header.Values("Content-Encoding"); got != nil {
					t.Errorf("Content-Encoding: %q", got)
				}
				coded.Close()
				up.end()
				c.expectEnd()
			})
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestUnknownCoding: such an answer is its client's, byte for byte.
func TestUnknownCoding(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", "rot13")
	})
	g := startGateway(t, proxied("", u))
	for _, want := range numbers(1, 2) {
		resp := g.get("/")
		up := u.accept()
		up.write("qngn: " + want + "\n\n")
		up.end()
		if text := body(t, resp); text != "qngn: "+want+"\n\n" || resp.Header.Get("Content-Encoding") != "rot13" {
			t.Errorf("%q %v", text, resp.Header)
		}
	}
	if _, all := u.counts(); all != 2 {
		t.Errorf("%d upstream connections", all)
	}
}

// TestGarbageInsteadOfCoding: the head promises a coding that the body is not
// in. That is a break, and no crash.
func TestGarbageInsteadOfCoding(t *testing.T) {
	coding := make(chan string, 10)
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", <-coding)
	})
	for _, name := range []string{"gzip", "deflate", "zstd"} {
		g := startGateway(t, proxied("linger 0s", u))
		coding <- name
		c := g.subscribe("/")
		up := u.accept()
		pour(t, up, "this is not coded")
		coding <- "identity"
		up = u.accept() // after at most a second
		up.event("1")
		c.expect("1")
		c.close()
		up.expectGone()
	}
}

// TestLatency: an event reaches the client before the upstream writes its next
// byte, whatever the line ends and wherever the reads end.
func TestLatency(t *testing.T) {
	for name, end := range map[string]string{"LF": "\n", "CR": "\r", "CRLF": "\r\n"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			for _, step := range []int{1, 2, 3, 1000} {
				t.Run(fmt.Sprintf("%s by %d %s", name, step, method), func(t *testing.T) {
					u := startUpstream(t, nil)
					g := startGateway(t, proxied("", u))
					resp, err := g.client.Do(g.request(method, "/", "Accept: text/event-stream"))
					if err != nil {
						t.Fatal(err)
					}
					c := newTestClient(t, resp)
					up := u.accept()
					for _, n := range numbers(1, 4) {
						event := "event: e" + end + "data: " + n + end + end
						if name == "CRLF" && n != "1" {
							// The LF of the last blank line comes with the next
							// event: the event must not wait for it.
							event = "\n" + event
						}
						if name == "CRLF" {
							event = strings.TrimSuffix(event, "\n")
						}
						for len(event) > 0 {
							k := min(step, len(event))
							up.write(event[:k])
							event = event[k:]
						}
						if m := c.expect(n); m.Type != "e" {
							t.Errorf("event %+v", m)
						}
					}
					up.end()
					c.expectEnd()
				})
			}
		}
	}
}

// TestHTTP10Upstream: a body that ends with its connection.
func TestHTTP10Upstream(t *testing.T) {
	next := make(chan string)
	address := startRaw(t, func(c io.ReadWriteCloser) {
		_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
		for text := range next {
			_, _ = io.WriteString(c, text)
		}
	})
	g := startGateway(t, site("sse {\njoin live\n}\nreverse_proxy "+address))
	a, b := g.subscribe("/"), g.subscribe("/")
	for _, n := range numbers(1, 3) {
		next <- "data: " + n + "\n\n"
		a.expect(n)
		b.expect(n)
	}
	close(next)
	a.expectEnd()
	b.expectEnd()
}

// TestChunkPerByte: the upstream's chunks have one byte each.
func TestChunkPerByte(t *testing.T) {
	next := make(chan string)
	address := startRaw(t, func(c io.ReadWriteCloser) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for text := range next {
			for _, b := range []byte(text) {
				_, _ = c.Write([]byte{'1', '\r', '\n', b, '\r', '\n'})
			}
		}
		_, _ = io.WriteString(c, "0\r\n\r\n")
	})
	g := startGateway(t, site("sse\nreverse_proxy "+address))
	c := g.subscribe("/")
	for _, text := range []string{"é", "☃", "𝄞"} {
		next <- "data: " + text + "\r\n\r\n"
		c.expect(text)
	}
	close(next)
	c.expectEnd()
}

// compositeLastID is a last event ID as applications give it that have a position
// in each of many topics.
func compositeLastID(offset, size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `,{"topic":"eqiad.mediawiki.%d","partition":0,"offset":%d}`, i, offset)
	}
	return "[" + b.String()[1:size-1] + "]"
}

// TestLongLastEventIDs: ids of some kilobytes are looked up and sent upstream as
// short ones are.
func TestLongLastEventIDs(t *testing.T) {
	for _, size := range []int{1023, 1025, 6000, replay.MaxID} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			u := startUpstream(t, nil)
			g := startGateway(t, proxied("", u))
			a := g.subscribe("/")
			up := u.accept()
			ids := []string{compositeLastID(1, size), compositeLastID(2, size), compositeLastID(3, size)}
			up.numbered(ids...)
			last := a.expect(ids[0])
			if last.LastEventID != ids[0] {
				t.Fatalf("the last event ID has %d bytes", len(last.LastEventID))
			}
			a.expect(ids[1], ids[2])
			b := g.subscribe("/", "Last-Event-ID: "+ids[0])
			if got := b.outcome(); got != "replayed; events=2" {
				t.Errorf("SSE-Resume: %s", got)
			}
			b.expect(ids[1], ids[2])
			unknown := compositeLastID(7, size)
			c := g.subscribe("/", "Last-Event-ID: "+unknown)
			splice := u.accept()
			if got := splice.request.Header.Get("Last-Event-Id"); got != unknown {
				t.Errorf("%d bytes of the ID were sent upstream", len(got))
			}
			a.close()
			b.close()
			c.close()
		})
	}
}
