package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
	"golang.org/x/text/width"
)

// screen is where a command shows what it was asked for.
type screen struct {
	w      io.Writer
	width  int // columns; 0: no terminal, lines may be as long as they are
	colour bool
	now    time.Time
}

func newScreen(w io.Writer) screen {
	s := screen{w: w, colour: coloured(w), now: time.Now()}
	if f, ok := w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil {
			s.width = columns
		}
	}
	return s
}

// paint is the parameter of the terminal's colour sequence. Colour is never the only sign: each state has its word.
type paint string

const (
	plain  paint = ""
	bold   paint = "1"
	dim    paint = "2"
	red    paint = "31"
	green  paint = "32"
	yellow paint = "33"
)

// cell is a piece of text that is safe to show: say makes it.
type cell struct {
	text  string
	paint paint
}

// say makes s a cell; an empty one is shown as a dash.
func say(s string, p paint) cell {
	if s == "" {
		return cell{"-", dim}
	}
	return cell{visible(s), p}
}

// visible spells out everything in s that a terminal would act on or that hides what stands there: control characters
// and escape sequences, bidirectional and zero-width characters, broken UTF-8. What strangers wrote (payloads, answers
// of backends) is shown only through it.
func visible(s string) string {
	var b []byte
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b = fmt.Appendf(b, `\x%02x`, s[0])
		case shows(r):
			b = append(b, s[:n]...)
		default:
			quoted := strconv.AppendQuoteRuneToASCII(nil, r)
			b = append(b, quoted[1:len(quoted)-1]...)
		}
		s = s[n:]
	}
	return string(b)
}

// shows reports whether a character is seen as itself. Two that are called letters and symbols are blank.
func shows(r rune) bool { return strconv.IsPrint(r) && r != '\u3164' && r != '\u2800' }

// columns returns how many columns of a terminal s takes.
func columns(s string) (n int) {
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	if r < utf8.RuneSelf {
		return 1
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	default:
		return 1
	}
}

// cut shortens s to at most n columns, with an ellipsis where something is missing.
func cut(s string, n int) string {
	if columns(s) <= n {
		return s
	}
	n-- // for the ellipsis
	for i, r := range s {
		if n -= runeColumns(r); n < 0 {
			return s[:i] + "…"
		}
	}
	return s
}

// table is a list in columns. On a terminal a row takes one line: the columns named in shrink become narrower, in that
// order; where that is not enough, those named in drop are left out, one after the other; the rest is cut at the edge.
type table struct {
	head    []string
	numbers []int // columns whose cells are aligned to the right
	shrink  []int
	drop    []int
	rows    [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

const (
	columnGap = "  "
	narrowest = 16 // columns that a cell keeps, if it needs them
)

func (t *table) write(s screen) error {
	widths := t.widths(s.width)
	var b strings.Builder
	head := make([]cell, len(t.head))
	for i, h := range t.head {
		head[i] = cell{h, dim}
	}
	t.row(&b, s, head, widths)
	for _, cells := range t.rows {
		t.row(&b, s, cells, widths)
	}
	_, err := io.WriteString(s.w, b.String())
	return err
}

// widths returns how wide each column is, 0 for one left out, given that a line may have limit columns (0: any).
func (t *table) widths(limit int) []int {
	full := make([]int, len(t.head))
	for i, h := range t.head {
		full[i] = columns(h)
		for _, cells := range t.rows {
			full[i] = max(full[i], columns(cells[i].text))
		}
	}
	for dropped := 0; ; dropped++ {
		widths := slices.Clone(full)
		total := (len(full) - dropped - 1) * len(columnGap)
		for _, i := range t.drop[:dropped] {
			widths[i] = 0
		}
		for _, n := range widths {
			total += n
		}
		for _, i := range t.shrink {
			if less := min(total-limit, widths[i]-max(narrowest, columns(t.head[i]))); less > 0 && limit > 0 {
				widths[i] -= less
				total -= less
			}
		}
		if limit == 0 || total <= limit || dropped == len(t.drop) {
			return widths
		}
	}
}

func (t *table) row(b *strings.Builder, s screen, cells []cell, widths []int) {
	var line strings.Builder
	left := s.width
	for i, c := range cells {
		if widths[i] == 0 {
			continue
		}
		text := cut(c.text, widths[i])
		pad := strings.Repeat(" ", widths[i]-columns(text))
		before, after := "", pad
		if slices.Contains(t.numbers, i) {
			before, after = pad, ""
		}
		after += columnGap
		if s.width > 0 {
			if left <= len(before) {
				break
			}
			text = cut(text, left-len(before))
			left -= len(before) + columns(text) + len(after)
		}
		line.WriteString(before + s.painted(cell{text, c.paint}) + after)
	}
	b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
}

// painted returns text in its colour, where colours are shown.
func (s screen) painted(c cell) string {
	if !s.colour {
		return c.text
	}
	return painted(c.text, c.paint)
}

func painted(text string, p paint) string {
	if p == plain || text == "" {
		return text
	}
	return "\x1b[" + string(p) + "m" + text + "\x1b[0m"
}

// ago says how long before now t was, in one unit; "" for no time.
func (s screen) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return short(s.now.Sub(t))
}

// short says d in the unit that suits it: 12s, 4m, 7h, 3d.
func short(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// clock is a time as people compare it with their own logs: local, to the millisecond, with its zone.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05.000 MST")
}

// before is ago for a sentence or a column of its own: "4m ago", "" for never.
func (s screen) before(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return s.ago(t) + " ago"
}
