package caddysse

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/spf13/cobra"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/doctor"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// asked makes bubbleServer.listen ask for a probe stream.
func asked(kind string) string { return eventStreamType + "\r\nSSE-Probe: " + kind }

// noUpstream is behind a handler that has to answer itself.
func noUpstream(t *testing.T) caddyhttp.HandlerFunc {
	t.Helper()
	return func(http.ResponseWriter, *http.Request) error {
		t.Error("a request came to the application")
		return nil
	}
}

func TestProbeFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveInBubble(t, &Handler{Probe: true}, noUpstream(t))
		got := s.listen(asked("flow"), time.Hour)
		if len(got) != doctor.ProbeEvents {
			t.Fatalf("got %v", got)
		}
		size := 0
		for i, a := range got {
			if a.at != time.Duration(i)*250*time.Millisecond {
				t.Errorf("event %d came after %v", i+1, a.at)
			}
			size += len(a.text)
		}
		if want := "event: probe\ndata: {\"n\":3,\"at_ms\":500}\n\n"; got[2].text != want {
			t.Errorf("got %q, expected %q", got[2].text, want)
		}
		if want := "event: probe\ndata: {\"n\":12,\"at_ms\":2750,\"last\":true}\n\n"; got[11].text != want {
			t.Errorf("got %q, expected %q", got[11].text, want)
		}
		if size > 1024 {
			t.Errorf("%d bytes", size) // would be enough for a buffer
		}
	})
}

func TestProbeIdle(t *testing.T) {
	event := func(data string) string { return "event: probe\ndata: {" + data + "}\n\n" }
	for _, test := range []struct {
		name      string
		heartbeat *Heartbeat
		want      []arrival
	}{
		{"default", nil, []arrival{
			{0, event(`"n":1,"at_ms":0,"heartbeat_ms":15000`)}, {seconds(15), ":\n\n"}, {seconds(30), ":\n\n"},
			{seconds(37.5), event(`"n":2,"at_ms":37500,"last":true`)},
		}},
		{"off", &Heartbeat{Interval: new(caddy.Duration(0))}, []arrival{
			{0, event(`"n":1,"at_ms":0`)}, {seconds(65), event(`"n":2,"at_ms":65000,"last":true`)},
		}},
		{"seldom", &Heartbeat{Interval: new(caddy.Duration(40 * time.Second)), Event: "beat"}, []arrival{
			{0, event(`"n":1,"at_ms":0,"heartbeat_ms":40000`)}, {seconds(40), "event: beat\ndata:\n\n"},
			{seconds(60), event(`"n":2,"at_ms":60000,"last":true`)},
		}},
		{"never", &Heartbeat{Interval: new(caddy.Duration(time.Hour))}, []arrival{
			{0, event(`"n":1,"at_ms":0,"heartbeat_ms":3600000`)}, {seconds(65), event(`"n":2,"at_ms":65000,"last":true`)},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serveInBubble(t, &Handler{Probe: true, Heartbeat: test.heartbeat}, noUpstream(t))
				if got := s.listen(asked("idle"), time.Hour); !slices.Equal(got, test.want) {
					t.Errorf("got\n%v\nexpected\n%v", got, test.want)
				}
			})
		})
	}
}

// Without the option, and for any other request, the application answers.
func TestProbeOff(t *testing.T) {
	for _, test := range []struct {
		probe  bool
		accept string
	}{
		{false, asked("flow")}, {false, asked("idle")}, {true, asked("other")}, {true, eventStreamType}, {true, "*/*\r\nSSE-Probe: flow"},
	} {
		synctest.Test(t, func(t *testing.T) {
			off := false
			h := &Handler{Probe: test.probe, Prime: &off, IDs: "upstream"}
			s := serveInBubble(t, h, script(step{seconds(1), "data: application\n\n"}))
			got := s.listen(test.accept, seconds(3))
			if want := []arrival{{seconds(1), "data: application\n\n"}}; !slices.Equal(got, want) {
				t.Errorf("%v, %q: got %v", test.probe, test.accept, got)
			}
		})
	}
}

// There is an end to how many probe streams there are. Who left makes room.
func TestProbeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{Probe: true}
		s := serveInBubble(t, h, noUpstream(t))
		for range maxProbes {
			go s.listen(asked("idle"), seconds(10))
		}
		synctest.Wait()
		err := h.serveProbe(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), doctor.ProbeFlow)
		if refusal, ok := errors.AsType[caddyhttp.HandlerError](err); !ok || refusal.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("one too many: %v", err)
		}
		time.Sleep(seconds(11))
		if got := s.listen(asked("flow"), time.Hour); len(got) != doctor.ProbeEvents {
			t.Errorf("got %v", got)
		}
	})
}

// The heads of probe streams are those of event streams; a reload ends them in
// order.
func TestProbeOverReload(t *testing.T) {
	u := startUpstream(t, nil)
	config := func(heartbeat string) string { return proxied("probe on\nheartbeat "+heartbeat, u) }
	g := startGateway(t, config("50s"))
	c := g.subscribe("/", "SSE-Probe: idle")
	if m := c.next(); m.Type != doctor.ProbeType || !strings.Contains(m.Data, `"heartbeat_ms":50000`) {
		t.Errorf("event %+v", m)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no", "SSE-Probe": "idle",
	} {
		if got := c.resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, expected %q", name, got, want)
		}
	}
	g.load(config("40s"))
	if m := c.next(); !strings.Contains(m.Data, `"last":true`) {
		t.Errorf("event %q", m.Data)
	}
	c.expectEnd()
	if _, all := u.counts(); all > 0 {
		t.Errorf("%d requests came to the application", all)
	}
}

// The doctor and the gateway together.
func TestDoctorOfGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{Probe: true, Join: "live", Delivery: delivery.ByHandler} // over pipes
		var steps []step
		for i := range 100 {
			steps = append(steps, step{time.Duration(i) * 1700 * time.Millisecond, "data: x\n\n"})
		}
		s := serveInBubble(t, h, script(steps...))
		report, err := doctor.Run(t.Context(), doctor.Options{
			URL:  "http://gateway.test/",
			Dial: func(context.Context, string, string) (net.Conn, error) { return s.listener.dial(), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Findings {
			if f.Result != doctor.OK {
				t.Errorf("%+v", f)
			}
		}
		if report.Heartbeats != 2 || report.Headers["sse-resume"] != stream.ResumeLive {
			t.Errorf("%+v", report)
		}
	})
}

// ranDoctor is what the command printed, and how it ended.
func ranDoctor(args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd := &cobra.Command{Use: "sse-doctor", SilenceUsage: true}
	doctorCommand(cmd)
	cmd.SetArgs(append([]string{}, args...)) // nil: those of the test itself
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	err = cmd.ExecuteContext(context.Background())
	return out.String(), errs.String(), err
}

func TestDoctorCommand(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer hunter2" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", eventStreamType)
		_, _ = io.WriteString(w, "data: x\n\n")
	}))
	defer server.Close()

	out, errs, err := ranDoctor(server.URL)
	if err != nil || errs != "" || !strings.Contains(out, "\nhealthy; ") || !strings.HasSuffix(out, " could not be told\n") {
		t.Errorf("healthy: %v, %q\n%s", err, errs, out)
	}
	out, errs, err = ranDoctor(server.URL, "--json", "-H", "Authorization: Bearer hunter2")
	if !errors.Is(err, doctor.ErrProblems) || errs != "" || !strings.HasPrefix(out, "{\n") || !strings.Contains(out, `"healthy": false`) {
		t.Errorf("204: %v, %q\n%s", err, errs, out)
	}
	for address, shown := range map[string]string{"http://user:hunter2@127.0.0.1:1/?hunter2": "http://127.0.0.1:1/?…", "hunter2": ""} {
		out, errs, err = ranDoctor(address, "--json")
		var failure struct {
			URL     string
			Healthy *bool
			Error   string
		}
		if jsonErr := json.Unmarshal([]byte(out), &failure); jsonErr != nil || err == nil || failure.URL != shown || failure.Healthy == nil || *failure.Healthy ||
			!strings.Contains(errs, failure.Error) || strings.Contains(out+errs, "hunter2") {
			t.Errorf("nobody there: %v, %v, %q\n%s", err, jsonErr, errs, out)
		}
	}
	for _, test := range []struct {
		args []string
		says string
	}{
		{nil, "expected one URL, not 0"},
		{[]string{"Bearer", "hunter2", server.URL}, "expected one URL, not 3"},
		{[]string{"--hunter2", server.URL}, "unknown option, or"},
		{[]string{"--headr", "hunter2", server.URL}, "unknown option --headr"},
		{[]string{"--headr=hunter2", server.URL}, "unknown option --headr"},
		{[]string{server.URL, "--timeout", "hunter2"}, "--timeout: a wrong value"},
		{[]string{server.URL, "--header"}, "--header: a value is missing"},
		{[]string{server.URL, "-H", "hunter2"}, "expected 'Name: value'"},
		{[]string{server.URL, "-H", "Bearer hunter2: x"}, "expected 'Name: value'"},
		{[]string{server.URL, "--timeout", "0s"}, "expected durations above 0"},
		{[]string{server.URL, "--late", "-1s"}, "expected durations above 0"},
		{[]string{server.URL, "-H", "Accept: hunter2"}, "Accept: a header field that the doctor sets itself"},
		{[]string{"http://127.0.0.1:1/hunter2"}, "connection refused"},
	} {
		out, errs, err := ranDoctor(test.args...)
		if err == nil || errors.Is(err, doctor.ErrProblems) || out != "" || !strings.Contains(errs, test.says) || strings.Contains(errs, "hunter2") {
			t.Errorf("%q: %v, %q, %q", test.args, err, errs, out)
		}
	}
}
