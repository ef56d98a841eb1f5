package caddysse

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// startGatewayWith is startGateway with further global options.
func startGatewayWith(t *testing.T, globals, caddyfile string) *gateway {
	t.Helper()
	g := startGateway(t, site("test_probe\nrespond 503"))
	body, err := adapt(t, strings.ReplaceAll(
		strings.Replace(testGlobals, "admin off", "admin off\n"+globals, 1)+caddyfile, "{socket}", "unix/"+g.socket))
	if err != nil {
		t.Fatal(err)
	}
	g.awaitReload(func() {
		if err := caddy.Load([]byte(body), true); err != nil {
			t.Fatal(err)
		}
	})
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
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
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
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate{cert: filepath.Join(t.TempDir(), "cert.pem"), key: filepath.Join(t.TempDir(), "key.pem"), pool: x509.NewCertPool()}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if c.pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
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
