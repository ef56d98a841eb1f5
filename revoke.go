package caddysse

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/access"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Access that is taken back: the option revoke_by names what a client is known by, of
// which a hash is kept. Who has it is let go when an operator says so, over the admin
// API, or the application, in a header field of any answer that passes.

// revokeField is that header field of answers. The client does not see it.
const revokeField = "Sse-Revoke"

// maxRevokeFields bounds how many of them one answer may have: each is work.
const maxRevokeFields = 16

// scopes numbers handlers, so that a revocation is of the one that it came through.
var scopes atomic.Uint64

// scope is where a revocation of the application's is meant: requests of the same
// handler, and those of the same place for the same host. Applications behind other
// handlers have users of the same names.
type scope struct {
	handler     uint64
	place, host string
}

func (h *Handler) scopeOf(host string) scope {
	return scope{h.scope, h.instance.Place, strings.ToLower(host)}
}

// includes reports whether a guest is of the scope.
func (s scope) includes(g *access.Guest) bool {
	who := g.Subject.(*guest)
	h := who.handler.Load()
	return h.scope == s.handler || s.holds(h.instance.Place, who.askedHost())
}

func (s scope) holds(place, host string) bool { return place == s.place && host == s.host }

// holderOf is what a client is known by; zero: nothing.
func (h *Handler) holderOf(r *http.Request) stream.Holder {
	if h.RevokeBy == "" {
		return stream.Holder{}
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return stream.Holder{}
	}
	known := false
	value, _ := repl.ReplaceFunc(h.RevokeBy, func(_ string, value any) (any, error) {
		known = known || caddy.ToString(value) != ""
		return value, nil
	})
	if !known {
		return stream.Holder{}
	}
	return stream.Holder(access.KeyOf(h.RevokeBy, sha256.Sum256([]byte(value))))
}

// takeRevocations takes from the header of an answer of the application whose access is
// over, and lets them go.
func (h *Handler) takeRevocations(header http.Header, host string) {
	if h.RevokeBy == "" || len(header[revokeField]) == 0 {
		return
	}
	said := header[revokeField]
	header.Del(revokeField)
	where := h.scopeOf(host)
	n := 0
	for _, value := range said[:min(len(said), maxRevokeFields)] {
		if sum, ok := hashOf(value); ok {
			key := access.KeyOf(h.RevokeBy, sum)
			n += access.Process.Revoke(key, where.includes, 0)
			stream.Process.EndHeld(stream.Holder(key), where.holds, 0)
		}
	}
	access.Revoked.With(access.ByApplication).Inc()
	h.lines.Withdrawn.Log(func(suppressed int) {
		h.logger.Info("access taken back by the application", zap.Int("subscribers", n), zap.Int("suppressed", suppressed))
	})
}

// hashOf reads what the application says: the value, or sha256= and the hash of it in
// hexadecimal digits.
func hashOf(text string) (sum [sha256.Size]byte, ok bool) {
	text = strings.TrimSpace(text)
	if digits, hashed := strings.CutPrefix(text, "sha256="); hashed {
		n, err := hex.Decode(sum[:], []byte(digits[:min(len(digits), 2*len(sum))]))
		return sum, err == nil && n == len(sum) && len(digits) == 2*len(sum)
	}
	return sha256.Sum256([]byte(text)), text != ""
}
