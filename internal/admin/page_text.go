package admin

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
)

// run is a piece of text: as it is, or a name for what cannot be seen.
type run struct {
	Text string
	Mark bool
}

// visible splits text that somebody else wrote so that nothing in it hides or turns the rest around: control
// characters, those that change the direction of writing, those without width, and bytes that are no text are named.
// Line breaks and tabs stay.
func visible(s string) []run {
	var out []run
	from := 0
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		name := ""
		switch {
		case r == utf8.RuneError && n == 1:
			name = fmt.Sprintf("\\x%02X", s[i])
		case hidden(r):
			name = fmt.Sprintf("U+%04X", r)
		}
		if name != "" {
			if from < i {
				out = append(out, run{Text: s[from:i]})
			}
			out = append(out, run{name, true})
			from = i + n
		}
		i += n
	}
	if from < len(s) {
		out = append(out, run{Text: s[from:]})
	}
	return out
}

// hidden reports whether r is seen as nothing, or changes how other characters are seen.
func hidden(r rune) bool {
	switch {
	case r == '\n', r == '\t':
		return false
	case r == '\r':
		return true
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co) || r == '\u3164' || r == '\u2800'
}

// clip makes one line of at most n characters.
func clip(n int, s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, s[:min(len(s), 4*n+4)])
	for i := range s {
		if n--; n < 0 {
			return strings.ToValidUTF8(s[:i], "\uFFFD") + "…"
		}
	}
	return s
}

// size prints a number of bytes.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// short prints a duration in its largest unit: what one says, not what one measures.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", max(d.Milliseconds(), 0))
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// took prints how long an attempt lasted.
func took(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// moment is a time as pages show it. Its zero value is no time.
type moment struct {
	ISO   string // for machines
	Full  string // 2026-11-21 14:03:12.345
	Clock string // 14:03, with the date when it is not today's
	Ago   string // 4 min; for a time to come the same, without a sign
	Soon  bool   // it is to come
}

func (v *view) when(t time.Time) moment {
	if t.IsZero() || t.Unix() == 0 {
		return moment{}
	}
	m := moment{
		ISO: t.UTC().Format(time.RFC3339Nano), Full: t.In(v.zone).Format("2006-01-02 15:04:05.000"), Clock: conditions.Clock(t, v.now, v.zone),
	}
	d := v.now.Sub(t)
	m.Soon = d < 0
	m.Ago = short(d.Abs().Round(time.Second))
	if d.Abs() < time.Second {
		m.Ago = "now"
	}
	return m
}
