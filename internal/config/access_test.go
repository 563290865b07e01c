package config

import (
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
