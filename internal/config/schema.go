package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"
)

//go:generate go test -run TestSchemaFile -update .

// Schema returns the JSON schema of routes.yaml, for editors: the file routes.schema.json.
func Schema() []byte {
	t := reflect.TypeFor[document]()
	r := jsonschema.Reflector{
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true,
		DoNotReference:             true,
		Anonymous:                  true,
		Mapper:                     scalarSchema,
	}
	s := r.ReflectFromType(t)
	s.Title = "routes.yaml of Breakwater"
	annotate(s, t)
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("encode schema: %v", err)) // made of our own structs alone
	}
	return append(b, '\n')
}

// reference matches a text with something to fill in, which may stand for any value.
const reference = `\$\{`

// scalarSchema returns what may stand for a type that is written as one value, nil for other types.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	s, ok := scalarTypes[t]
	if !ok {
		return nil
	}
	out := &jsonschema.Schema{Type: "string"}
	if s.pattern != "" {
		out.Pattern = s.pattern + "|" + reference
	}
	if s.json == "" {
		return out
	}
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: s.json}, out}}
}

// annotate adds what our own tags say to the schema of a struct and of those below it.
func annotate(s *jsonschema.Schema, t reflect.Type) {
	for t.Kind() != reflect.Struct || scalarTypes[t].parse != nil {
		switch t.Kind() {
		case reflect.Pointer:
			t = t.Elem()
		case reflect.Slice:
			s, t = s.Items, t.Elem()
		case reflect.Map:
			s, t = s.AdditionalProperties, t.Elem()
		default:
			return
		}
	}
	for _, f := range reflect.VisibleFields(t) {
		p, _ := s.Properties.Get(f.Tag.Get("yaml"))
		p.Description = f.Tag.Get("doc")
		if def := f.Tag.Get("default"); def != "" {
			p.Default = def
			if f.Type.Kind() == reflect.Int {
				p.Default = json.Number(def)
			}
		}
		if f.Tag.Get("required") != "" {
			s.Required = append(s.Required, f.Tag.Get("yaml"))
		}
		if enum := f.Tag.Get("enum"); enum != "" {
			words := &jsonschema.Schema{}
			for v := range strings.SplitSeq(enum, ",") {
				words.Enum = append(words.Enum, v)
			}
			p.Type, p.AnyOf = "", []*jsonschema.Schema{words, {Type: "string", Pattern: reference}}
		}
		annotate(p, f.Type)
		if f.Type == reflect.TypeFor[[]stripeIP]() { // one of them may stand for the list
			p.AnyOf = []*jsonschema.Schema{{Type: p.Type, Items: p.Items}, p.Items}
			p.Type, p.Items = "", nil
		}
	}
}
