package caddysse

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
	"github.com/caddy-sse/caddy-sse/internal/doctor"
	"github.com/caddy-sse/caddy-sse/internal/hints"
)

// examined is what a doctor is to say of a site.
type examined struct {
	globals, site string // of the configuration, and the directives of the site
	setUp         *setUp // what is asked for; nil: /events, by nobody else
	admin         string // where the doctor may ask; nowhere by default
	finding       string // that tells what is the matter; none: all is well
	result        doctor.Result
	seen, change  string
}

// ticking is answers for an application that sends events often.
func ticking(t *testing.T, answer func(w http.ResponseWriter, r *http.Request) (status int)) (address string) {
	t.Helper()
	return answersWith(t, answer, func(w http.ResponseWriter, r *http.Request) {
		for n := 1; r.Context().Err() == nil; n++ {
			writeEvent(w, n)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	})
}

// examineSites loads sites at once, each with a host of its own, asks for their streams and returns what the doctor says of each.
func examineSites(t *testing.T, sites map[string]*examined) map[string]*doctor.Report {
	t.Helper()
	l := startUnloaded(t)
	var caddyfile strings.Builder
	caddyfile.WriteString(pageSite)
	globals, hosts, names := "", make(map[string]string), make([]string, 0, len(sites))
	for name, s := range sites {
		hosts[name] = fmt.Sprintf("s%d.test", len(hosts))
		names = append(names, name)
		globals = s.globals
		fmt.Fprintf(&caddyfile, "http://%s {\nbind {socket}\n%s\n}\n", hosts[name], s.site)
	}
	l.reloadWith(globals, caddyfile.String())
	reports := make(map[string]*doctor.Report, len(sites))
	var mu sync.Mutex
	var others []*testClient
	var wg, read sync.WaitGroup
	for _, name := range names {
		setUp := sites[name].setUp
		if setUp == nil {
			setUp = nobodyElse
		}
		for i := range setUp.clients {
			target, fields := setUp.ask(i + 1)
			c := l.subscribe(target, append(fields, "Host: "+hosts[name])...)
			c.next()
			read.Go(func() {
				for range c.messages { // so that the application is not waited for
				}
			})
			others = append(others, c)
		}
		wg.Go(func() {
			target, fields := setUp.ask(0)
			header := http.Header{}
			for _, field := range fields {
				name, value, _ := strings.Cut(field, ": ")
				header.Add(name, value)
			}
			report, err := doctor.Run(t.Context(), doctor.Options{
				URL: "http://" + hosts[name] + target, Header: header, Timeout: time.Second, Late: testTimeout, Admin: sites[name].admin,
				Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "unix", l.socket)
				},
			})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			reports[name] = report
		})
	}
	wg.Wait()
	for _, c := range others {
		c.close()
	}
	read.Wait()
	return reports
}

// nobodyElse asks for /events.
var nobodyElse = new(setUp)

// What the doctor says of set-ups that are not right, and of those after the remedy was followed.
func TestDoctorTellsSetUpsThatAreNotRight(t *testing.T) {
	deliverytest.Once(t) // it is about what is told of a set-up
	overHTTP1(t)
	wrong, right := make(map[string]*examined), make(map[string]*examined)
	number := 0
	for name, s := range setUps {
		number++
		app := ticking(t, s.answer)
		site := func(options string) string {
			return s.before + "\nsse {\nname s" + strconv.Itoa(number) + "\nprobe on\njoin replay\n" + options + "\n}\nreverse_proxy " + app
		}
		w := &examined{setUp: s, site: site(s.options), finding: doctor.Hints, result: doctor.Advice, seen: string(s.kind)}
		switch s.kind {
		case hints.NotShared:
			w.finding, w.seen = doctor.Shared, "the reason is set_cookie"
		case hints.Withheld:
			w.finding, w.seen = doctor.Shared, "the reason is withheld"
		}
		wrong[name] = w
		right[name] = &examined{setUp: s, site: site(s.after)}
	}
	app := ticking(t, fine)
	proxy := "reverse_proxy " + app
	wrong["sse beside handle"] = &examined{
		site:    "sse {\nname beside\nprobe on\n}\nhandle /events {\n" + proxy + "\n}\nhandle {\n" + proxy + "\n}",
		finding: doctor.Gateway, result: doctor.Advice, seen: "a Caddy has answered (Via: 1.1 Caddy), and not through an sse",
		change: "write sse inside the handle",
	}
	// The gateway itself is asked: what has come to its handlers while nobody else asks.
	certain := *wrong["sse beside handle"]
	certain.admin, certain.result, certain.seen = "http://page.test", doctor.Problem, "none of the gateway's 1 sse was asked"
	certain.change = "the gateway itself says: write sse inside the handle"
	right["sse beside handle"] = &examined{
		site: "handle /events {\nsse {\nname beside\nprobe on\njoin replay\n}\n" + proxy + "\n}\nhandle {\n" + proxy + "\n}",
	}
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	right["tracing"] = &examined{site: "tracing\nsse {\nname traced\nprobe on\njoin replay\n}\n" + proxy}
	grace := func(grace string) *examined {
		return &examined{globals: "grace_period " + grace, site: "sse {\nprobe on\njoin replay\n}\n" + proxy}
	}
	short := grace("2s")
	short.finding, short.result, short.seen = doctor.Hints, doctor.Advice, "grace_period"
	for _, sites := range []map[string]*examined{wrong, right, {"sse beside handle, asked": &certain}, {"grace_period below drain": short}, {"grace_period": grace("13s")}} {
		for name, report := range examineSites(t, sites) {
			expected := sites[name]
			if expected.finding != "" {
				if f := findingOf(report, expected.finding); f.Result != expected.result || !strings.Contains(f.Seen, expected.seen) || f.Change == "" || !strings.Contains(f.Change, expected.change) {
					t.Errorf("%s: %+v, expected %s, %q, %q", name, f, expected.result, expected.seen, expected.change)
				}
				continue
			}
			for _, finding := range []string{doctor.Gateway, doctor.Shared, doctor.Hints} {
				if f := findingOf(report, finding); f.Result != doctor.OK {
					t.Errorf("%s: %+v", name, f)
				}
			}
		}
	}
}

// findingOf returns a finding of a report; an empty one: it has none of the name.
func findingOf(r *doctor.Report, name string) (f doctor.Finding) {
	for _, f := range r.Findings {
		if f.Name == name {
			return f
		}
	}
	return f
}
