package config

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Severity says how much a Problem matters.
type Severity string

const (
	Error   Severity = "error"   // the file cannot be used
	Warning Severity = "warning" // it can, but probably not as meant
	Advice  Severity = "hint"    // only worth a line when somebody asks, as `check` does
)

// Problem is something wrong or odd in a file, and where. It shows no secret.
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

// maxProblems keeps a file that is no routes.yaml at all from filling the screen.
const maxProblems = 100

// report returns the problems in the file's order, with excerpts, and without anything secret.
func (d *decoder) report(file string, src []byte) Problems {
	lines := linesOf(bytes.TrimPrefix(src, []byte("\ufeff")))
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	d.problems = slices.CompactFunc(d.problems, func(a, b Problem) bool { // what several aliases name is told once
		return a.Line == b.Line && a.Column == b.Column && a.Text == b.Text
	})
	if more := len(d.problems) - maxProblems; more > 0 {
		last := d.problems[maxProblems-1]
		last.Path, last.Severity, last.Text = "", Warning, fmt.Sprintf("and %d more problems", more+1)
		if len(d.problems[maxProblems-1:].errors()) > 0 {
			last.Severity = Error
		}
		d.problems = append(d.problems[:maxProblems-1], last)
	}
	for i := range d.problems {
		p := &d.problems[i]
		p.File = file
		p.Text = d.withoutSecrets(p.Text, p.Path)
		p.Path = d.withoutNames(p.Path)
		if p.Line > 0 && p.Line <= len(lines) {
			p.Excerpt = d.excerpt(lines[p.Line-1], p.Line, p.Column)
		}
	}
	return d.problems
}

// linesOf splits a file as the YAML parser does: a carriage return alone ends a line too.
func linesOf(src []byte) []string {
	return strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(src)), "\n")
}

const excerptWidth = 100

// excerpt returns a line with its number, and a second line with a caret below the column.
func (d *decoder) excerpt(line string, number, col int) string {
	spans := d.hidden(line, number)
	text, caret := mask(line, byteOffset(line, col), spans)
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

// byteOffset returns where a column of line begins, or the line's end when it has fewer columns.
func byteOffset(line string, col int) int {
	for i := range line {
		if col--; col <= 0 {
			return i
		}
	}
	return len(line)
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

// didYouMean returns `; did you mean "x"?`, or nothing when no name is near.
func didYouMean(name string, names []string) string {
	if guess := nearest(name, names); guess != "" {
		return fmt.Sprintf("; did you mean %q?", guess)
	}
	return ""
}

// nearest returns the one of names that name was most likely meant to be, "" when none is as near as one edit or a third
// of its letters: legcay was meant to be legacy.
func nearest(name string, names []string) string {
	best, limit := "", max(1, utf8.RuneCountInString(name)/3)
	plain := func(s string) string { return strings.ToLower(strings.NewReplacer("-", "_", " ", "_").Replace(s)) }
	for _, candidate := range names {
		if d := edits(plain(name), plain(candidate)); d <= limit && utf8.RuneCountInString(name) > 1 {
			best, limit = candidate, d-1
		}
	}
	return best
}

// edits counts how many letters to insert, delete, replace, or swap with their neighbour turn a into b (the optimal string
// alignment distance).
func edits(a, b string) int {
	x, y := []rune(a), []rune(b)
	if len(x) > 64 || len(y) > 64 {
		return 64
	}
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(x)][len(y)]
}

// belongs says where in the file a key has its place, as "under admin" for token; "" when it is no key anywhere.
func belongs(key string) string { return keyPlaces()[key] }

var keyPlaces = sync.OnceValue(func() map[string]string {
	places := map[string]string{}
	eachKey(reflect.TypeFor[document](), reflect.Value{}, "", func(path string, f reflect.StructField, _ reflect.Value) {
		if key := f.Tag.Get("yaml"); places[key] == "" { // the first place of a key that is in several
			places[key] = "under " + strings.TrimSuffix(strings.TrimSuffix(path, key), ".")
			if path == key {
				places[key] = "at the top"
			}
		}
	})
	return places
})

func oneOf(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func lowerFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[n:]
}
