package integration

import (
	"encoding/json"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
)

// finding is what the doctor says of one thing.
type finding struct {
	Name, Result, Seen, Why, Change string
}

// Directives of nginx. What comes chunked, as HTTP/1.1 does, it passes on at once also when it buffers.
const (
	buffering = "proxy_http_version 1.0; proxy_buffering on;" // its defaults
	version11 = "proxy_http_version 1.1;"
)

// diagnosis is the doctor's report.
type diagnosis struct {
	t        *testing.T
	code     int
	text     string // of the report
	Healthy  bool
	Events   int
	Findings []finding
}

// doctor examines a stream: with less patience than it has by itself, but more for a slow machine.
func doctor(t *testing.T, url string, args ...string) *diagnosis {
	t.Helper()
	args = append([]string{"sse-doctor", url, "--json", "--timeout", "8s", "--late", "1500ms"}, args...)
	text, err := command(gatewayPath, args...).Output()
	d := &diagnosis{t: t, text: string(text)}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		d.code = exit.ExitCode()
		d.text += string(exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, d); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("exit code %d\n%s", d.code, d.text)
		}
	})
	return d
}

// expect checks what problems there are, that the exit code says so, and that some others were looked at and are not.
func (d *diagnosis) expect(problems string, fine ...string) {
	d.t.Helper()
	var found []string
	for _, f := range d.Findings {
		if f.Result == "problem" {
			found = append(found, f.Name)
			if f.Seen == "" || f.Why == "" || f.Change == "" {
				d.t.Errorf("%+v", f)
			}
		}
		if f.Result == "ok" {
			fine = slices.DeleteFunc(fine, func(name string) bool { return name == f.Name })
		}
	}
	if got := strings.Join(found, " "); got != problems || len(fine) > 0 {
		d.t.Errorf("problems %q, expected %q; not found to be fine: %q", got, problems, fine)
	}
	code := 0
	if problems != "" {
		code = 1
	}
	if d.code != code || d.Healthy != (problems == "") {
		d.t.Errorf("exit code %d, healthy: %v", d.code, d.Healthy)
	}
}

// expectHints checks what the gateway says that it has noticed.
func (d *diagnosis) expectHints(result, seen string) {
	d.t.Helper()
	for _, f := range d.Findings {
		if f.Name == "hints" && (f.Result != result || f.Seen != seen) {
			d.t.Errorf("%+v, expected %s: %s", f, result, seen)
		}
	}
}

// duration returns the one that a finding tells after a text.
func (d *diagnosis) duration(name, after string) time.Duration {
	d.t.Helper()
	i := slices.IndexFunc(d.Findings, func(f finding) bool { return f.Name == name })
	if i < 0 {
		d.t.Fatalf("no finding %s", name)
	}
	_, text, _ := strings.Cut(d.Findings[i].Seen, after)
	text, _, _ = strings.Cut(text, " ")
	took, err := time.ParseDuration(strings.TrimSuffix(text, ";"))
	if err != nil {
		d.t.Fatalf("%s: no time after %q in %q", name, after, d.Findings[i].Seen)
	}
	return took
}

// Issue 7: what the doctor finds, with and without an nginx between it and the gateway.
func TestDoctor(t *testing.T) {
	t.Parallel()
	busy := startTicker(t, "-interval=200ms")
	quiet := startTicker(t)
	g := startGateway(t, route("/busy", "probe on\nheartbeat 2s", "reverse_proxy "+busy.address)+
		route("/busy/15", "probe on", "reverse_proxy "+busy.address)+
		route("/defaults", "probe on\nheartbeat 2s", "reverse_proxy "+busy.address)+
		route("/quiet", "probe on", "reverse_proxy "+quiet.address)+
		route("/off", "heartbeat 2s", "reverse_proxy "+quiet.address))
	g.expectHint("delivery", "an nginx in front has its defaults")

	t.Run("healthy", func(t *testing.T) {
		t.Parallel()
		doctor(t, g.url("/busy")).expect("", "status", "content-type", "cache-control", "compression", "x-accel-buffering",
			"http-version", "first-byte", "probe", "buffering", "heartbeats", "idle-cut", "end", "ids", "resume")
	})
	t.Run("healthy and quiet, without the probe", func(t *testing.T) {
		t.Parallel()
		doctor(t, g.url("/off")).expect("", "heartbeats", "idle-cut", "resume")
	})
	t.Run("nginx that does as the gateway says", func(t *testing.T) {
		t.Parallel()
		front := startNginx(t, g.address, buffering)
		doctor(t, "http://"+front+"/busy").expect("", "probe", "buffering", "heartbeats", "resume")
	})
	t.Run("nginx with its defaults, and as the hint says", func(t *testing.T) {
		t.Parallel()
		d := doctor(t, "http://"+startNginx(t, g.address, "proxy_http_version 1.0;")+"/defaults")
		d.expect("")
		if deliverytest.Of(t) != "handler" { // else nobody wants it fast
			d.expectHints("advice", "delivery")
		}
		d = doctor(t, "http://"+startNginx(t, g.address, version11, "proxy_buffering off;")+"/defaults")
		d.expect("", "probe", "buffering", "heartbeats", "gateway", "hints")
	})
	t.Run("nginx that buffers", func(t *testing.T) {
		t.Parallel()
		front := startNginx(t, g.address, buffering, "proxy_ignore_headers X-Accel-Buffering;")
		d := doctor(t, "http://"+front+"/quiet")
		d.expect("first-byte buffering", "probe")
		if held := d.duration("buffering", "an event of the probe was held for "); held > 3*time.Second {
			t.Errorf("held for %v", held)
		}
	})
	t.Run("nginx that compresses", func(t *testing.T) {
		t.Parallel()
		front := startNginx(t, g.address, version11, "gzip on;", "gzip_types text/event-stream;", "gzip_proxied any;", "gzip_min_length 0;")
		doctor(t, "http://"+front+"/busy").expect("compression", "buffering", "heartbeats", "idle-cut", "resume")
	})
	for _, path := range []string{"/quiet", "/busy/15"} { // in the second only the probe is idle
		t.Run("nginx that cuts what is idle for 3 s "+path, func(t *testing.T) {
			t.Parallel()
			// Less than the 5 s after which the gateway gives a quiet stream its first ID.
			front := startNginx(t, g.address, version11, "proxy_read_timeout 3s;")
			d := doctor(t, "http://"+front+path, "--timeout", "14s")
			d.expect("idle-cut", "probe", "buffering")
			if after := d.duration("idle-cut", "cut after "); after < 2*time.Second || after > 12*time.Second {
				t.Errorf("cut after %v", after)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		d := doctor(t, "http://127.0.0.1:1/events", "-H", "Authorization: Bearer hunter2")
		if d.code != 2 || !strings.Contains(d.text, "connection refused") || strings.Contains(d.text, "hunter2") {
			t.Errorf("exit code %d, %s", d.code, d.text)
		}
	})
}

// An nginx that buffers, before an application without the gateway.
func TestDoctorWithoutGateway(t *testing.T) {
	t.Parallel()
	u := startTicker(t, "-interval=20ms", "-size=200", "-ids=all", "-history")
	front := startNginx(t, u.address, buffering)
	t.Run("nginx", func(t *testing.T) {
		t.Parallel()
		doctor(t, "http://"+front+"/").expect("buffering", "ids", "end")
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		doctor(t, "http://"+u.address+"/").expect("", "ids", "end", "resume")
	})
}
