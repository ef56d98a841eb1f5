package natsbus

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
)

const testSecret = "0123456789abcdef0123456789abcdef"

// atEnd is called when all tests have run.
var atEnd []func()

// TestMain fails if what the tests have started goes on.
func TestMain(m *testing.M) {
	before := goroutines()
	code := m.Run()
	for _, end := range atEnd {
		end()
	}
	deadline := time.Now().Add(patience)
	// The bus of this process stays, with who watches it: a node that beats.
	stays := 2 * len(process.watchers)
	for code == 0 && len(goroutines()) > len(before)+stays {
		if time.Now().After(deadline) {
			os.Stderr.WriteString("goroutines are left:\n\n" + strings.Join(goroutines(), "\n\n") + "\n")
			code = 1
		}
		time.Sleep(20 * time.Millisecond)
	}
	os.Exit(code)
}

// goroutines are the stacks of all goroutines but those that packages start when they are
// loaded.
func goroutines() []string {
	buf := make([]byte, 16<<20)
	return strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
}

// node is a bus with an embedded server, as a process has it.
type node struct {
	*bus
	link *link
}

// embeddedAt are the settings of a node that listens at an address and knows others.
func embeddedAt(t *testing.T, secret, listen string, routes ...string) *settings {
	t.Helper()
	s := &settings{prefix: "sse", embedded: &embeddedSettings{listen: listen, routes: routes}}
	if err := s.derive(secret); err != nil {
		t.Fatal(err)
	}
	return s
}

// startNode starts a node, which the test's end stops.
func startNode(t *testing.T, s *settings) *node {
	t.Helper()
	n := &node{newBus(), newTestLink(t, s)}
	if err := n.start(n.link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.drop(n.link) })
	return n
}

// newTestLink makes a link that logs to the test, as long as that runs.
func newTestLink(t *testing.T, s *settings) *link {
	t.Helper()
	return &link{settings: s, logger: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))}
}

// address is where other nodes reach a node.
func (n *node) address() string { return n.link.session.server.ClusterAddr().String() }

// startNodes starts nodes of a cluster and waits until each has reached all others.
func startNodes(t *testing.T, count int, change ...func(*settings)) []*node {
	t.Helper()
	var nodes []*node
	for range count {
		var routes []string
		if len(nodes) > 0 {
			routes = []string{nodes[0].address()} // which tells of the rest
		}
		s := embeddedAt(t, testSecret, "127.0.0.1:0", routes...)
		for _, change := range change {
			change(s)
		}
		nodes = append(nodes, startNode(t, s))
	}
	for _, n := range nodes {
		n.awaitOthers(t, count-1)
	}
	return nodes
}

// awaitOthers waits until a node reaches so many others.
func (n *node) awaitOthers(t *testing.T, count int) {
	t.Helper()
	await(t, "the other nodes", func() bool {
		s := n.current()
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.others == count
	})
}

// patience is for how long a test waits for something, on a machine that is busy with others.
const patience = time.Minute

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !so() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// awaitAnswer asks until somebody answers: what a node answers on is known to others a
// moment later.
func awaitAnswer(t *testing.T, b cluster.Bus, subject, request string) string {
	t.Helper()
	var reply []byte
	await(t, "an answer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience/3)
		defer cancel()
		var err error
		reply, err = b.Ask(ctx, subject, []byte(request))
		return err == nil
	})
	return string(reply)
}

// ownAddress is an address of the loopback interface at which nobody else listens, now or
// while nobody does: for tests in which a node must come back where it was, or that have
// to know the address before it is there. A port that was free a moment ago may be
// anybody's. On Linux the interface has 16 million addresses.
func ownAddress(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "linux" {
		return fmt.Sprintf("127.%d.%d.%d:6222", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// noting is a logger that tells of each warning.
func noting(warned chan<- struct{}) *zap.Logger {
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(io.Discard), zap.WarnLevel),
		zap.Hooks(func(zapcore.Entry) error {
			select {
			case warned <- struct{}{}:
			default:
			}
			return nil
		}))
}
