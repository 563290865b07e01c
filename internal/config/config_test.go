package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/proxy"
)

var update = flag.Bool("update", false, "write the golden files and routes.schema.json")

// canary stands in every secret of the test files. No output may show it.
const canary = "CANARY"

func testEnv(name string) (string, bool) {
	v, ok := map[string]string{
		"EMPTY":  "",
		"SECRET": "filled-in-CANARY",
		"NUMBER": "8",
		"PERIOD": "90s",
		"INJECT": "x, to: [other]}\nlisten: evil",
	}[name]
	return v, ok
}

// shown is all that a File's problems can be made to say.
func shown(t *testing.T, f *File) string {
	t.Helper()
	b, err := json.Marshal(f.Problems)
	if err != nil {
		t.Fatal(err)
	}
	return f.Problems.Error() + string(b) + fmt.Sprintf("%v%+v%#v", f.Problems, f.Problems, f.Problems)
}

// TestBadFiles reads each file of testdata/bad and compares what an operator is told.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 25 {
		t.Fatalf("found %d files, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".yaml"), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			f := parse(name, src, testEnv)
			got := strings.ReplaceAll(f.Problems.Error()+"\n", filepath.ToSlash(name), "routes.yaml")
			golden := strings.TrimSuffix(name, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if strings.Contains(shown(t, f), canary) {
				t.Errorf("a secret is shown:\n%s", shown(t, f))
			}
		})
	}
}

// TestSecretsStayHidden damages a file in every place and looks for its secrets in what is said about that.
func TestSecretsStayHidden(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/secrets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if f := parse("routes.yaml", src, testEnv); len(f.Problems.errors()) > 0 {
		t.Fatalf("the file is wrong before it is damaged:\n%v", f.Problems)
	}
	check := func(damaged string) {
		if out := shown(t, parse("routes.yaml", []byte(damaged), testEnv)); strings.Contains(out, canary) {
			t.Fatalf("a secret is shown:\n%v\nof the file:\n%s", parse("routes.yaml", []byte(damaged), testEnv).Problems, damaged)
		}
	}
	for i := range src {
		before, after := string(src[:i]), string(src[i+1:])
		for j, with := range []string{"", "x", ":", ": ", "\"", "{", "]", "\n", "\t", "- ", "#", "*", "&a "} {
			if (i+j)%3 == 0 { // a third of them, for time
				check(before + with + after)
			}
		}
		if i%3 == 0 {
			check(before)
		}
	}
}

func TestLoad(t *testing.T) {
	t.Setenv("STRIPE_SIGNING_SECRET", "whsec_abc")
	f, err := Load("../../routes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Problems {
		if p.Severity != Advice {
			t.Errorf("the example has a problem: %v", p)
		}
	}
	legacy := f.Proxy.Backends["legacy"]
	got := []any{
		f.Listen, f.Admin, f.Journal, f.Retention, f.Proxy.Sources["main"].Path, string(f.Proxy.Sources["main"].SigningSecrets[0]),
		legacy.URL, legacy.MaxInFlight, legacy.Rate, legacy.Retry, legacy.ForwardedProto, f.Proxy.Routes[1].To, f.Watch,
	}
	want := []any{
		":8420",
		Admin{Listen: "127.0.0.1:8421"},
		Journal{Driver: "sqlite", Path: filepath.FromSlash("../../breakwater.db")},
		Retention{Delivered: 168 * time.Hour, Failed: 2160 * time.Hour, Ignored: 24 * time.Hour, Unrouted: 720 * time.Hour},
		"/stripe/webhook", "whsec_abc", "http://127.0.0.1:8000/webhook.php", 16, 50.0,
		proxy.Retry{Initial: 5 * time.Second, Max: time.Hour, GiveUpAfter: 168 * time.Hour},
		"", // a trusted proxy's word is passed on
		[]string{"legacy"},
		[]string{"../../routes.yaml"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes.yaml (-want +got):\n%s", diff)
	}
}

// uncommented returns the example with all keys that its comments offer, but for those that name files.
func uncommented(t *testing.T, files ...string) string {
	t.Helper()
	src, err := os.ReadFile("../../routes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	keys := append(keysOf(reflect.TypeFor[document]()), keysOf(reflect.TypeFor[backend]())...)
	for line := range strings.Lines(string(src)) {
		indent, text, comment := strings.Cut(line, "# ")
		key, _, _ := strings.Cut(text, ":")
		listItem := strings.HasPrefix(text, "- ") || strings.HasPrefix(text, "  ")
		if comment && strings.TrimSpace(indent) == "" && (listItem || slices.Contains(keys, key)) && !slices.Contains(files, key) {
			line = indent + text
		}
		out.WriteString(line)
	}
	return out.String()
}

// TestExampleComments uncomments what the example offers, so that none of it is wrong.
func TestExampleComments(t *testing.T) {
	t.Parallel()
	env := func(name string) (string, bool) {
		return map[bool]string{true: "whsec_abcdefghijk"}[name != "BACKEND_URL"], name != "BACKEND_URL"
	}
	f := parse("routes.yaml", []byte(uncommented(t, "tls", "ca_file")), env)
	for _, p := range f.Problems {
		if p.Severity != Advice && p.Path != "routes[0].fallback.status" { // the decision is no: its 2xx is meant
			t.Errorf("%v", p)
		}
	}
	if got := []any{len(f.Proxy.Routes), f.Proxy.Routes[0].Answer, f.Proxy.Routes[1].Answer, f.Proxy.Backends["legacy"].Was}; !cmp.Equal(
		got, []any{6, proxy.AnswerRelay, proxy.AnswerBackend, []string{"old-name"}}) {
		t.Errorf("uncommented: %v", got)
	}
}

func TestLoadErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yaml"): "no such file or directory; name another one with --config",
		large:                           "larger than 128 KiB",
		dir:                             "is a directory",
	} {
		f, err := Load(path)
		if f == nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%s) = %v, %v; want an error with %q", path, f, err, want)
		}
	}
}

func TestFillIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("whsec_from_file\r\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const src = `
sources: {main: {path: "/a", signing_secrets: ["${file:secret}", "${SECRET}"], tolerance: "${PERIOD}"}}
backends:
  b:
    url: "${NOT_SET:-http://127.0.0.1:1/?a=$1&b=$$x}/$$"
    max_in_flight: "${NUMBER}"
    timeout: "${EMPTY:-7s}"
    headers: {X: "pa$word $${NUMBER} $$$$"}
    success: {body_not: ["${INJECT}"]}
routes: [{to: [b], livemode: "${NOT_SET:-true}"}]
`
	f := parse(filepath.Join(dir, "routes.yaml"), []byte(src), testEnv)
	if p := f.Problems.errors(); len(p) > 0 {
		t.Fatal(p)
	}
	b, s := f.Proxy.Backends["b"], f.Proxy.Sources["main"]
	got := []any{
		string(s.SigningSecrets[0]), string(s.SigningSecrets[1]), s.Tolerance, b.URL, b.MaxInFlight, b.Timeout,
		string(b.Headers["X"]), b.Success.BodyNot, *f.Proxy.Routes[0].Livemode, f.Watch, f.Listen,
	}
	want := []any{
		"whsec_from_file", "filled-in-CANARY", 90 * time.Second, "http://127.0.0.1:1/?a=$1&b=$$x/$", 8, 7 * time.Second,
		"pa$word ${NUMBER} $$",
		[]string{"x, to: [other]}\nlisten: evil"},
		true,
		[]string{filepath.Join(dir, "routes.yaml"), filepath.Join(dir, "secret")},
		":8420",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("filled in (-want +got):\n%s", diff)
	}
}

func TestAliases(t *testing.T) {
	t.Parallel()
	const src = `
sources: {main: {path: /a, signing_secrets: [whsec_a]}}
backends:
  a: &a {url: "http://127.0.0.1:1/", timeout: 3s, retry: &r {initial: 1s}}
  b: {<<: *a, url: "http://127.0.0.1:2/"}
  c: {<<: [*a], retry: *r, timeout: 4s}
routes: [{to: [a, b, c]}]
`
	f := parse("routes.yaml", []byte(src), testEnv)
	if p := f.Problems.errors(); len(p) > 0 {
		t.Fatal(p)
	}
	got := map[string][]any{}
	for name, b := range f.Proxy.Backends {
		got[name] = []any{b.URL, b.Timeout, b.Retry.Initial}
	}
	want := map[string][]any{
		"a": {"http://127.0.0.1:1/", 3 * time.Second, time.Second},
		"b": {"http://127.0.0.1:2/", 3 * time.Second, time.Second},
		"c": {"http://127.0.0.1:1/", 4 * time.Second, time.Second},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("backends (-want +got):\n%s", diff)
	}
}

func TestStripeIPs(t *testing.T) {
	t.Parallel()
	one, net := netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/32")
	for src, want := range map[string]StripeIPs{
		"":                                       {},
		"stripe_ips:":                            {},
		"stripe_ips: []":                         {},
		"stripe_ips: default":                    {Default: true},
		`stripe_ips: "${NOT_SET:-default}"`:      {Default: true},
		"stripe_ips: 192.0.2.7":                  {Own: []netip.Prefix{one}},
		"stripe_ips: [192.0.2.7, 2001:db8::/32]": {Own: []netip.Prefix{one, net}},
		"stripe_ips: [192.0.2.7, default]":       {Default: true, Own: []netip.Prefix{one}},
	} {
		f := parse("routes.yaml", []byte("sources: {main: {path: /a, signing_secrets: [whsec_a]}}\nroutes: [{to: []}]\n"+src), testEnv)
		if p := f.Problems.errors(); len(p) > 0 {
			t.Errorf("%s: %v", src, p)
		}
		if diff := cmp.Diff(want, f.StripeIPs, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", src, diff)
		}
		if bounds := (Quarantine{MaxBytes: 64 << 20, MaxAge: 720 * time.Hour, Rate: 10}); f.Quarantine != bounds {
			t.Errorf("%s: bounds %+v, want the defaults", src, f.Quarantine)
		}
	}
}

// TestAdminToken: only a loopback address goes without, and elsewhere none that can be guessed will do.
func TestAdminToken(t *testing.T) {
	t.Parallel()
	const rest = "\nsources: {main: {path: /a, signing_secrets: [whsec_a]}}\nroutes: [{to: []}]\n"
	admin := func(keys string, env func(string) (string, bool)) Problems {
		f := parse("routes.yaml", []byte("admin: {"+keys+"}"+rest), env)
		return slices.DeleteFunc(f.Problems, func(p Problem) bool { return !strings.HasPrefix(p.Path, "admin.") })
	}
	for listen, ok := range map[string]bool{
		`"127.0.0.1:1"`:                  true,
		`"[::1]:1"`:                      true,
		`"localhost:1"`:                  true,
		`":1"`:                           false,
		`"0.0.0.0:1"`:                    false,
		`"[::]:1"`:                       false,
		`"10.0.0.7:1"`:                   false,
		`"admin.internal:1"`:             false,
		`":1", token: "${EMPTY:-}"`:      false,
		`":1", token: "${EMPTY:- }"`:     false,
		`"127.0.0.1:1", token: ""`:       true,
		`":1", token: 3q8vBz0T5kWm1yXe2`: true,
	} {
		if p := admin("listen: "+listen, testEnv); (len(p) == 0) != ok {
			t.Errorf("admin.listen %s: %v, want ok %t", listen, p, ok)
		}
	}
	for token, want := range map[string]string{
		"a":                                "at least 16 characters",
		"3q8vBz0T5kWm1yX":                  "at least 16 characters",
		" ":                                "blank",
		"                    ":             "blank",
		"3q8vBz0T5kWm1yXe2\n":              "blank",
		"an admin token of some length":    "blank",
		"changeme":                         "at least 16 characters",
		"ChangeMe-ChangeMe":                "guessed",
		"please-change-me-soon":            "guessed",
		"your-admin-token-here":            "guessed",
		"password12345678":                 "guessed",
		"0123456789abcdef":                 "guessed",
		"aaaaaaaaaaaaaaaaaaaaaaaa":         "guessed",
		"3q8vBz0T5kWm1yXe":                 "",
		"0f1e2d3c4b5a69788796a5b4c3d2e1f0": "",
	} {
		env := func(string) (string, bool) { return token, true }
		for listen, severity := range map[string]Severity{"0.0.0.0:1": Error, "127.0.0.1:1": Warning} {
			p := admin(`listen: "`+listen+`", token: "${TOKEN}"`, env)
			switch {
			case want == "" && len(p) == 0:
			case want == "" || len(p) != 1 || p[0].Severity != severity || p[0].Path != "admin.token" || !strings.Contains(p[0].Text, want) ||
				!strings.Contains(p[0].Text, "openssl rand -hex 32"):
				t.Errorf("%q on %s: %v, want one %s with %q", token, listen, p, severity, want)
			case strings.TrimSpace(token) != "" && len(token) > 1 && strings.Contains(shown(t, &File{Problems: p}), token):
				t.Errorf("%q is shown: %v", token, p)
			}
		}
	}
}

// TestBounds: a file that is something else altogether costs little and says little.
func TestBounds(t *testing.T) {
	t.Parallel()
	for name, src := range map[string]string{
		"brackets":   strings.Repeat("[", maxFile),
		"braces":     strings.Repeat("{a: ", maxFile/4),
		"list items": strings.Repeat("- ", maxFile/2),
		"keys":       strings.Repeat("? ", maxFile/2),
		"many keys":  strings.Repeat("a: 1\n", 2000),
		"one line":   "routes: [" + strings.Repeat("{to: [x]},", 500) + "]",
	} {
		f := parse("routes.yaml", []byte(src), testEnv)
		if n, out := len(f.Problems), f.Problems.Error(); n == 0 || n > maxProblems || len(out) > 64<<10 || len(f.Problems.errors()) == 0 {
			t.Errorf("%s: %d problems in %d bytes", name, n, len(out))
		}
	}
}

func FuzzLoad(f *testing.F) {
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	for _, name := range append(files, "../../routes.yaml", "testdata/secrets.yaml") {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add([]byte("0\r0: \""))
	f.Fuzz(func(t *testing.T, src []byte) {
		env := func(name string) (string, bool) { return name, name != "NOT_SET" }
		if strings.Contains(string(src), "file") {
			t.Skip() // reads files of this machine
		}
		file := parse("routes.yaml", src, env)
		lines := len(linesOf(src))
		for _, p := range file.Problems {
			if p.Text == "" || p.Line < 1 || p.Line > lines || p.Column < 1 || p.Excerpt == "" {
				t.Errorf("of %d lines: %#v", lines, p)
			}
		}
	})
}
