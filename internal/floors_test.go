package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/breakwater-gateway/breakwater/"

var update = flag.Bool("update", false, "write the floors into .golangci.yaml and docs/architecture.md")

// floors holds the packages of each floor, from the lowest, floor 1. Imports only go down: a package imports packages of
// lower floors only. One that is named here need not exist yet.
var floors = []struct{ packages, about string }{
	{
		"internal/jsontime internal/stripe internal/toystripe",
		"what is Stripe's: signatures, envelope, real-time types; a Stripe to test with; a time in JSON",
	},
	{"proxy", "the domain, and the way of an event; what embedders import"},
	{"internal/journal", "what a database must be, for those who read and write it beside the flow"},
	{
		"internal/conditions internal/config internal/journaltest internal/quarantine internal/sqlite",
		"one thing each: what wants a person, YAML, the contract of a database, what does not verify, a database",
	},
	{"internal/admin", "HTTP for operators: API, page, client"},
	{"internal/server proxy/sqlite", "composition: open, build, listen, reload, stop; the journal for embedders"},
	{"internal/cli", "commands"},
	{"cmd/breakwater deploy/examples/embed internal/bench internal/crash internal/e2e", "programs, and tests of the whole"},
}

// floorOf returns a package's floor, 0 when it has none.
func floorOf(name string) int {
	for i, f := range floors {
		if slices.Contains(strings.Fields(f.packages), name) {
			return i + 1
		}
	}
	return 0
}

// forTests are packages that tests of every floor may import.
var forTests = []string{"internal/journaltest", "internal/toystripe", "proxy/sqlite"}

// libraries are what the packages that every embedder gets may import besides the standard library. Packages of higher
// floors import what they need; CONTRIBUTING.md has a line for each module.
var libraries = map[string][]string{
	"internal/stripe":    {"github.com/stripe/stripe-go/v76/webhook"},
	"internal/toystripe": {"github.com/stripe/stripe-go/v76/webhook"},
	"proxy": {
		"github.com/sony/gobreaker/v2",
		"github.com/stripe/stripe-go/v76",
		"go.uber.org/zap",
		"golang.org/x/sync/semaphore",
		"golang.org/x/time/rate",
	},
}

// denied are imports that no package may have, with what to use instead.
var denied = map[string]string{"log/slog": "go.uber.org/zap"}

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath                         string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

func TestImportsOnlyGoDown(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if len(p.GoFiles) == 0 { // nothing but tests, as here
			continue
		}
		if floorOf(name) == 0 {
			t.Errorf("%s has no floor: give it one in internal/floors_test.go, then run go test ./internal -update", name)
			continue
		}
		for _, path := range p.Imports {
			if why := refuse(name, path, false); why != "" {
				t.Errorf("%s imports %s: %s", name, path, why)
			}
		}
		for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
			if why := refuse(name, path, true); why != "" && path != p.ImportPath {
				t.Errorf("a test of %s imports %s: %s", name, path, why)
			}
		}
	}
}

// TestRefuse keeps the check itself honest.
func TestRefuse(t *testing.T) {
	for _, tt := range []struct {
		name, path string
		test, ok   bool
	}{
		{"proxy", module + "internal/stripe", false, true},
		{"proxy", module + "internal/sqlite", false, false},
		{"proxy", module + "internal/sqlite", true, false},
		{"proxy", module + "internal/journaltest", false, false},
		{"proxy", module + "internal/journaltest", true, true},
		{"proxy", "golang.org/x/time/rate", false, true},
		{"proxy", "golang.org/x/time", false, false},
		{"proxy", "go.uber.org/zap/zapcore", false, true},
		{"proxy", "github.com/spf13/cobra", false, false},
		{"proxy", "github.com/google/go-cmp/cmp", true, true},
		{"internal/journal", module + "proxy", false, true},
		{"proxy", module + "internal/journal", false, false},
		{"internal/config", module + "internal/sqlite", false, false},
		{"internal/config", module + "internal/admin", false, false},
		{"internal/server", module + "internal/config", false, true},
		{"internal/server", module + "internal/unheard", false, false},
		{"internal/server", "log/slog", false, false},
		{"internal/server", "log/slog", true, false},
		{"internal/server", "github.com/spf13/cobra", false, true},
	} {
		if why := refuse(tt.name, tt.path, tt.test); (why == "") != tt.ok {
			t.Errorf("refuse(%s, %s, test %t) = %q, want ok %t", tt.name, tt.path, tt.test, why, tt.ok)
		}
	}
}

// TestFloorsAreDrawn holds what else says floors to those of this file.
func TestFloorsAreDrawn(t *testing.T) {
	for path, block := range map[string]struct{ begin, text, end string }{
		"../docs/architecture.md": {"| floor | packages | know about |\n", floorsTable(), "\n\n"},
		"../.golangci.yaml":       {"    depguard:\n      rules:\n", depguardRules(), "    forbidigo:\n"},
	} {
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, begins := strings.Cut(string(old), block.begin)
		drawn, after, ends := strings.Cut(rest, block.end)
		if !begins || !ends {
			t.Fatalf("%s has no floors between %q and %q", path, block.begin, block.end)
		}
		if drawn == block.text {
			continue
		}
		if !*update {
			t.Errorf("%s says other floors than internal/floors_test.go: run go test ./internal -update", path)
			continue
		}
		if err := os.WriteFile(path, []byte(before+block.begin+block.text+block.end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// floorsTable returns the rows of the table in docs/architecture.md, the highest floor first.
func floorsTable() string {
	rows := []string{"|---|---|---|"}
	for i, f := range slices.Backward(floors) {
		names := "`" + strings.Join(strings.Fields(f.packages), "`, `") + "`"
		rows = append(rows, fmt.Sprintf("| %d | %s | %s |", i+1, names, f.about))
	}
	return strings.Join(rows, "\n")
}

// depguardRules returns what .golangci.yaml says of imports: all that a package with libraries may import, and of each
// other floor that no package on it or below imports it.
func depguardRules() string {
	var out strings.Builder
	rule := func(name, files, list string, items []string) {
		fmt.Fprintf(&out, "        %s:\n%s          %s:\n            - %s\n", name, files, list, strings.Join(items, "\n            - "))
	}
	in := func(packages ...string) string {
		return fmt.Sprintf("          files: [\"**/{%s}/*.go\", \"!$test\"]\n", strings.Join(packages, ","))
	}
	var items, free []string
	for _, path := range slices.Sorted(maps.Keys(denied)) {
		items = append(items, fmt.Sprintf("{pkg: %s, desc: use %s}", path, denied[path]))
	}
	rule("everywhere", "", "deny", items)
	for i, f := range floors {
		items = nil
		for _, pkg := range strings.Fields(f.packages) {
			items = append(items, fmt.Sprintf("{pkg: %s%s$, desc: floor %d}", module, pkg, i+1))
			libs, limited := libraries[pkg]
			if !limited {
				free = append(free, pkg)
				continue
			}
			allowed := append([]string{"$gostd"}, libs...)
			for _, below := range floors[:i] {
				for _, pkg := range strings.Fields(below.packages) {
					allowed = append(allowed, module+pkg+"$")
				}
			}
			rule(strings.ReplaceAll(pkg, "/", "-"), in(pkg), "list-mode: strict\n          allow", allowed)
		}
		if len(free) > 0 {
			rule(fmt.Sprintf("floor-%d", i+1), in(free...), "deny", items)
		}
	}
	return out.String()
}

// refuse says why a package, or its test, may not import path; "" when it may.
func refuse(name, path string, test bool) string {
	if instead, ok := denied[path]; ok {
		return "use " + instead
	}
	target, ours := strings.CutPrefix(path, module)
	if ours {
		from, to := floorOf(name), floorOf(target)
		switch {
		case test && slices.Contains(forTests, target):
			return ""
		case to == 0:
			return "it has no floor"
		case to >= from:
			return fmt.Sprintf("floor %d may not import floor %d", from, to)
		}
		return ""
	}
	allowed, limited := libraries[name]
	if test || !limited || standard(path) {
		return ""
	}
	for _, lib := range allowed {
		if path == lib || strings.HasPrefix(path, lib+"/") {
			return ""
		}
	}
	return "only " + strings.Join(allowed, ", ")
}

// standard reports whether path is of the standard library: its first element has no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var ps []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return ps
		}
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}
