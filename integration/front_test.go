package integration

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"
)

// frontPatience is how long a front waits for a response's next bytes.
const frontPatience = 1500 * time.Millisecond

// front is a proxy in front of the gateway that cuts responses which it takes for dead.
type front struct {
	*httptest.Server
	cut chan struct{} // has something for each response that was cut
}

// startFront starts a front of the gateway at an address.
func startFront(t *testing.T, address string) *front {
	t.Helper()
	f := &front{cut: make(chan struct{}, 1000)}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address})
	transport := newTransport()
	proxy.Transport = transport
	proxy.FlushInterval = -1
	proxy.ErrorLog = log.New(io.Discard, "", 0) // of what it cuts
	proxy.ModifyResponse = func(resp *http.Response) error {
		body := &impatientBody{ReadCloser: resp.Body}
		body.timer = time.AfterFunc(frontPatience, func() {
			f.cut <- struct{}{}
			body.ReadCloser.Close()
		})
		resp.Body = body
		return nil
	}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The server closes the body when the answer begins. A transport that
		// looks for its end just then takes that for an error, and gives up the
		// connection that the answer comes on: about one POST in a hundred.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
		transport.CloseIdleConnections()
	})
	return f
}

// cuts returns how many responses were cut.
func (f *front) cuts() int { return len(f.cut) }

// awaitCut waits until a response is cut.
func (f *front) awaitCut() error {
	select {
	case <-f.cut:
		return nil
	case <-time.After(testTimeout):
		return errors.New("nothing was cut")
	}
}

// impatientBody is a response body that is closed when nothing comes.
type impatientBody struct {
	io.ReadCloser
	timer *time.Timer
}

func (b *impatientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.timer.Reset(frontPatience)
	return n, err
}

func (b *impatientBody) Close() error {
	b.timer.Stop()
	return b.ReadCloser.Close()
}
