package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/breakwater-gateway/breakwater/"

// floors gives each package its floor. Imports only go down: a package imports packages of lower floors only.
// .golangci.yaml says the same to editors.
var floors = map[string]int{
	"internal/jsontime":  1,
	"internal/stripe":    1,
	"internal/toystripe": 1,

	"proxy": 2,

	"internal/journal": 3,

	"internal/conditions":  4,
	"internal/config":      4,
	"internal/journaltest": 4,
	"internal/quarantine":  4,
	"internal/sqlite":      4,

	"internal/admin": 5,

	"internal/server": 6,
	"proxy/sqlite":    6, // the public face of internal/sqlite

	"internal/cli": 7,

	"cmd/breakwater":        8,
	"deploy/examples/embed": 8,
	"internal/bench":        8,
	"internal/crash":        8,
	"internal/e2e":          8,
}

// forTests are packages that tests of every floor may import.
var forTests = []string{"internal/journaltest", "internal/toystripe"}

// libraries are the modules that the floors which embedders get may import, besides the standard library. Higher
// floors take what they need; CONTRIBUTING.md has a line for each.
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
		if _, ok := floors[name]; !ok {
			t.Errorf("%s has no floor: give it one here, in .golangci.yaml and in docs/architecture.md", name)
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
		{"internal/conditions", module + "internal/quarantine", false, false},
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

// refuse says why a package, or its test, may not import path; "" when it may.
func refuse(name, path string, test bool) string {
	if instead, ok := denied[path]; ok {
		return "use " + instead
	}
	target, ours := strings.CutPrefix(path, module)
	if ours {
		floor, ok := floors[target]
		switch {
		case test && slices.Contains(forTests, target):
			return ""
		case !ok:
			return "it has no floor"
		case floor >= floors[name]:
			return fmt.Sprintf("floor %d may not import floor %d", floors[name], floor)
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
