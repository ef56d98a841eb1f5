package caddysse

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// Answers that came after their client was sent the head of an event stream, and
// are none: they are told in it, in the form that the client's protocol has for an
// error.

// Values of Handler.EarlyError.
const (
	earlyErrorOpenAI    = "openai"
	earlyErrorAnthropic = "anthropic"
	earlyErrorSSE       = "sse"
)

// earlyErrorOf is the form for a request's path, where the configuration does not
// say.
func earlyErrorOf(path string) string {
	path = strings.TrimSuffix(path, "/")
	if strings.HasSuffix(path, "/v1/messages") {
		return earlyErrorAnthropic
	}
	for _, suffix := range []string{"/v1/chat/completions", "/v1/responses", "/v1/completions"} {
		if strings.HasSuffix(path, suffix) {
			return earlyErrorOpenAI
		}
	}
	return earlyErrorSSE
}

// earlyErrorEnds reports whether a response ends in order after an error in that
// form: the protocol's clients know it. Else it breaks off, so that it does not look
// complete.
func earlyErrorEnds(form string) bool { return form != earlyErrorSSE }

// maxLateBody is how much of an answer's body is told.
const maxLateBody = 4 << 10

// errLateBody ends an answer of which enough has come.
var errLateBody = errors.New("the answer is no event stream and came too late: no more of it is of use")

// lateAnswer is an answer that came too late.
type lateAnswer struct {
	status      int // 0: there was none
	contentType string
	fields      map[string]string // those of lateFields, with names in lower case
	body        bodyWriter        // removes the coding; nil: it is not known
	text        bytes.Buffer      // the body's beginning
}

func newLateAnswer(status int, header http.Header) *lateAnswer {
	a := &lateAnswer{status: status, contentType: header.Get("Content-Type"), fields: make(map[string]string)}
	for name, values := range header {
		if isLateField(name) {
			a.fields[strings.ToLower(name)] = strings.Join(values, ", ")
		}
	}
	coding := header.Get("Content-Encoding")
	var known bool
	if a.body, known = newBodyWriter(coding, lateText{a}); !known {
		a.contentType += " in " + coding
	}
	return a
}

// lateText keeps the beginning of the body.
type lateText struct{ a *lateAnswer }

func (t lateText) Write(b []byte) (int, error) {
	n, _ := t.a.text.Write(b[:min(len(b), maxLateBody-t.a.text.Len())]) // never fails
	if n < len(b) {
		return n, errLateBody
	}
	return n, nil
}

func (a *lateAnswer) Write(b []byte) (int, error) {
	if a.body == nil {
		return 0, errLateBody
	}
	return a.body.Write(b)
}

// close ends the body, of which nothing more comes.
func (a *lateAnswer) close() {
	if a.body != nil {
		_ = a.body.Close(false) // what was decoded is told
	}
}

// event is the answer as an event of the stream, in a form.
func (a *lateAnswer) event(form string) []byte {
	var e eventstream.Event
	switch form {
	case earlyErrorOpenAI:
		e.Data = encodeJSON(map[string]any{"error": a.failure("server_error")})
	case earlyErrorAnthropic:
		failure := map[string]any{"type": "error", "error": a.failure("api_error")}
		if id := a.fields["request-id"]; id != "" {
			failure["request_id"] = id
		}
		e.Type, e.Data = "error", encodeJSON(failure)
	default:
		e.Type = "error"
		e.Data = encodeJSON(map[string]any{"status": a.told(), "content_type": a.contentType, "headers": a.fields, "body": a.text.String()})
	}
	wire, _ := eventstream.AppendEvent(nil, e) // JSON has no line ends
	return wire
}

// told is the status that the client is told.
func (a *lateAnswer) told() int {
	if a.status == 0 {
		return http.StatusBadGateway
	}
	return a.status
}

// failure is the answer as the object that both protocols have for an error: the
// upstream's own, as far as it has one, with what the client would have seen in the
// head.
func (a *lateAnswer) failure(internal string) map[string]any {
	failure := a.own()
	if failure == nil {
		failure = map[string]any{"message": a.message()}
	}
	if text, _ := failure["message"].(string); text == "" {
		failure["message"] = a.message()
	}
	if failure["type"] == nil {
		failure["type"] = failureType(a.told(), internal)
	}
	failure["status"] = a.told()
	if len(a.fields) > 0 {
		failure["headers"] = a.fields
	}
	return failure
}

// own is the error object in the body of the upstream's answer; nil: there is
// none.
func (a *lateAnswer) own() map[string]any {
	if a.status < http.StatusBadRequest {
		return nil
	}
	var body map[string]any
	if json.Unmarshal(a.text.Bytes(), &body) != nil {
		return nil
	}
	switch failure := body["error"].(type) {
	case map[string]any:
		return failure
	case string:
		return map[string]any{"message": failure}
	}
	if _, ok := body["message"].(string); ok {
		return body
	}
	if detail, ok := body["detail"].(string); ok {
		return map[string]any{"message": detail}
	}
	return nil
}

// message tells of an answer that has no message of its own.
func (a *lateAnswer) message() string {
	text := strings.TrimSpace(a.text.String())
	switch {
	case a.status == 0:
		return "the upstream did not answer"
	case a.status < http.StatusBadRequest:
		return "the upstream's answer is no event stream: " + strings.TrimSpace(a.contentType+" "+text)
	case text == "":
		return strings.ToLower(http.StatusText(a.status))
	}
	return text
}

// failureType is the type of error that both protocols have for a status.
func failureType(status int, internal string) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusGatewayTimeout:
		return "timeout_error"
	case 529: // Anthropic's
		return "overloaded_error"
	}
	if status >= 400 && status < 500 {
		return "invalid_request_error"
	}
	return internal
}

// encodeJSON encodes what has no values that cannot be.
func encodeJSON(value any) string {
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(value)
	return strings.TrimSuffix(text.String(), "\n")
}

// lateFields are the header fields of an answer that the client is told when it
// came too late, beside those with one of lateFieldPrefixes.
var lateFields = []string{"Retry-After", "Retry-After-Ms", "X-Should-Retry", "X-Request-Id", "Request-Id", "Apim-Request-Id", "Cf-Ray", "Ratelimit", "Ratelimit-Policy"}

var lateFieldPrefixes = []string{"X-Ratelimit-", "Ratelimit-", "Anthropic-Ratelimit-"}

// isLateField reports whether a header field, in canonical form, is one of them.
func isLateField(name string) bool {
	return slices.Contains(lateFields, name) ||
		slices.ContainsFunc(lateFieldPrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}
