package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/breakwater-gateway/breakwater/proxy"
)

const schemaFile = "../../routes.schema.json"

// TestSchemaFile keeps the committed schema equal to the structs: go generate ./internal/config writes it.
func TestSchemaFile(t *testing.T) {
	t.Parallel()
	got := Schema()
	if *update {
		if err := os.WriteFile(schemaFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("routes.schema.json is not that of the structs, run go generate ./internal/config (-want +got):\n%s", diff)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("routes.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("routes.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../routes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const minimal = "sources: {main: {path: /a, signing_secrets: [whsec_a]}}\nroutes: [{to: []}]\n"
	for _, tt := range []struct {
		name, yaml, wrong string // wrong is where the schema finds fault, "" when it does not
	}{
		{"the example", string(example), ""},
		{"no keys but the required", minimal, ""},
		{"references for all kinds", minimal + `
inline_timeout: "${A}"
limits: {connections: "${B}", body_memory: "${C:-1MiB}"}
backends: {b: {url: "${U}", rate: "${R}", success: {status: [204, "200-299", "${S}"]}}}
trusted_proxies: ["${P}", 10.0.0.0/8, "::1"]
`, ""},
		{"published addresses", minimal + "stripe_ips: default\nquarantine: {rate: 5/m}\n", ""},
		{"addresses", minimal + "stripe_ips: [default, 192.0.2.0/24, \"${A}\"]\n", ""},
		{"no address", minimal + "stripe_ips: [stripe.com]\n", "/stripe_ips"},
		{"answers", strings.Replace(minimal, "to: []", "to: [b], answer: backend, hold_for: 1h30m, livemode: true", 1), ""},
		{"unknown key", minimal + "retentoin: {}\n", ""},
		{"unknown key below", minimal + "admin: {tokn: x}\n", "/admin"},
		{"missing key", "routes: [{to: []}]\nsources: {main: {path: /a}}\n", "/sources/main"},
		{"route without to", strings.Replace(minimal, "to: []", "types: [a]", 1), "/routes/0"},
		{"duration without unit", minimal + "inline_timeout: 8\n", "/inline_timeout"},
		{"duration in days", minimal + "retention: {failed: 7d}\n", "/retention/failed"},
		{"size", minimal + "limits: {body_memory: huge}\n", "/limits/body_memory"},
		{"rate", minimal + "backends: {b: {url: x, rate: 50}}\n", "/backends/b/rate"},
		{"answer", strings.Replace(minimal, "to: []", "to: [b], answer: maybe", 1), "/routes/0/answer"},
		{"status", minimal + "backends: {b: {url: x, success: {status: [404]}}}\n", "/backends/b/success/status"},
		{"statuses", minimal + "backends: {b: {url: x, success: {status: [200-499]}}}\n", "/backends/b/success/status"},
		{"list", strings.Replace(minimal, "to: []", "to: b", 1), "/routes/0/to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			asJSON, err := yaml.YAMLToJSON([]byte(tt.yaml))
			if err != nil {
				t.Fatal(err)
			}
			var value any
			if err := json.Unmarshal(asJSON, &value); err != nil {
				t.Fatal(err)
			}
			err = schema.Validate(value)
			valid := tt.wrong == "" && !strings.HasPrefix(tt.name, "unknown")
			switch {
			case valid && err != nil:
				t.Errorf("refused: %v", err)
			case !valid && err == nil:
				t.Error("accepted")
			case !valid && !strings.Contains(err.Error(), "at '"+tt.wrong):
				t.Errorf("refused for another reason than %s: %v", tt.wrong, err)
			}
		})
	}
}

// TestDocumentedDefaults holds what people read to what the gateway does: routes.yaml offers every key, and it, the README
// and the descriptions of the schema state no other default and no other bound than the code has.
func TestDocumentedDefaults(t *testing.T) {
	t.Parallel()
	var example any
	if err := yaml.Unmarshal([]byte(uncommented(t)), &example); err != nil {
		t.Fatal(err)
	}
	shown := map[string][]string{}
	collect(example, "", shown)
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	inReadme := map[string]string{}
	for _, m := range regexp.MustCompile("`([a-z_.]+)` \\(([0-9][^ ),;]*)").FindAllStringSubmatch(string(readme), -1) {
		inReadme[m[1]] = m[2]
	}
	bounds := map[string]string{}
	tooMuch := proxy.Config{
		Backends: map[string]proxy.Backend{"b": {Timeout: 1000 * time.Hour}},
		Routes:   proxy.Routes{{Answer: proxy.AnswerBackend, HoldFor: 1000 * time.Hour}},
	}
	for _, p := range tooMuch.Check() {
		if m := regexp.MustCompile(`^(\w+) is at most (\w+)`).FindStringSubmatch(p.Text); m != nil {
			bounds[m[1]] = m[2]
		}
	}
	examples := []string{"backends.NAME.max_in_flight", "routes.answer", "routes.deliver"} // shown with another value than the default
	eachKey(reflect.TypeFor[document](), reflect.Value{}, "", func(path string, f reflect.StructField, def reflect.Value) {
		key, doc := f.Tag.Get("yaml"), f.Tag.Get("doc")
		if shown[path] == nil {
			t.Errorf("routes.yaml does not show %s", path)
		}
		if m := regexp.MustCompile(`at most (\d\w+)`).FindStringSubmatch(doc); m != nil && m[1] != bounds[key] || m == nil && bounds[key] != "" {
			t.Errorf("the description of %s says %q, the gateway takes at most %q", path, doc, bounds[key])
		}
		s, ok := scalarTypes[f.Type]
		if !ok {
			return
		}
		want := def.Interface()
		if path == "routes.hold_for" { // has a default only where answer: backend
			want = proxy.Routes{{Answer: proxy.AnswerBackend}}.Match(&proxy.Event{}).HoldFor
		}
		hold := func(where, text string) {
			if got, err := s.parse(text); got != want || err != nil {
				t.Errorf("%s says %s: %s, the gateway's default is %v", where, path, text, want)
			}
		}
		if !slices.Contains(examples, path) && (!def.IsZero() || f.Type == reflect.TypeFor[time.Duration]()) {
			for _, text := range shown[path] {
				hold("routes.yaml", text)
			}
		}
		for name, text := range inReadme {
			if name == path || name == key {
				hold("README.md", text)
				delete(inReadme, name)
			}
		}
		if m := regexp.MustCompile(`Default:? (\d[^,.]*)`).FindStringSubmatch(doc); m != nil {
			hold("its description", m[1])
		}
	})
	if len(inReadme) > 0 {
		t.Errorf("README.md states values of what is no key: %v", inReadme)
	}
}

// collect adds the text of each key's value by its path, as eachKey writes it.
func collect(v any, path string, texts map[string][]string) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if path == "sources" || path == "backends" {
				key = "NAME"
			}
			at := join(path, key)
			texts[at] = append(texts[at], fmt.Sprint(value))
			collect(value, at, texts)
		}
	case []any:
		for _, item := range v {
			collect(item, path, texts)
		}
	}
}

// TestEveryLimitIsBounded gives each number, size and duration a value that is absurd, and 0.
func TestEveryLimitIsBounded(t *testing.T) {
	t.Parallel()
	absurd := map[reflect.Type]string{
		reflect.TypeFor[int](): "2000000000", reflect.TypeFor[int64](): "7EiB", reflect.TypeFor[time.Duration](): "2000000h",
	}
	eachKey(reflect.TypeFor[document](), reflect.Value{}, "", func(path string, f reflect.StructField, _ reflect.Value) {
		most, numeric := absurd[f.Type]
		if !numeric {
			return
		}
		top, below, _ := strings.Cut(path, ".")
		parts := map[string]string{
			"sources":  "sources: {NAME: {path: /a, signing_secrets: [whsec_a], %s}}",
			"backends": "backends: {b: {url: \"http://h/\"}, NAME: {url: \"http://h/\", %s}}",
			"routes":   "routes: [{to: [b], answer: " + map[bool]string{true: "relay", false: "backend"}[strings.Contains(below, "fallback")] + ", %s}]",
		}
		keys := strings.Split(strings.TrimPrefix(below, "NAME."), ".")
		for value, ok := range map[string]bool{most: false, "0": path == "shutdown_delay"} {
			text := strings.Join(keys, ": {") + ": " + value + strings.Repeat("}", len(keys)-1)
			src := "sources: {NAME: {path: /a, signing_secrets: [whsec_a]}}\nbackends: {b: {url: \"http://h/\"}}\nroutes: [{to: [b]}]\n"
			switch part, inMap := parts[top]; {
			case inMap:
				lines := strings.Split(src, "\n")
				lines[slices.Index([]string{"sources", "backends", "routes"}, top)] = fmt.Sprintf(part, text)
				src = strings.Join(lines, "\n")
			case below == "":
				src += path + ": " + value
			default:
				src += top + ": {" + text + "}"
			}
			p := parse("routes.yaml", []byte(src), testEnv).Problems.errors()
			if (len(p) == 0) != ok || !ok && !strings.Contains(p[0].Text, lastKey(path)) && path != "version" {
				t.Errorf("%s: %s is taken: %t, want %t: %v", path, value, len(p) == 0, ok, p)
			}
		}
	})
}
