package admin

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/access"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// RevokeRequest is the body of POST /sse/revoke.
type RevokeRequest struct {
	By     string          `json:"by"`
	Value  string          `json:"value"`
	SHA256 string          `json:"sha256"`
	Window *caddy.Duration `json:"window"`
}

// RevokeAnswer answers it.
type RevokeAnswer struct {
	Subscribers int     `json:"subscribers"`
	Window      float64 `json:"window_seconds"`
}

// revoke lets all clients go that have a value of what the option revoke_by says, of
// all handlers.
func revoke(w http.ResponseWriter, r *http.Request, _ params) error {
	var body RevokeRequest
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRevokeRequest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		return apiError(http.StatusBadRequest, `expected {"value": "<value>"}: %v`, err)
	}
	by, err := body.by(access.Process.Names())
	if err != nil {
		return err
	}
	sum, err := body.sum()
	if err != nil {
		return err
	}
	window := time.Duration(0)
	if body.Window != nil {
		window = time.Duration(*body.Window)
	}
	if window < 0 || window > maxDrain {
		return apiError(http.StatusBadRequest, "window: expected a duration from 0s to %v, not %v", maxDrain, window)
	}
	key := access.KeyOf(by, sum)
	n := access.Process.Revoke(key, func(*access.Guest) bool { return true }, window)
	stream.Process.EndHeld(stream.Holder(key), func(string, string) bool { return true }, window)
	access.Revoked.With(access.ByAdmin).Inc()
	return writeJSON(w, http.StatusAccepted, RevokeAnswer{Subscribers: n, Window: window.Seconds()})
}

// maxRevokeRequest bounds the body of a request to revoke, in bytes: a value may be a
// token.
const maxRevokeRequest = 64 << 10

// by is the template that is meant.
func (b *RevokeRequest) by(known []string) (string, error) {
	switch {
	case len(known) == 0:
		return "", apiError(http.StatusBadRequest, "no handler has the option revoke_by")
	case b.By == "" && len(known) == 1:
		return known[0], nil
	case !slices.Contains(known, b.By):
		return "", apiError(http.StatusBadRequest, "by: expected one of %s, not %q", strings.Join(known, ", "), stream.Clip(b.By))
	}
	return b.By, nil
}

// sum is the hash of the value that is meant.
func (b *RevokeRequest) sum() (sum [sha256.Size]byte, err error) {
	switch {
	case (b.Value == "") == (b.SHA256 == ""):
		return sum, apiError(http.StatusBadRequest, "expected either value or sha256")
	case b.Value != "":
		return sha256.Sum256([]byte(b.Value)), nil
	case len(b.SHA256) != 2*len(sum):
		return sum, apiError(http.StatusBadRequest, "sha256: expected %d hexadecimal digits", 2*len(sum))
	}
	if _, err := hex.Decode(sum[:], []byte(b.SHA256)); err != nil {
		return sum, apiError(http.StatusBadRequest, "sha256: %v", err)
	}
	return sum, nil
}
