package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const unrendered = `
version: 1
journal: sqlite:j.db
admin: {token: hunter22}
sources: {main: {path: /hook, signing_secrets: [whsec_first]}}
backends:
  legacy:
    url: "https://legacy.example/hook?key=hunter22"
    rate: 600/m
    headers: {Authorization: Bearer hunter22}
    success: {status: [200-204, 299]}
routes:
  - {types: ["invoice.*"], livemode: false, to: []}
  - {types: [x.relay], to: [legacy], answer: relay, fallback: {status: 302, headers: {Location: "https://u:hunter22@h/?hunter22"}, body: '{"a": whsec_b}'}}
  - {types: ["*"], to: [legacy]}
trusted_proxies: [10.0.0.0/8]
stripe_ips: default
`

func TestYAMLHidesSecrets(t *testing.T) {
	t.Parallel()
	f := parse("routes.yaml", []byte(unrendered), func(string) (string, bool) { return "", false })
	if err := f.Problems.errors(); len(err) > 0 {
		t.Fatal(err)
	}
	text := f.YAML()
	for _, secret := range []string{"hunter22", "whsec_", "key="} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is in it:\n%s", secret, text)
		}
	}
	for _, line := range []string{
		`    url: https://legacy.example/hook?***`, `    rate: 10/s`, `      Authorization: "***"`, `      give_up_after: 168h`,
		`  - types: [invoice.*]`, `    livemode: false`, `    to: []`, `stripe_ips: [default]`, `  body_memory: 64MiB`, `resign_after: 1m`, `      status: [200-204, 299]`, `    to: [legacy]`,
		`        Location: https://***@h/?***`, `      body: "{\"a\": ***}"`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %q in:\n%s", line, text)
		}
	}
}

// What is shown can be read again, and means the same.
func TestYAMLIsReadAgain(t *testing.T) {
	t.Parallel()
	none := func(string) (string, bool) { return "", false }
	f := parse("routes.yaml", []byte(unrendered), none)
	again := parse("routes.yaml", []byte(f.YAML()), none)
	if err := again.Problems.errors(); len(err) > 0 {
		t.Fatalf("%v\n%s", err, f.YAML())
	}
	if diff := cmp.Diff(f.YAML(), again.YAML()); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
}
