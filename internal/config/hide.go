package config

import (
	"cmp"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// hiddenText stands for what is not shown.
const hiddenText = "***"

// onlyReference matches a text that only says where a value comes from: ${SECRET}, but not ${SECRET:-whsec_abc}.
var onlyReference = regexp.MustCompile(`^\$\{[A-Za-z0-9_]+(:-)?\}$|^\$\{file:[^}]*\}$`)

// hasDefault matches what stands before the default of a value that begins with a reference.
var hasDefault = regexp.MustCompile(`^\$\{[A-Za-z0-9_]+:-`)

// show lets excerpts show a single value that is known not to be a secret, but for what is private in it. Everything else
// in a line is masked, so that a secret does not come to light because a mistake put it into the wrong place.
func (d *decoder) show(n *node) {
	text, _, _ := strings.Cut(strings.TrimSpace(n.raw), "\n")
	d.visible[n.at] = text
}

// filled is what one reference was filled in with.
type filled struct{ value, reference, path string }

// quoted matches what is quoted in a problem's text: a name of the file, or an example of ours.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// withoutSecrets puts references back in place of what was filled in for them in a problem's text, and masks what may be
// secret in it. Outside of quotes, values below 8 bytes stay: they may be in the text for another reason.
func (d *decoder) withoutSecrets(text, path string) string {
	text = quoted.ReplaceAllStringFunc(text, func(q string) string {
		name, err := strconv.Unquote(q)
		if err != nil || slices.Contains(d.oddNames, name) {
			return strconv.Quote(hiddenText)
		}
		for _, f := range d.filled {
			if f.path == path && f.value != "" {
				name = strings.ReplaceAll(name, f.value, f.reference)
			}
		}
		return strconv.Quote(masked(name, private(name)))
	})
	for _, f := range slices.SortedFunc(slices.Values(d.filled), func(a, b filled) int { // one may begin like another
		return cmp.Compare(len(b.value), len(a.value))
	}) {
		if len(f.value) >= 8 {
			text = strings.NewReplacer(f.value, f.reference, filepath.Clean(f.value), f.reference).Replace(text)
		}
	}
	return masked(text, nil)
}

// withoutNames masks the odd names in a path.
func (d *decoder) withoutNames(path string) string {
	for _, name := range d.oddNames {
		path = strings.ReplaceAll(path, "."+name, "."+hiddenText)
	}
	return masked(path, nil)
}

// private returns the spans of a value that may be secret although its key holds no secret: a URL's user, password, query
// and fragment, and what follows the first colon where that makes no sense, as in a URL that lost its slashes.
func private(raw string) (spans [][2]int) {
	text := strings.Trim(raw, `"'`)
	if onlyReference.MatchString(text) {
		return nil
	}
	shift := strings.Index(raw, text)
	if m := hasDefault.FindString(text); m != "" { // it is the default that is looked at
		shift, text = shift+len(m), strings.TrimSuffix(text[len(m):], "}")
	}
	hide := func(from, to int) {
		if from < to {
			spans = append(spans, [2]int{shift + from, shift + to})
		}
	}
	scheme := 0
	if i := strings.Index(text, "://"); i >= 0 {
		scheme = i + len("://")
	}
	host := scheme
	if i := strings.LastIndexByte(text, '@'); i > scheme {
		hide(scheme, i)
		host = i + 1
	}
	end := len(text)
	if i := strings.IndexAny(text[host:], "?#"); i >= 0 {
		end = host + i
		hide(end+1, len(text))
	}
	plain := references.ReplaceAllString(text[:scheme]+text[host:end], "1")
	if u, err := url.Parse(plain); (err != nil || u.Host == "") && !plainColon.MatchString(plain) {
		if before, _, found := strings.Cut(text[:end], ":"); found {
			hide(len(before)+1, end)
		}
	}
	return spans
}

// plainColon matches values that have a colon and are no URL: a journal, addresses, networks, names of hosts and ports.
var plainColon = regexp.MustCompile(`^(sqlite:.*|[0-9A-Fa-f.:]+(/\d+)?|[\w.-]*:\d+|\[[0-9A-Fa-f.:]*\]:\d+)$`)

var (
	// looksSecret matches Stripe's secrets and API keys, and a URL's user and password, wherever they stand.
	looksSecret = regexp.MustCompile(`((?:whsec|sk_live|sk_test|rk_live|rk_test)_[A-Za-z0-9_+/=-]+)|://([^\s"']*)@`)
	// looksQuery matches a URL's query.
	looksQuery = regexp.MustCompile(`\?([\w.-]+=[^\s"']*)`)
)

// mask replaces spans of s, and what looks secret in it, with ***. It also returns where the byte at index at has moved.
func mask(s string, at int, spans [][2]int) (string, int) {
	for _, m := range append(looksSecret.FindAllStringSubmatchIndex(s, -1), looksQuery.FindAllStringSubmatchIndex(s, -1)...) {
		for i := 2; i < len(m); i += 2 {
			if m[i] >= 0 { // a group that matched
				spans = append(spans, [2]int{m[i], m[i+1]})
			}
		}
	}
	slices.SortFunc(spans, func(a, b [2]int) int { return cmp.Compare(a[0], b[0]) })
	var out strings.Builder
	done, moved := 0, -1
	write := func(to int) {
		if moved < 0 && at <= to {
			moved = out.Len() + max(at-done, 0)
		}
		out.WriteString(s[done:to])
		done = to
	}
	for i := 0; i < len(spans); {
		start, end := spans[i][0], spans[i][1]
		for i++; i < len(spans) && spans[i][0] <= end; i++ {
			end = max(end, spans[i][1])
		}
		write(start)
		if moved < 0 && at < end {
			moved = out.Len()
		}
		out.WriteString(hiddenText)
		done = end
	}
	write(len(s))
	return out.String(), moved
}

func masked(s string, spans [][2]int) string {
	s, _ = mask(s, 0, spans)
	return s
}

var (
	comment = regexp.MustCompile(`(?:^|[\s"'\]},])#\s*`)
	word    = regexp.MustCompile(`[^\s:,{}"'*&|>#\[\]]+`)
)

// hidden returns the spans of a line that an excerpt must not show: every word that is neither one of our keys nor part of
// a value known to be no secret, what is private in such a value, and comments, which may hold what was a value once.
func (d *decoder) hidden(line string, number int) [][2]int {
	var visible, hide [][2]int
	for at, text := range d.visible {
		if start := byteOffset(line, at.col); at.line == number && strings.HasPrefix(line[start:], text) {
			visible = append(visible, [2]int{start, start + len(text)})
			for _, p := range private(text) {
				hide = append(hide, [2]int{start + p[0], start + p[1]})
			}
		}
	}
	inside := func(at int) bool {
		return slices.ContainsFunc(visible, func(v [2]int) bool { return v[0] <= at && at < v[1] })
	}
	for _, m := range word.FindAllStringIndex(line, -1) {
		text := line[m[0]:m[1]]
		if !inside(m[0]) && strings.Trim(text, "-?<") != "" && belongs(text) == "" {
			hide = append(hide, [2]int{m[0], m[1]})
		}
	}
	for _, m := range comment.FindAllStringIndex(line, -1) {
		if !inside(m[1] - 1) {
			return append(hide, [2]int{m[1], len(line)})
		}
	}
	return hide
}
