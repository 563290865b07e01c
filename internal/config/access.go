package config

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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

// openToOthers says that other users can read or change a file, and what to do; "" when they cannot, or it is not known.
func openToOthers(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	of, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	mode := info.Mode().Perm()
	remedy := howToClose(mode, int(of.Uid), int(of.Gid), os.Geteuid())
	if remedy == "" {
		return ""
	}
	return fmt.Sprintf("can be read by other users (mode %04o): %s", mode, remedy)
}

// howToClose says how to close a file to others, "" when it is closed. Its group may read it where it does not belong to
// the reader, or to root: that is how a service is given a file.
func howToClose(mode fs.FileMode, owner, group, reader int) string {
	open := mode & 0o007
	if owner == reader && owner != 0 {
		open |= mode & 0o070
	}
	switch {
	case open == 0:
		return ""
	case mode&0o070 != 0 && (owner != reader || owner == 0 && group != 0):
		return "chmod 640, in the gateway's group"
	}
	return "chmod 600"
}

// checkSecret warns of a secret that stands where other users can read it.
func (d *decoder) checkSecret(n *node, path string) {
	refs := references.FindAllString(n.text, -1)
	if n.text != "" && refs == nil {
		d.literal = true
	}
	for _, ref := range refs {
		name, ok := strings.CutPrefix(strings.Trim(ref, "${}"), "file:")
		if _, def, found := strings.Cut(ref, ":-"); !ok && found && def != "}" {
			d.literal = true
		}
		if !ok {
			continue
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(d.dir, name)
		}
		if text := openToOthers(name); text != "" {
			d.add(n.at, path, Warning, filepath.Base(name)+" "+text)
		}
	}
}
