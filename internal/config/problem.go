package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Severity says how much a Problem matters.
type Severity string

const (
	Error   Severity = "error"   // the file cannot be used
	Warning Severity = "warning" // it can, but probably not as meant
	Hint    Severity = "hint"    // worth a line when somebody asks, as `check` does
)

// Problem is something wrong with a file, and where. It shows no secret.
type Problem struct {
	File     string   `json:"file"`
	Line     int      `json:"line,omitempty"`   // from 1; 0 when it is about the file as a whole
	Column   int      `json:"column,omitempty"` // in characters, from 1
	Path     string   `json:"path,omitempty"`   // "routes[2].to[0]"; empty when there is none, as for an unknown key
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	Excerpt  string   `json:"excerpt,omitempty"` // the line, and a second one with a caret below the place
}

// String returns the problem as compilers do, FILE:LINE:COL: TEXT, and the excerpt on lines of its own.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d:%d", p.Line, p.Column)
	}
	if p.Severity != Error {
		s += ": " + string(p.Severity)
	}
	s += ": " + p.Text
	if p.Excerpt != "" {
		s += "\n" + p.Excerpt
	}
	return s
}

// Problems are what is wrong with a file, in its order.
type Problems []Problem

// Error returns all of them, one below the other.
func (ps Problems) Error() string {
	texts := make([]string, len(ps))
	for i, p := range ps {
		texts[i] = p.String()
	}
	return strings.Join(texts, "\n")
}

func (ps Problems) errors() Problems {
	return slices.DeleteFunc(slices.Clone(ps), func(p Problem) bool { return p.Severity != Error })
}

// report returns the problems in the file's order, with excerpts, and without anything secret.
func (d *decoder) report(file string, src []byte) Problems {
	lines := strings.Split(strings.ReplaceAll(strings.TrimPrefix(string(src), "\ufeff"), "\r\n", "\n"), "\n")
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	for i := range d.problems {
		p := &d.problems[i]
		p.File = file
		p.Text, _ = mask(d.unfill(p.Text), 0, nil)
		p.Path, _ = mask(p.Path, 0, nil)
		if p.Line > 0 && p.Line <= len(lines) {
			p.Excerpt = d.excerpt(lines, p.Line, p.Column)
		}
	}
	return slices.CompactFunc(d.problems, func(a, b Problem) bool { return a == b })
}

// unfill puts references back for what was filled in. Short values are left: they are no secrets, and may stand for
// something else in the text.
func (d *decoder) unfill(text string) string {
	for value, ref := range d.filled {
		if len(value) >= 8 {
			text = strings.ReplaceAll(text, value, ref)
		}
	}
	return text
}

const excerptWidth = 100

// excerpt returns a line with its number, and a caret below the column.
func (d *decoder) excerpt(lines []string, number, col int) string {
	line := lines[number-1]
	spans := [][2]int{}
	for _, secret := range d.hidden[number] {
		for at := 0; ; {
			i := strings.Index(line[at:], secret)
			if i < 0 {
				break
			}
			spans = append(spans, [2]int{at + i, at + i + len(secret)})
			at += i + len(secret)
		}
	}
	if d.syntax {
		spans = append(spans, guessSecrets(lines, number)...)
	}
	caret := 0
	for range min(col-1, utf8.RuneCountInString(line)) {
		_, n := utf8.DecodeRuneInString(line[caret:])
		caret += n
	}
	text, caret := mask(line, caret, spans)
	before, after := []rune(text[:caret]), []rune(text[caret:])
	if len(before) > excerptWidth {
		before = append([]rune("..."), before[len(before)-excerptWidth:]...)
	}
	if len(after) > excerptWidth {
		after = append(after[:excerptWidth:excerptWidth], []rune("...")...)
	}
	pad := make([]rune, len(before))
	for i, r := range before {
		pad[i] = ' '
		if r == '\t' {
			pad[i] = r
		}
	}
	gutter := fmt.Sprintf("%5d", number)
	return fmt.Sprintf("%s | %s%s\n%s | %s^", gutter, printable(before), printable(after), strings.Repeat(" ", len(gutter)), string(pad))
}

// printable keeps a file from steering the terminal that shows it.
func printable(s []rune) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' || unicode.Is(unicode.Cf, r) {
			return '?'
		}
		return r
	}, string(s))
}

// looksSecret matches Stripe's secrets and API keys, and the user and password of a URL, wherever they stand.
var looksSecret = regexp.MustCompile(`(?:whsec|sk_live|sk_test|rk_live|rk_test)_[^\s"',\]}]+|://[^\s"']*@`)

// mask replaces spans of s, and what looks secret in it, by ***. It returns where the byte at place is afterwards.
func mask(s string, at int, spans [][2]int) (string, int) {
	for _, m := range looksSecret.FindAllStringIndex(s, -1) {
		spans = append(spans, [2]int{m[0], m[1]})
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
		out.WriteString("***")
		done = end
	}
	write(len(s))
	return out.String(), moved
}

var (
	secretWord = regexp.MustCompile(`(?i)secret|token|password|header|auth|key|cookie|journal`)
	longWord   = regexp.MustCompile(`[A-Za-z0-9_+/=-]{12,}`)
)

// guessSecrets finds what may be secret in a line of a file that could not be parsed: every longer word that is no key of
// ours, and everything behind a key that speaks of secrets, or below one.
func guessSecrets(lines []string, number int) [][2]int {
	line := lines[number-1]
	indent := func(s string) int { return len(s) - len(strings.TrimLeft(s, " \t-")) }
	for i, depth := number-2, indent(line); i >= 0 && depth > 0; i-- {
		if strings.TrimSpace(lines[i]) == "" || indent(lines[i]) >= depth {
			continue
		}
		depth = indent(lines[i])
		if secretWord.MatchString(lines[i]) {
			return [][2]int{{indent(line), len(line)}}
		}
	}
	var spans [][2]int
	if m := secretWord.FindStringIndex(line); m != nil {
		if i := strings.IndexAny(line[m[1]:], " \t:"); i >= 0 {
			spans = append(spans, [2]int{m[1] + i + 1, len(line)})
		}
	}
	for _, m := range longWord.FindAllStringIndex(line, -1) {
		if belongs(line[m[0]:m[1]]) == "" {
			spans = append(spans, [2]int{m[0], m[1]})
		}
	}
	return spans
}
