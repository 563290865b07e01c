package proxy

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"reflect"
	"regexp"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
)

// TestDefaultsInComments holds the comments of Config's fields, and of those below it, to what WithDefaults fills in.
func TestDefaultsInComments(t *testing.T) {
	t.Parallel()
	c := sound().WithDefaults()
	b, s := c.Backends["a"], c.Sources["main"]
	b.URL, s.Path, s.SigningSecrets, c.Sources, c.Backends, c.Routes, c.Log, c.Observer = "", "", nil, nil, nil, nil, nil, nil
	filled := map[string]reflect.Value{}
	for _, v := range []any{c, s, b, b.Retry, b.Breaker} {
		filled[reflect.TypeOf(v).Name()] = reflect.ValueOf(v)
	}
	file, err := parser.ParseFile(gotoken.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	stated := regexp.MustCompile(`default ([0-9]\w*)`)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || !filled[spec.Name.Name].IsValid() {
			return true
		}
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			name := f.Names[0].Name
			v, text := filled[spec.Name.Name].FieldByName(name), ""
			if m := stated.FindStringSubmatch(f.Comment.Text()); m != nil {
				text = m[1]
			}
			if v.Kind() == reflect.Struct { // Retry, Breaker and Success have fields of their own
				continue
			}
			var want any
			if d, err := time.ParseDuration(text); err == nil {
				want = d
			} else if n, err := humanize.ParseBytes(text); err == nil {
				want = reflect.ValueOf(n).Convert(v.Type()).Interface()
			}
			if want == nil && !v.IsZero() || want != nil && want != v.Interface() {
				t.Errorf("%s.%s is %v by default; its comment: %s", spec.Name.Name, name, v, f.Comment.Text())
			}
		}
		return false
	})
}
