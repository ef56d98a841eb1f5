package admin

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// openAPI is what is looked at of docs/reference/openapi.json.
type openAPI struct {
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas map[string]*schema `json:"schemas"`
	} `json:"components"`
}

type operation struct {
	Summary    string `json:"summary"`
	Parameters []struct {
		Name        string  `json:"name"`
		In          string  `json:"in"`
		Description string  `json:"description"`
		Schema      *schema `json:"schema"`
	} `json:"parameters"`
	RequestBody *struct {
		Content map[string]struct{ Schema *schema } `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Description string                              `json:"description"`
		Content     map[string]struct{ Schema *schema } `json:"content"`
	} `json:"responses"`
}

type schema struct {
	Ref         string             `json:"$ref"`
	Type        any                `json:"type"`
	Format      string             `json:"format"`
	Description string             `json:"description"`
	Properties  map[string]*schema `json:"properties"`
	Required    []string           `json:"required"`
	AllOf       []*schema          `json:"allOf"`
	AnyOf       []*schema          `json:"anyOf"`
	Items       *schema            `json:"items"`
	Enum        []any              `json:"enum"`
	Default     any                `json:"default"`
	Minimum     *float64           `json:"minimum"`
	Maximum     *float64           `json:"maximum"`
}

const schemaPrefix = "#/components/schemas/"

// schemaTypes are the values that the schemas describe.
var schemaTypes = map[string]reflect.Type{
	"Lag":           reflect.TypeFor[stream.LagInfo](),
	"UpstreamError": reflect.TypeFor[stream.ErrorInfo](),
	"Upstream":      reflect.TypeFor[stream.UpstreamInfo](),
	"Buffer":        reflect.TypeFor[stream.BufferInfo](),
	"LastIDs":       reflect.TypeFor[stream.LastIDs](),
	"Private":       reflect.TypeFor[stream.PrivateInfo](),
	"Nodes":         reflect.TypeFor[stream.NodesInfo](),
	"Cluster":       reflect.TypeFor[cluster.Figures](),
	"Stream":        reflect.TypeFor[stream.Info](),
	"Hint":          reflect.TypeFor[hints.Hint](),
	"HintList":      reflect.TypeFor[HintList](),
	"Subscriber":    reflect.TypeFor[Subscriber](),
	"StreamList":    reflect.TypeFor[StreamList](),
	"StreamDetail":  reflect.TypeFor[StreamDetail](),
	"DrainRequest":  reflect.TypeFor[DrainRequest](),
	"DrainAnswer":   reflect.TypeFor[DrainAnswer](),
	"RevokeRequest": reflect.TypeFor[RevokeRequest](),
	"RevokeAnswer":  reflect.TypeFor[RevokeAnswer](),
	"Error": reflect.TypeFor[struct {
		Error string `json:"error"` // of caddy.APIError
	}](),
	"Point":        reflect.TypeFor[Point](),
	"Group":        reflect.TypeFor[Group](),
	"Handler":      reflect.TypeFor[stream.HandlerInfo](),
	"FeedStream":   reflect.TypeFor[FeedStream](),
	"Totals":       reflect.TypeFor[Totals](),
	"StreamsEvent": reflect.TypeFor[StreamsEvent](),
	"StreamEvent":  reflect.TypeFor[StreamEvent](),
	"GoneEvent":    reflect.TypeFor[GoneEvent](),
	"BlockEvent":   reflect.TypeFor[BlockEvent](),
	"MissedEvent":  reflect.TypeFor[stream.Missed](),
}

func readOpenAPI(t *testing.T) (doc openAPI) {
	t.Helper()
	text, err := os.ReadFile("../../docs/reference/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// schemaOf returns the description of a type as it should be in the document.
func schemaOf(t *testing.T, typ reflect.Type) (jsonType any, ref string) {
	t.Helper()
	switch typ {
	case reflect.TypeFor[time.Time]():
		return "string", ""
	case reflect.TypeFor[*time.Time]():
		return []any{"string", "null"}, ""
	case reflect.TypeFor[*caddy.Duration]():
		return []any{"string", "integer", "null"}, ""
	}
	switch typ.Kind() {
	case reflect.String:
		return "string", ""
	case reflect.Bool:
		return "boolean", ""
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "integer", ""
	case reflect.Float64:
		return "number", ""
	case reflect.Slice:
		return "array", ""
	case reflect.Pointer, reflect.Struct:
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		for name, described := range schemaTypes {
			if described == typ {
				return nil, schemaPrefix + name
			}
		}
	}
	t.Fatalf("no schema for the type %v", typ)
	return nil, ""
}

// properties returns those of a schema and of what it is made of.
func (doc openAPI) properties(s *schema) map[string]*schema {
	if name, ok := strings.CutPrefix(s.Ref, schemaPrefix); ok {
		s = doc.Components.Schemas[name]
	}
	all := maps.Clone(s.Properties)
	if all == nil {
		all = make(map[string]*schema)
	}
	for _, part := range s.AllOf {
		maps.Copy(all, doc.properties(part))
	}
	return all
}

// required returns the properties of a schema that are always there.
func (doc openAPI) required(s *schema) (names []string) {
	if name, ok := strings.CutPrefix(s.Ref, schemaPrefix); ok {
		s = doc.Components.Schemas[name]
	}
	names = slices.Clone(s.Required)
	for _, part := range s.AllOf {
		names = append(names, doc.required(part)...)
	}
	return names
}

// fieldsOf are the fields of a struct as in JSON, those of embedded ones too.
func fieldsOf(typ reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for _, field := range reflect.VisibleFields(typ) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous || name == "-" || !field.IsExported() {
			continue
		}
		fields[name] = field.Type
	}
	return fields
}

// Each field that is answered with is described as it is, and nothing else is.
func TestAdminFieldsAreDocumented(t *testing.T) {
	doc := readOpenAPI(t)
	for name := range doc.Components.Schemas {
		if schemaTypes[name] == nil {
			t.Errorf("schema %s describes nothing", name)
		}
	}
	for name, typ := range schemaTypes {
		s := doc.Components.Schemas[name]
		if s == nil || s.Description == "" {
			t.Errorf("no schema, or no description, of %s", name)
			continue
		}
		described, fields := doc.properties(s), fieldsOf(typ)
		for field, fieldType := range fields {
			p := described[field]
			if p == nil || p.Description == "" {
				t.Errorf("%s.%s is not described", name, field)
				continue
			}
			jsonType, ref := schemaOf(t, fieldType)
			if ref != "" && fieldType.Kind() == reflect.Pointer {
				if len(p.AnyOf) != 2 || p.AnyOf[0].Ref != ref || p.AnyOf[1].Type != "null" {
					t.Errorf("%s.%s is not %s or null", name, field, ref)
				}
			} else if !reflect.DeepEqual(p.Type, jsonType) || p.Ref != ref {
				t.Errorf("%s.%s is of type %v %s, described as %v %s", name, field, jsonType, ref, p.Type, p.Ref)
			}
			if fieldType.Kind() == reflect.Slice {
				if item, itemRef := schemaOf(t, fieldType.Elem()); p.Items == nil || p.Items.Type != item || p.Items.Ref != itemRef {
					t.Errorf("%s.%s: elements are %v %s, described as %+v", name, field, item, itemRef, p.Items)
				}
			}
			if isTime := strings.HasSuffix(fieldType.String(), "time.Time"); isTime != (p.Format == "date-time") {
				t.Errorf("%s.%s: format %q", name, field, p.Format)
			}
		}
		for field := range described {
			if fields[field] == nil {
				t.Errorf("%s.%s is described, and is not there", name, field)
			}
		}
		required := doc.required(s)
		slices.Sort(required)
		if all := slices.Sorted(maps.Keys(fields)); name != "DrainRequest" && name != "RevokeRequest" && !slices.Equal(required, all) {
			t.Errorf("%s: always there are %v, described as %v", name, all, required)
		}
	}
	// The words that are not in the types.
	for field, words := range map[string][]string{
		"Upstream.state":    {stream.StateOpening, stream.StateOpen, stream.StateWaiting, stream.StateEnded},
		"Stream.kind":       {stream.KindShared, stream.KindSplice, stream.KindPrivate, stream.KindDetached},
		"Subscriber.resume": {stream.ResumeLive, stream.ResumeReplayed, stream.ResumeGap, stream.ResumeSpliced, stream.ResumePrivate},
		"BlockEvent.kind":   {blockEvent, blockComment, blockControl, blockGap},
		"Private.reason":    wordsOf(stream.PrivateReasons),
		"Hint.kind":         wordsOf(hints.Kinds),
		"Nodes.role":        wordsOf(stream.NodeRoles),
	} {
		name, property, _ := strings.Cut(field, ".")
		assertWords(t, field, doc.Components.Schemas[name].Properties[property].Enum, words)
	}
}

// wordsOf are labels as texts.
func wordsOf[T ~string](labels []T) (words []string) {
	for _, label := range labels {
		words = append(words, string(label))
	}
	return words
}

func assertWords(t *testing.T, what string, described []any, words []string) {
	t.Helper()
	all := make([]any, 0, len(words))
	for _, word := range words {
		all = append(all, word)
	}
	if !reflect.DeepEqual(described, all) {
		t.Errorf("%s: the words are %v, described as %v", what, all, described)
	}
}

// Each route, method and parameter is described, in both documents, and nothing
// else is.
func TestAdminRoutesAreDocumented(t *testing.T) {
	doc := readOpenAPI(t)
	page, err := os.ReadFile("../../docs/reference/admin-api.md")
	if err != nil {
		t.Fatal(err)
	}
	actions := make(map[string]map[string]action)
	for _, at := range routes {
		actions[strings.TrimSuffix(at.pattern, "{$}")] = at.methods
	}
	for path, operations := range doc.Paths {
		for method := range operations {
			if _, ok := actions[path][strings.ToUpper(method)]; !ok {
				t.Errorf("%s %s is described, and is not there", method, path)
			}
		}
	}
	for path, methods := range actions {
		for name, method := range methods {
			if !strings.Contains(string(page), "`"+name+" "+path+"`") {
				t.Errorf("%s %s is not in docs/reference/admin-api.md", name, path)
			}
			op, ok := doc.Paths[path][strings.ToLower(name)]
			if !ok || op.Summary == "" {
				t.Errorf("%s %s is not described", name, path)
				continue
			}
			assertOperation(t, name+" "+path, op, method)
		}
	}
}

// assertOperation compares what a method takes and answers with its
// description.
func assertOperation(t *testing.T, name string, op operation, method action) {
	t.Helper()
	var query []string
	for _, p := range op.Parameters {
		if p.Description == "" || p.Schema == nil {
			t.Errorf("%s: parameter %s has no description", name, p.Name)
		}
		if p.In == "query" {
			query = append(query, p.Name)
			assertParameter(t, name, p.Name, p.Schema)
		}
	}
	if !slices.Equal(query, method.query) {
		t.Errorf("%s: the parameters are %v, described as %v", name, method.query, query)
	}
	if _, ok := op.Responses["415"]; ok != method.changes {
		t.Errorf("%s: changes something: %v, described: %v", name, method.changes, ok)
	}
	if _, ok := op.Responses["404"]; ok != (strings.Contains(name, "{id}") || slices.Contains(method.query, "stream")) {
		t.Errorf("%s: there may be no such stream: described: %v", name, ok)
	}
	if _, ok := op.Responses["400"]; !ok {
		t.Errorf("%s: no status 400", name)
	}
}

// assertParameter compares bounds, defaults and words with the code.
func assertParameter(t *testing.T, name, parameter string, s *schema) {
	t.Helper()
	bounds := func(byDefault, low, high int) {
		t.Helper()
		if s.Minimum == nil || s.Maximum == nil || *s.Minimum != float64(low) || *s.Maximum != float64(high) || s.Default != float64(byDefault) {
			t.Errorf("%s: %s: described as from %v to %v, %v by default", name, parameter, s.Minimum, s.Maximum, s.Default)
		}
	}
	feed, detail := strings.HasSuffix(name, "/feed"), strings.HasSuffix(name, "{id}")
	switch parameter {
	case "limit":
		if feed {
			bounds(defaultFeed, 1, maxFeed)
		} else {
			bounds(defaultPage, 1, maxPage)
		}
	case "offset":
		bounds(0, 0, maxOffset)
	case "last":
		bounds(defaultTail, 0, maxTail)
	case "by":
		assertWords(t, name+": by", s.Enum, []string{"stream", "path"})
	case "kind":
		assertWords(t, name+": kind", s.Enum, kinds)
	case "state":
		assertWords(t, name+": state", s.Enum, states)
	case "order":
		assertWords(t, name+": order", s.Enum, []string{"asc", "desc"})
	case "sort":
		words := sortings(streamOrders)
		switch {
		case detail:
			words = sortings(subscriberOrders)
		case feed:
			words = sortings(feedOrders)
		}
		assertWords(t, name+": sort", s.Enum, words)
	}
}
