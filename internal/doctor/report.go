package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Report is what was seen and what it comes to. Its JSON is stable.
type Report struct {
	URL      string            `json:"url"`                     // without user, query and fragment
	Final    string            `json:"redirected_to,omitempty"` // the same of where a redirect has led
	Healthy  bool              `json:"healthy"`
	Status   int               `json:"status,omitempty"`
	Protocol string            `json:"protocol,omitempty"`
	Headers  map[string]string `json:"headers,omitempty"` // those of shownFields that there were

	// Times are in milliseconds.
	Head       float64 `json:"head_ms"`
	FirstByte  float64 `json:"first_byte_ms,omitempty"`
	Watched    float64 `json:"watched_ms"`
	Silence    float64 `json:"longest_silence_ms"`
	Events     int     `json:"events"`
	WithIDs    int     `json:"events_with_id"`
	Heartbeats int     `json:"heartbeats"`

	Findings []Finding `json:"findings"`
}

// shownFields are the fields of the answer that a report has.
var shownFields = []string{
	"Content-Type", "Cache-Control", "Content-Encoding", "X-Accel-Buffering", "Incremental", "SSE-Resume", "Server", "Via", "Alt-Svc",
}

func (e *examination) report() *Report {
	v := e.app
	r := &Report{
		URL: shownURL(e.options.URL), Healthy: true,
		Head: milliseconds(v.headAt), FirstByte: milliseconds(v.firstByte), Watched: milliseconds(v.ended),
		Silence: milliseconds(v.longestSilence()), Events: v.events, WithIDs: v.ids, Heartbeats: v.heartbeats,
		Findings: e.findings(),
	}
	if e.idle != nil {
		r.Heartbeats += e.idle.heartbeats
	}
	if head := e.head(); head != nil {
		r.Status, r.Protocol, r.Headers = head.StatusCode, head.Proto, shown(head)
		if final := shownURL(head.Request.URL.String()); final != r.URL {
			r.Final = final
		}
	}
	for _, f := range r.Findings {
		r.Healthy = r.Healthy && f.Result != Problem
	}
	return r
}

func shown(head *http.Response) map[string]string {
	fields := make(map[string]string)
	for _, name := range shownFields {
		if head.Header.Get(name) != "" {
			fields[strings.ToLower(name)] = quote(head, name)
		}
	}
	return fields
}

// shownURL leaves out what may be secret.
func shownURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	u.User, u.Fragment = nil, ""
	if u.RawQuery != "" {
		u.RawQuery = "…"
	}
	return u.String()
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond)) / float64(time.Millisecond)
}

// count is a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// endedWell reports whether the body ended as HTTP says.
func (v *visit) endedWell() bool { return errors.Is(v.end, io.EOF) }

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(r)
}

// WriteFailure writes, as a JSON object, why there is no report.
func WriteFailure(w io.Writer, address string, failure error) error {
	if errors.Is(failure, errURL) {
		address = "" // it may be anything, a credential say
	}
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(struct {
		URL     string `json:"url"`
		Healthy bool   `json:"healthy"`
		Error   string `json:"error"`
	}{shownURL(address), false, failure.Error()})
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.URL)
	if r.Final != "" {
		fmt.Fprintf(&b, "redirected to %s\n", r.Final)
	}
	if r.Status > 0 {
		fmt.Fprintf(&b, "%d, %s; ", r.Status, r.Protocol)
	}
	fmt.Fprintf(&b, "watched for %v: %s, %s\n\n",
		short(time.Duration(r.Watched*float64(time.Millisecond))), count(r.Events, "event"), count(r.Heartbeats, "heartbeat"))
	problems, untold := 0, 0
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-8s %-18s %s\n", f.Result, f.Name, f.Seen)
		if f.Why != "" {
			fmt.Fprintf(&b, "%28swhy: %s\n", "", f.Why)
		}
		if f.Change != "" {
			fmt.Fprintf(&b, "%28schange: %s\n", "", f.Change)
		}
		if f.Result == Problem {
			problems++
		}
		if f.Result == Unknown {
			untold++
		}
	}
	verdict := "healthy"
	if problems > 0 {
		verdict = count(problems, "problem")
	}
	if untold > 0 {
		verdict += fmt.Sprintf("; %d of %d could not be told", untold, len(r.Findings))
	}
	fmt.Fprintf(&b, "\n%s\n", verdict)
	_, err := io.WriteString(w, b.String())
	return err
}
