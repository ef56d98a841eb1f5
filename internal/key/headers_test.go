package key

import (
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// exemptLines are header fields that do not tell streams apart, less those that an
// HTTP client cannot send as it likes; TestExemptHeadersShare of the root sends
// them.
func exemptLines(t *testing.T, name string) []string {
	t.Helper()
	text, err := fs.ReadFile(os.DirFS("testdata"), name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// TestExemptHeaders: none of them is in the key, and there is no other.
func TestExemptHeaders(t *testing.T) {
	exempt, families := exemptLines(t, "exempt.txt"), exemptLines(t, "exempt_families.txt")
	p := New(Config{})
	names := []string{"Connection", "Trailer", "Transfer-Encoding", "Upgrade", "Accept"}
	for _, field := range slices.Concat(exempt, families) {
		name, _, _ := strings.Cut(field, ": ")
		names = append(names, name)
	}
	for _, name := range names {
		if p.headerInKey(http.CanonicalHeaderKey(name)) {
			t.Errorf("%s tells streams apart", name)
		}
	}
	if got, want := len(insignificantHeaders)+len(fixedHeaders), len(names)-len(families); got != want {
		t.Errorf("%d names do not tell streams apart, expected %d", got, want)
	}
	for _, prefix := range insignificantPrefixes {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(http.CanonicalHeaderKey(name), prefix) }) {
			t.Errorf("%s is not tested", prefix)
		}
	}
}

// TestHeadersUnderSharePublic: where a request comes from tells streams apart there, too, and nothing else does.
func TestHeadersUnderSharePublic(t *testing.T) {
	p := New(Config{Public: true})
	for name, want := range map[string]bool{
		"Origin": true, "X-Forwarded-Host": true, "X-Forwarded-Proto": true,
		"Authorization": false, "Cookie": false, "Accept-Language": false, "X-Api-Key": false, "X-Unknown": false,
	} {
		if got := p.headerInKey(name); got != want {
			t.Errorf("%s tells streams apart: %v, expected %v", name, got, want)
		}
	}
}

func TestForwardedPlace(t *testing.T) {
	for _, test := range []struct {
		lines []string
		place string
		ok    bool
	}{
		{[]string{"for=192.0.2.1"}, "", true},
		{[]string{"For=192.0.2.1;Proto=https; host=a.test;by=x"}, "proto=https;host=a.test", true},
		{[]string{"for=a;host=a.test", `for=b, for="c,;d";proto="http"`}, `host=a.test, proto="http"`, true},
		{[]string{`host="a\"b.test"`}, `host="a\"b.test"`, true},
		{[]string{`host=a.test;for="x`}, "", false},
		{[]string{`host="a"b`}, "", false},
		{[]string{"nonsense"}, "", false},
		{[]string{""}, "", true},
	} {
		if place, ok := forwardedPlace(test.lines); place != test.place || ok != test.ok {
			t.Errorf("%q: %q %v, expected %q %v", test.lines, place, ok, test.place, test.ok)
		}
	}
}
