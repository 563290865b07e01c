package config

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
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
