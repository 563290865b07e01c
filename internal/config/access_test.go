package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const minimal = "sources: {main: {path: /a, signing_secrets: [\"${SECRET}\"]}}\nroutes: [{to: []}]\n"

func TestTrustedProxies(t *testing.T) {
	t.Parallel()
	for network, ok := range map[string]bool{
		"0.0.0.0/0":           false,
		"0.0.0.0/1":           false,
		"::/0":                false,
		"2000::/3":            false,
		"2600::/12":           false,
		"104.0.0.0/7":         false,
		"::ffff:0.0.0.0/96":   false,
		"10.0.0.0/8":          true,
		"54.0.0.0/8":          true, // more than any provider has, but no more than a slip
		"172.16.0.0/12":       true,
		"10.0.0.7":            true,
		"::1":                 true,
		"fc00::/7":            true,
		"fe80::/10":           true,
		"2a06:98c0::/29":      true, // a content delivery network's
		"2001:db8::/32":       true,
		"::ffff:10.0.0.0/104": true,
	} {
		f := parse("routes.yaml", []byte(minimal+"trusted_proxies: [10.0.0.1, \""+network+"\"]\n"), testEnv)
		p := f.Problems.errors()
		if (len(p) == 0) != ok || !ok && (p[0].Path != "trusted_proxies[1]" || !strings.Contains(p[0].Text, "claim to be Stripe")) {
			t.Errorf("%s: %v, want ok %t", network, p, ok)
		}
	}
}

// TestReadableSecrets: a file that other users can read is no place for a secret.
func TestReadableSecrets(t *testing.T) {
	t.Parallel()
	const (
		filled  = "sources: {main: {path: /a, signing_secrets: [\"${file:secret}\"]}}\nroutes: [{types: [\"*\"], to: []}]\n"
		literal = "sources: {main: {path: /a, signing_secrets: [whsec_CANARY]}}\nroutes: [{types: [\"*\"], to: []}]\n"
		header  = "sources: {main: {path: /a, signing_secrets: [\"${file:secret}\"]}}\nroutes: [{types: [\"*\"], to: []}]\n" +
			"backends: {b: {url: \"http://h/\", headers: {A: \"Bearer ${file:secret}\", B: \"${NOT_SET:-CANARY}\"}}}\n"
		public = "sources: {main: {path: \"/${file:name}\", signing_secrets: [\"${file:secret}\"]}}\nroutes: [{types: [\"*\"], to: []}]\n"
	)
	for name, tt := range map[string]struct {
		src          string
		file, secret os.FileMode
		want         []string
	}{
		"all closed":                   {filled, 0o600, 0o600, nil},
		"routes.yaml without secrets":  {filled, 0o644, 0o400, nil},
		"a secret":                     {filled, 0o644, 0o644, []string{":1:46: warning: secret can be read by other users (mode 0644): chmod 600"}},
		"a secret that can be written": {filled, 0o644, 0o602, []string{":1:46: warning: secret can be read by other users (mode 0602): chmod 600"}},
		"routes.yaml with a secret":    {literal, 0o644, 0o600, []string{": warning: this file holds secrets and can be read by other users (mode 0644): chmod 600"}},
		"routes.yaml that is closed":   {literal, 0o600, 0o600, nil},
		"a default, and a file, as one": {header, 0o604, 0o604, []string{
			": warning: this file holds secrets", ":1:46: warning: secret can", ":3:47: warning: secret can",
		}},
		"a file that is no secret": {public, 0o644, 0o600, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "routes.yaml")
			for _, f := range []struct {
				name, content string
				mode          os.FileMode
			}{{"routes.yaml", tt.src, tt.file}, {"secret", "whsec_CANARY", tt.secret}, {"name", "hook", 0o644}} {
				if err := os.WriteFile(filepath.Join(dir, f.name), []byte(f.content), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(filepath.Join(dir, f.name), f.mode); err != nil { // whatever the umask is
					t.Fatal(err)
				}
			}
			f, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			match := len(f.Problems) == len(tt.want)
			for i := 0; match && i < len(tt.want); i++ {
				match = strings.HasPrefix(f.Problems[i].String(), path+tt.want[i])
			}
			if !match || strings.Contains(shown(t, f), canary) {
				t.Errorf("%v, want %q", f.Problems, tt.want)
			}
		})
	}
}

// TestHowToClose: a group may read what belongs to root, which is how a service is given a file.
func TestHowToClose(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		mode                 fs.FileMode
		owner, group, reader int
		want                 string
	}{
		{0o600, 1000, 1000, 1000, ""},
		{0o640, 1000, 1000, 1000, "chmod 600"},
		{0o644, 1000, 1000, 1000, "chmod 600"},
		{0o640, 0, 1000, 1000, ""},
		{0o644, 0, 1000, 1000, "chmod 640"},
		{0o640, 0, 1000, 0, ""},
		{0o644, 0, 1000, 0, "chmod 640"},
		{0o644, 0, 0, 0, "chmod 600"},
		{0o440, 0, 0, 1000, ""}, // a credential of systemd, which has an access list
		{0o640, 1001, 1000, 1000, ""},
		{0o604, 1001, 1000, 1000, "chmod 600"},
	} {
		if got := howToClose(tt.mode, tt.owner, tt.group, tt.reader); !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%04o of %d:%d for %d: %q, want %q", tt.mode, tt.owner, tt.group, tt.reader, got, tt.want)
		}
	}
}
