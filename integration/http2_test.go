package integration

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// takingOver lets streams of HTTP/2 be taken over.
const takingOver = "servers {\nlistener_wrappers {\nsse\n}\n}"

// anyCertificate is for clients of gateways whose certificate nobody vouches for. Each
// transport has one of its own: it writes there which protocols it speaks.
func anyCertificate() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true}
}

// newCertificate makes a self-signed certificate, and returns its files.
func newCertificate(t testing.TB) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"gateway.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 2), net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// takenOver is how many clients have streams that were taken over.
func (g *gateway) takenOver() int {
	g.t.Helper()
	_, text := g.ask(http.MethodGet, "/metrics", "")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "caddy_sse_subscribers{") && strings.Contains(line, `delivery="connection"`) && strings.Contains(line, `protocol="2"`) {
			n, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
			if err != nil {
				g.t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

func (g *gateway) awaitTakenOver(n int) {
	g.t.Helper()
	for began := time.Now(); g.takenOver() != n; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > testTimeout {
			g.t.Fatalf("%d streams are taken over, expected %d", g.takenOver(), n)
		}
	}
}

// largeFile makes a file that a gateway serves as /large, and returns the directives
// for that and /small, and its hash.
func largeFile(t *testing.T, size int) (directives, hash string) {
	t.Helper()
	dir := t.TempDir()
	content := make([]byte, size)
	_, _ = rand.Read(content)
	if err := os.WriteFile(filepath.Join(dir, "large"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return "respond /small \"small\"\nhandle /large {\nroot * " + dir + "\nfile_server\n}\n", hex.EncodeToString(sum[:])
}

// startTakingOver starts a gateway that takes streams of HTTP/2 over, before a ticker, and
// serves a large file.
func startTakingOver(t *testing.T) (g *gateway, hash string) {
	t.Helper()
	u := startTicker(t, "-interval=20ms", "-ids=all")
	files, hash := largeFile(t, 100<<20)
	return gatewaySetup{tls: true, globals: takingOver, directives: files + route("/events", "buffer 10000", "reverse_proxy "+u.address)}.start(t), hash
}

// messageNumbers are the numbers of what a client has told of.
func messageNumbers(t *testing.T, p *process) (all []int) {
	t.Helper()
	for _, m := range p.all("message") {
		n, err := strconv.Atoi(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// Browsers: tabs share a connection, each has every event once and in order while others
// are reloaded and a large file comes over the same connection.
func TestBrowserOverHTTP2(t *testing.T) {
	g, hash := startTakingOver(t)
	_, port, _ := net.SplitHostPort(g.address)
	d := &pageDriver{process: startNode(t, "clients/http2-browser.mjs", chromiumPath, "https://gateway.test:"+port, "127.0.0.2",
		strconv.FormatInt(testTimeout.Milliseconds(), 10))}
	const tabs = 3
	for tab := range tabs {
		d.do("open")
		d.do("until", "tab", tab, "events", 20)
	}
	g.awaitTakenOver(tabs)
	var got struct {
		SHA256     string
		Protocol   string
		Connecting float64
	}
	if err := json.Unmarshal([]byte(d.do("download", "tab", 1, "path", "/large")), &got); err != nil {
		t.Fatal(err)
	}
	if got.SHA256 != hash || got.Protocol != "h2" || got.Connecting != 0 {
		t.Errorf("the file came as %+v, expected %s over the same connection", got, hash)
	}
	for range 3 {
		d.do("reload", "tab", 0)
		d.do("until", "tab", 0, "events", 20)
	}
	g.awaitTakenOver(tabs)
	for tab := range tabs {
		var seen struct {
			Events                 []int
			Opened, Errors, Failed int
		}
		if err := json.Unmarshal([]byte(d.do("look", "tab", tab)), &seen); err != nil {
			t.Fatal(err)
		}
		if err := checkRun(seen.Events, 0, seen.Events[0]+19); err != nil || seen.Opened != 1 || seen.Errors > 0 || seen.Failed > 0 {
			t.Errorf("tab %d: %v; opened %d times, %d errors, %d requests failed", tab, err, seen.Opened, seen.Errors, seen.Failed)
		}
	}
}

// Node: one session has a stream, small requests and a large file, and its stream goes on
// when a reload makes the server say goodbye. So it does with a window of one byte.
func TestNodeOverHTTP2(t *testing.T) {
	g, hash := startTakingOver(t)
	c := startNode(t, "clients/http2.mjs", "https://"+g.address, "/events", "/large")
	c.awaitEvent("message", 20)
	g.awaitTakenOver(1)
	if got := c.awaitEvent("file", 1).Data; got != hash {
		t.Errorf("the file's hash is %s, expected %s", got, hash)
	}
	if n := len(c.all("goaway")); n > 0 {
		t.Errorf("%d times goodbye", n)
	}
	g.reload(g.setup.directives)
	if code := c.awaitEvent("goaway", 1).Data; code != "0" {
		t.Errorf("goodbye with %s", code)
	}
	c.awaitEvent("message", len(c.all("message"))+100)
	if err := checkRun(messageNumbers(t, c), 0, 0); err != nil {
		t.Error(err)
	}
	slow := startNode(t, "clients/http2.mjs", "https://"+g.address, "/events", "", "1")
	slow.awaitEvent("message", 5)
	if err := checkRun(messageNumbers(t, slow), 0, 0); err != nil {
		t.Error(err)
	}
	for _, client := range []*process{c, slow} {
		for _, problem := range append(client.all("problem"), client.all("end")...) {
			t.Errorf("%s: %s", problem.Event, problem.Data)
		}
	}
}

// Curl, and Go's client with a large file on the same connection.
func TestOtherClientsOverHTTP2(t *testing.T) {
	g, hash := startTakingOver(t)
	cmd := command("curl", "--silent", "--no-buffer", "--insecure", "--http2", "--include", "--header", "Accept: text/event-stream", g.url("/events"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	var got []int
	for in := bufio.NewScanner(out); len(got) < 50 && in.Scan(); {
		if first := "HTTP/2 200"; len(got) == 0 && strings.HasPrefix(in.Text(), "HTTP/") && !strings.HasPrefix(in.Text(), first) {
			t.Fatalf("%s, expected %s", in.Text(), first)
		}
		if data, ok := strings.CutPrefix(in.Text(), "data: "); ok {
			n, err := strconv.Atoi(data)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n)
		}
	}
	if err := checkRun(got, 0, 0); err != nil || len(got) < 50 {
		t.Errorf("%d events, %v", len(got), err)
	}
	g.awaitTakenOver(1)

	transport := newTransport()
	transport.ForceAttemptHTTP2 = true
	dialled := 0
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled++
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	f, err := tryFollow(t, transport, "Go", g.url("/events"), "")
	if err != nil {
		t.Fatal(err)
	}
	f.await(f.newest() + 1)
	resp, err := (&http.Client{Transport: transport}).Get(g.url("/large"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, resp.Body); err != nil || hex.EncodeToString(sum.Sum(nil)) != hash || dialled != 1 {
		t.Errorf("the file is not as it was, or came over another connection: %v, %d connections", err, dialled)
	}
	f.await(f.newest() + 20)
	f.assertRun(0, f.newest())
	f.close()
}

// h2specCase is what h2spec tells of a test.
type h2specCase struct {
	Package string    `xml:"package,attr"`
	Name    string    `xml:"classname,attr"`
	Failure *struct{} `xml:"failure"`
	Error   *struct{} `xml:"error"`
	Skipped *struct{} `xml:"skipped"`
}

// h2spec runs the conformance test of HTTP/2 on an ordinary route, and returns the
// outcome of each case.
func h2spec(t *testing.T, globals string) map[string]string {
	t.Helper()
	g := gatewaySetup{program: plainPath, tls: true, globals: globals, directives: "route {\nsse\nrespond ordinary\n}"}.start(t)
	host, port, _ := net.SplitHostPort(g.address)
	path := filepath.Join(t.TempDir(), "report.xml")
	// It fails with each case that fails without the wrapper as well.
	out, _ := command(h2specPath, "--tls", "--insecure", "--host", host, "--port", port, "--timeout", "5", "--junit-report", path).CombinedOutput()
	text, err := os.ReadFile(path) //nolint:gosec // G304: the test's own
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var all struct {
		Suites []struct {
			Cases []h2specCase `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	outcomes := make(map[string]string)
	for _, suite := range all.Suites {
		for _, c := range suite.Cases {
			outcome := "passed"
			switch {
			case c.Failure != nil || c.Error != nil:
				outcome = "failed"
			case c.Skipped != nil:
				outcome = "skipped"
			}
			name := c.Package + " " + c.Name
			for outcomes[name] != "" {
				name += "'" // cases of one name are in the same order each time
			}
			outcomes[name] = outcome
		}
	}
	return outcomes
}

// The listener wrapper takes nothing from what a server does of what HTTP/2 demands.
func TestConformanceToHTTP2(t *testing.T) {
	t.Parallel()
	var without, with map[string]string
	differ := func(name string) bool { return with[name] != without[name] && with[name] != "passed" }
	for range 3 { // a case that waits too short on a busy machine fails on either side
		without, with = h2spec(t, ""), h2spec(t, takingOver)
		if !slices.ContainsFunc(slices.Collect(maps.Keys(without)), differ) {
			break
		}
	}
	if len(without) < 140 || len(with) != len(without) {
		t.Errorf("%d cases without the wrapper, %d with it, expected 145", len(without), len(with))
	}
	passed := 0
	for name, want := range without {
		if want == "passed" {
			passed++
		}
		if differ(name) {
			t.Errorf("%s: %s, without the wrapper %s", name, with[name], want)
		}
	}
	t.Logf("%d of %d cases pass", passed, len(without))
}
