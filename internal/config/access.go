package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// placeholders stand in tokens that somebody meant to replace, and in those that a person would try first.
var placeholders = []string{
	"changeme", "changethis", "replaceme", "replacethis", "placeholder", "yourtoken", "admintoken", "secrettoken", "supersecret",
	"password", "breakwater", "12345678",
}

// tokenFault says what is wrong with an admin token, "" when nothing is.
func tokenFault(token string) string {
	letters := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, token)
	different := map[rune]bool{}
	for _, r := range token {
		different[r] = true
	}
	fault := ""
	switch {
	case strings.ContainsFunc(token, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		fault = "token must have no blanks and line breaks"
	case len(token) < 16:
		fault = "token must have at least 16 characters"
	case len(different) < 5 || slices.ContainsFunc(placeholders, func(p string) bool { return strings.Contains(letters, p) }):
		fault = "token can be guessed"
	default:
		return ""
	}
	return fault + ": make one with openssl rand -hex 32"
}

// ownNetworks are wide, and nobody on the Internet is in them.
var ownNetworks = []netip.Prefix{netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10")}

// checkTrusted refuses networks that are wider than any proxy's: 0.0.0.0/0 stands for everybody.
func (d *decoder) checkTrusted(list []netip.Prefix) {
	for i, p := range list {
		at := fmt.Sprintf("trusted_proxies[%d]", i)
		widest := 20 // content delivery networks have up to a /28
		if p.Addr().Is4() {
			widest = 8
		}
		own := func(n netip.Prefix) bool { return n.Contains(p.Addr()) && n.Bits() <= p.Bits() }
		if p.Bits() < widest && !d.bad[at] && !slices.ContainsFunc(ownNetworks, own) {
			d.fail(at, "%s lets anybody in it claim to be Stripe, by an X-Forwarded-For: name the addresses of your proxies, "+
				"or networks of at most a /%d", p, widest)
		}
	}
}
