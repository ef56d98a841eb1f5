package caddysse

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
)

// overHTTP2 reports whether gateways speak TLS, share connections of HTTP/2, and are
// asked over one.
func overHTTP2() bool { return deliverytest.OverHTTP2() }

// testPair is the certificate of all gateways that are reached over HTTP/2.
var testPair = sync.OnceValue(func() tls.Certificate {
	pair, err := newPair("gateway")
	if err != nil {
		panic(err)
	}
	return pair
})

// speaksHTTP2 tells whether the configuration that was loaded last is one of
// withHTTP2.
var speaksHTTP2 atomic.Bool

// keepsHTTP1 is for overHTTP1.
var keepsHTTP1 atomic.Bool

// overHTTP1 is for tests of what is only so over HTTP/1.1, without TLS, and for those
// that choose by themselves.
func overHTTP1(t *testing.T) {
	t.Helper()
	deliverytest.NotOverHTTP2(t)
	keepsHTTP1.Store(true)
	t.Cleanup(func() { keepsHTTP1.Store(false) })
}

// withHTTP2 lets the servers of a configuration speak TLS, and share connections,
// if all of them listen on Unix sockets and none speaks TLS.
func withHTTP2(body []byte) []byte {
	speaksHTTP2.Store(false)
	if keepsHTTP1.Load() {
		return body
	}
	var config map[string]any
	if err := json.Unmarshal(body, &config); err != nil {
		return body
	}
	apps, _ := config["apps"].(map[string]any)
	app, _ := apps["http"].(map[string]any)
	servers, _ := app["servers"].(map[string]any)
	if len(servers) == 0 {
		return body
	}
	shared := map[string]any{"wrapper": "sse"}
	for _, server := range servers {
		server, _ := server.(map[string]any)
		if server["tls_connection_policies"] != nil && server["listener_wrappers"] == nil {
			server["listener_wrappers"] = []any{shared}
		}
	}
	if only, err := json.Marshal(config); err == nil {
		body = only
	}
	for _, server := range servers {
		server, _ := server.(map[string]any)
		listen, _ := server["listen"].([]any)
		for _, address := range listen {
			if address, _ := address.(string); !strings.HasPrefix(address, "unix/") {
				return body
			}
		}
		if server["tls_connection_policies"] != nil || len(listen) == 0 {
			return body
		}
		server["tls_connection_policies"] = []any{map[string]any{}}
		wrappers, _ := server["listener_wrappers"].([]any)
		server["listener_wrappers"] = append(wrappers, shared)
	}
	key, err := marshalKey(testPair())
	if err != nil {
		panic(err)
	}
	apps["tls"] = map[string]any{"certificates": map[string]any{"load_pem": []any{map[string]any{
		"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: testPair().Certificate[0]})),
		"key":         string(key),
	}}}}
	if body, err = json.Marshal(config); err != nil {
		panic(err)
	}
	speaksHTTP2.Store(true)
	return body
}

// gatewayClient is a client of a gateway. It speaks HTTP/2 if that does.
func gatewayClient(socket string) *http.Client {
	if !overHTTP2() {
		return unixClient(socket)
	}
	plain, over := unixClient(socket), unixClient(socket)
	transport := over.Transport.(*http.Transport)
	transport.ForceAttemptHTTP2 = true
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, ServerName: "gateway.test", MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: either{plain.Transport.(*http.Transport), schemeSetter{transport}}}
}

// either is the one or the other, as the gateway is.
type either struct {
	plain *http.Transport
	over  schemeSetter
}

func (e either) RoundTrip(r *http.Request) (*http.Response, error) {
	if speaksHTTP2.Load() {
		return e.over.RoundTrip(r)
	}
	return e.plain.RoundTrip(r)
}

// CloseIdleConnections is for http.Client.
func (e either) CloseIdleConnections() {
	e.plain.CloseIdleConnections()
	e.over.CloseIdleConnections()
}
