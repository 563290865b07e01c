package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

const (
	maxShownEvents = 20 // listed one by one; more are only counted
	maxAnswers     = 50 // different ones; more are counted together
	maxExcerpt     = 60 // characters
)

// sendReport counts answers. Its methods may be called at the same time.
type sendReport struct {
	total   int
	all     bool // every event, not the first only
	started time.Time

	mu      sync.Mutex
	answers map[answerKey][]time.Duration
	events  []sentEvent
	done    int
	failed  int
}

type answerKey struct {
	status int // 0 when there was no answer
	text   string
}

// sentEvent is one request and its answer; send --json prints them.
type sentEvent struct {
	ID     string  `json:"id"`
	Type   string  `json:"type"`
	Status int     `json:"status"` // 0: no answer
	Answer string  `json:"answer"`
	Millis float64 `json:"ms"`
}

// sentAnswers is one line of the table.
type sentAnswers struct {
	Status int     `json:"status"` // 0: no answer
	Answer string  `json:"answer"` // its body's beginning, or what went wrong
	Count  int     `json:"count"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
}

func newSendReport(total int, all bool) *sendReport {
	return &sendReport{total: total, all: all, started: time.Now(), answers: map[answerKey][]time.Duration{}, events: []sentEvent{}}
}

func (r *sendReport) add(ev toystripe.Event, status int, text string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
	if !is2xx(status) {
		r.failed++
	}
	k := answerKey{status, text}
	if _, known := r.answers[k]; !known && len(r.answers) >= maxAnswers {
		k.text = "(other answers)"
	}
	r.answers[k] = append(r.answers[k], took)
	if r.all || len(r.events) < maxShownEvents {
		r.events = append(r.events, sentEvent{ev.ID, ev.Type, status, text, millis(took)})
	}
}

// anyAnswer reports whether anything has answered yet.
func (r *sendReport) anyAnswer() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done > 0
}

// counts returns how many were answered 2xx and how many were not, with the most frequent status of the latter.
func (r *sendReport) counts() (good, bad, status int) {
	for _, a := range r.rows() {
		if !is2xx(a.Status) {
			return r.done - r.failed, r.failed, a.Status
		}
	}
	return r.done, 0, 0
}

// rows returns the table, the most frequent answer first.
func (r *sendReport) rows() []sentAnswers {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := []sentAnswers{}
	for k, took := range r.answers {
		took = slices.Sorted(slices.Values(took))
		rows = append(rows, sentAnswers{k.status, k.text, len(took), millis(percentile(took, 50)), millis(percentile(took, 99))})
	}
	slices.SortFunc(rows, func(a, b sentAnswers) int {
		return cmp.Or(b.Count-a.Count, a.Status-b.Status, strings.Compare(a.Answer, b.Answer))
	})
	return rows
}

// write prints the events, where they are few, and the table.
func (r *sendReport) write(w io.Writer, colour bool) error {
	var b strings.Builder
	if r.done <= maxShownEvents {
		for _, e := range r.events {
			fmt.Fprintf(&b, "%s  %s\n", e.ID, e.Type)
		}
		if len(r.events) > 0 {
			b.WriteByte('\n')
		}
	}
	rows := r.rows()
	width := len("ANSWER")
	for _, a := range rows {
		width = max(width, utf8.RuneCountInString(a.Answer))
	}
	fmt.Fprintf(&b, "STATUS  %-*s  %7s  %8s  %8s\n", width, "ANSWER", "COUNT", "P50", "P99")
	for _, a := range rows {
		status := fmt.Sprintf("%-6d", a.Status)
		if a.Status == 0 {
			status = fmt.Sprintf("%-6s", "-")
		}
		if colour {
			status = painted(status, map[bool]paint{true: green, false: red}[is2xx(a.Status)])
		}
		fmt.Fprintf(&b, "%s  %-*s  %7d  %8s  %8s\n", status, width, a.Answer, a.Count, shortMillis(a.P50), shortMillis(a.P99))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *sendReport) writeJSON(w io.Writer) error {
	return writeJSON(w, struct {
		Sent    int           `json:"sent"`
		Failed  int           `json:"failed"`
		Answers []sentAnswers `json:"answers"`
		Events  []sentEvent   `json:"events"`
	}{r.done, r.failed, r.rows(), r.events})
}

// excerpt returns the first line of an answer's body without what differs from event to event.
func excerpt(body []byte, id string) string {
	text, _, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(string(body), id, "evt_...")), "\n")
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7F || c == utf8.RuneError {
			return '.'
		}
		return c
	}, text)
	if runes := []rune(text); len(runes) > maxExcerpt {
		return string(runes[:maxExcerpt-3]) + "..."
	}
	return text
}

// percentile returns the nearest rank of p percent among sorted.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[max((len(sorted)*p+99)/100, 1)-1]
}

func is2xx(status int) bool { return status/100 == 2 }

// millis rounds to hundredths: what a person, or a script's comparison, can use.
func millis(d time.Duration) float64 { return float64(d.Round(10*time.Microsecond)) / 1e6 }

func shortMillis(ms float64) string {
	if ms >= 10_000 {
		return fmt.Sprintf("%.1fs", ms/1000)
	}
	return fmt.Sprintf("%.1fms", ms)
}

// showProgress draws a bar on w while r fills, where w is a terminal and there is something to wait for. The returned
// function wipes it.
func showProgress(w io.Writer, r *sendReport) (hide func()) {
	if r.total < 2 || !isTerminal(w) {
		return func() {}
	}
	stop := make(chan struct{})
	var drawing sync.WaitGroup
	drawing.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case <-tick.C:
				fmt.Fprintf(w, "\r%s\x1b[K", r.bar(time.Since(r.started), coloured(w)))
			}
		}
	})
	return func() {
		close(stop)
		drawing.Wait()
	}
}

// bar is one line such as [######----------------]  300/1000  212/s  3 not 2xx
func (r *sendReport) bar(since time.Duration, colour bool) string {
	const width = 30
	r.mu.Lock()
	done, failed := r.done, r.failed
	r.mu.Unlock()
	full := width * done / r.total
	bar := strings.Repeat("#", full)
	if colour {
		bar = painted(bar, green)
	}
	line := fmt.Sprintf("[%s%s]  %d/%d  %.0f/s", bar, strings.Repeat("-", width-full), done, r.total, float64(done)/max(since.Seconds(), 0.001))
	if failed > 0 {
		line += fmt.Sprintf("  %d not 2xx", failed)
	}
	return line
}
