package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCanaries puts a secret where people put one by mistake, or where it may stand, beside something that is wrong, and
// looks for it in all that is said.
func TestCanaries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("CANARY\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(name string) (string, bool) {
		v, ok := map[string]string{
			"SHORT":  "CANARY",
			"QUOTES": `a"CANARY"` + "\n",
			"BEGIN":  "abcdefgh",
			"LONGER": "abcdefgh CANARY",
			"SLASH":  "no/such//CANARY//file",
			"PEM":    "-----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----",
		}[name]
		return v, ok
	}
	const sources = "sources: {main: {path: /a, signing_secrets: [whsec_a]}}\n"
	const sound = sources + "routes: [{to: []}]\n"
	url := func(value string) string { return sound + "backends: {b: {url: " + value + ", timeout: 10m}}\n" }
	to := func(value string) string { return sources + "routes: [{to: [" + value + "]}]\n" }
	for name, src := range map[string]string{
		"query":                       url(`"https://h/hook?key=CANARY"`),
		"query with @":                url(`"https://h/hook?key=CAN@CANARY"`),
		"query, not quoted":           url(`https://h/hook?key=CANARY`),
		"query of another scheme":     url(`"ftp://h/hook?CANARY"`),
		"fragment":                    url(`"https://h/hook#CANARY"`),
		"user":                        url(`"https://u:CANARY@h/hook"`),
		"password with a blank":       url(`"https://u:CA CANARY@h/"`),
		"password with a quote":       url(`'https://u:"CANARY"@h/'`),
		"password with @":             url(`"https://u:a@CANARY@h/"`),
		"password with ?":             url(`"https://u:a?CANARY@h/"`),
		"one slash":                   url(`"http:/u:CANARY@h/"`),
		"no slash":                    url(`"http:u:CANARY@h/"`),
		"no scheme":                   url(`"u:CANARY@h/"`),
		"no scheme, no host":          url(`"u:CANARY"`),
		"no host":                     url(`"http://u:CANARY"`),
		"three slashes":               url(`"http:///u:CANARY/"`),
		"a default":                   url(`"${NOT_SET:-https://u:CANARY@h/?key=CANARY}"`),
		"a malformed default":         url(`"${NOT_SET:-u:CANARY}"`),
		"filled in, malformed":        url(`"http://u:${SHORT}@h/%zz"`),
		"host":                        url(`"http://h/", host: "u:CANARY@h"`),
		"host with query":             url(`"http://h/", host: "h?key=CANARY"`),
		"path with query":             strings.Replace(sound, "/a", "'/a?key=CANARY'", 1),
		"listen":                      sound + `listen: "http://u:CANARY@h:1"`,
		"postgres":                    sound + `journal: "postgres://u:CANARY@h/db"`,
		"postgres with query":         sound + `journal: "postgres://h/db?password=CANARY"`,
		"postgres, malformed":         sound + `journal: "postgres:u:CANARY"`,
		"proxies":                     sound + `trusted_proxies: ["http://u:CANARY@h/"]`,
		"URL for a name":              to(`"https://u:CANARY@h/"`),
		"URL with a blank for a name": to(`"https://u:CA CANARY@h/"`),
		"URL with query for a name":   to(`"https://h/?key=CANARY"`),
		"URL with user and query":     to(`"https://u:p@h/?key=CANARY"`),
		"filled in for a name":        to(`"${SHORT}"`),
		"filled in with quotes":       to(`"${QUOTES}"`),
		"one begins like the other":   to(`"${BEGIN}", "${LONGER}"`),
		"a file for a name":           to(`"${file:secret}"`),
		"filled in for a type":        sources + `routes: [{types: ["A${SHORT}"], to: []}, {types: ["A${SHORT}"], to: []}]`,
		"filled in for a hint":        sources + `routes: [{types: ["x.${SHORT}"], to: []}]`,
		"filled in for a type again":  sources + `routes: [{types: ["${SHORT}"], to: []}, {types: ["${SHORT}", b], to: []}]`,
		"filled in for a source":      sources + `routes: [{source: "${SHORT}", to: []}]`,
		"filled in for a path":        url(`"https://h/", ca_file: "${SLASH}"`),
		"PEM for a file":              sound + "tls:\n  cert_file: a.pem\n  key_file: |\n    -----BEGIN PRIVATE KEY-----\n    CANARY\n",
		"PEM filled in":               sound + `tls: {cert_file: a.pem, key_file: "${PEM}"}`,
		"PEM for authorities":         url(`"https://h/", ca_file: "${PEM}"`),
		"unknown key":                 url(`"http://h/", keyy: "CANARY"`),
		"key like a shorter one":      sources + `routes: [{to: [], tok: CANARY}]`,
		"key like another":            sound + `backends: {b: {urls: CANARY}}`,
		"lost key":                    sound + `admin: {CANARY}`,
		"lost colon":                  sound + `admin: {token CANARY}`,
		"lost header":                 url(`"http://h/", headers: {CANARY}`),
		"lost header's colon":         url(`"http://h/", headers: {Authorization Bearer CANARY}`),
		"header with a line break":    url(`"http://h/", headers: {X: "CANARY\nCANARY"}`),
		"URL for a header":            url(`"http://h/", headers: {"https://u:CANARY@h/?key=CANARY": x}`),
		"URL for a backend":           sound + `backends: {"https://u:CANARY@h/?key=CANARY": {url: "http://h/"}}`,
		"odd name for a source":       `sources: {"a.b/CANARY": {path: a}}`,
		"odd name twice":              sound + `backends: {"b/CANARY": {url: "http://h/"}, "b/CANARY": {url: "http://h/"}}`,
		"odd name with no value":      sound + `backends: {"a.b/CANARY": }`,
		"token twice":                 sound + `admin: {token: x-CANARY, token: y-CANARY}`,
		"secret's default":            strings.Replace(sound, "whsec_a", `"${NOT_SET:-CANARY}"`, 1) + "listen: 1",
		"reference that is not ended": strings.Replace(sound, "whsec_a", `"${CANARY"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := parse(filepath.Join(dir, "routes.yaml"), []byte(src), env)
			if out := shown(t, f); strings.Contains(out, canary) || len(f.Problems) == 0 {
				t.Errorf("%d problems:\n%v\nof:\n%s", len(f.Problems), f.Problems, src)
			}
		})
	}
}

// TestPrivate: what is shown of a value in a line that is wrong.
func TestPrivate(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`"https://u:p@h:1/a?b=c#d"`:      `"https://***@h:1/a?***"`,
		`'h?'`:                           `'h?'`,
		`""`:                             `""`,
		`webhook.php`:                    `webhook.php`,
		`u:p`:                            `u:***`,
		`":8420"`:                        `":8420"`,
		`"[::1]:8421"`:                   `"[::1]:8421"`,
		`localhost:8421`:                 `localhost:8421`,
		`2001:db8::/32`:                  `2001:db8::/32`,
		`sqlite:breakwater.db`:           `sqlite:breakwater.db`,
		`"${A}"`:                         `"${A}"`,
		`"${file:a/b}"`:                  `"${file:a/b}"`,
		`"http://${A}:${B}/x"`:           `"http://${A}:${B}/x"`,
		`"${A:-http://h:1/x}"`:           `"${A:-http://h:1/x}"`,
		`"${A:-http://h:1/x?k}"`:         `"${A:-http://h:1/x?***}"`,
		`"https://u:${A}@h/${B}?k=${C}"`: `"https://***@h/${B}?***"`,
	} {
		if got := masked(value, private(value)); got != want {
			t.Errorf("%s is shown as %s, want %s", value, got, want)
		}
	}
}
