package caddysse

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Where the application cannot be reached for want of files it is tried again, a few
// times, as long as nothing was answered. Other failures are passed on at once.
func TestWithoutFilesItIsTriedAgain(t *testing.T) {
	none := caddyhttp.Error(http.StatusBadGateway, fmt.Errorf("dial tcp: socket: %v", syscall.EMFILE)) //nolint:errorlint // as reverse_proxy does
	for name, test := range map[string]struct {
		errs     []error
		answered bool
		tries    int
	}{
		"there are some":  {[]error{nil}, false, 1},
		"then there are":  {[]error{none, none, nil}, false, 3},
		"there are none":  {[]error{none, none, none, none, none, none, none}, false, filesTries},
		"something else":  {[]error{errors.New("refused"), nil}, false, 1},
		"it has answered": {[]error{none, nil}, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &Handler{lines: new(stream.HandlerLines), logger: zap.NewNop()}
				tries := 0
				err := h.runWithFiles(context.Background(), func() bool { return test.answered }, func() error {
					tries++
					return test.errs[tries-1]
				})
				if tries != test.tries || !errors.Is(err, test.errs[tries-1]) {
					t.Errorf("%d tries: %v", tries, err)
				}
			})
		})
	}
	h := &Handler{lines: new(stream.HandlerLines), logger: zap.NewNop()}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept", eventStreamType)
	w := httptest.NewRecorder()
	if err := h.settleFiles(w, r, stream.Key{}, none); err != nil || w.Header().Get("SSE-Resume") != "refused; reason=files" {
		t.Errorf("EventSource is not asked to come back: %v, %v", err, w.Header())
	}
}
