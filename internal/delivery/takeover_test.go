package delivery

import (
	"net/http"
	"reflect"
	"testing"
)

// wrapped is a writer of this package.
type wrapped struct{ http.ResponseWriter }

// The package of a writer is known whether its type is a pointer or not, as that of
// HTTP/2 in Go 1.27 is; a type without a name has none.
func TestPackageOfWriter(t *testing.T) {
	here := reflect.TypeFor[wrapped]().PkgPath()
	for name, test := range map[string]struct {
		w    http.ResponseWriter
		want string
	}{
		"a pointer": {&wrapped{}, here},
		"a value":   {wrapped{}, here},
		"no name":   {struct{ http.ResponseWriter }{}, ""},
	} {
		if got := packageOf(test.w); got != test.want {
			t.Errorf("%s: %q, expected %q", name, got, test.want)
		}
	}
}
