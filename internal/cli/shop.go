package cli

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// shop is both ends of the demo: it sends the events, is the backend that gets them, and knows what was lost.
type shop struct {
	out io.Writer

	mu     sync.Mutex
	down   bool
	events map[string]*sent
	others int // events that somebody else sent
}

// sent is an event on its way.
type sent struct {
	typ       string
	hash      [sha256.Size]byte
	at        time.Time
	answered  bool // with a 2xx
	delivered bool
	damaged   bool // other bytes, or a signature that the backend does not believe
	late      bool // delivered, but not while Stripe was waiting
}

func newShop(out io.Writer) *shop {
	return &shop{out: out, events: map[string]*sent{}}
}

// say prints a line of the story; s.mu is held.
func (s *shop) say(p paint, format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	if coloured(s.out) {
		text = painted(text, p)
	}
	fmt.Fprintf(s.out, "%s  %s\n", time.Now().Format("15:04:05"), text)
}

func (s *shop) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case down == s.down:
	case down:
		s.say(red, "--- the backend goes down ---")
	default:
		s.say(green, "--- the backend is back ---")
	}
	s.down = down
}

// send sends one event, as Stripe does, and tells how it was answered.
func (s *shop) send(req *http.Request, ev toystripe.Event) {
	e := &sent{typ: ev.Type, hash: sha256.Sum256(ev.Body), at: time.Now()}
	s.mu.Lock()
	s.events[ev.ID] = e
	s.mu.Unlock()

	status := 0
	res, err := http.DefaultClient.Do(req)
	if err == nil {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		status = res.StatusCode
	}
	took := time.Since(e.at).Round(time.Millisecond)

	s.mu.Lock()
	defer s.mu.Unlock()
	e.answered = status/100 == 2
	switch {
	case err != nil:
		s.say(red, "%-32s %s  no answer: %v", ev.Type, ev.ID, err)
	case !e.answered:
		s.say(red, "%-32s %s  Stripe got %d after %v", ev.Type, ev.ID, status, took)
	case e.delivered:
		s.say(plain, "%-32s %s  delivered; Stripe got %d after %v", ev.Type, ev.ID, status, took)
	default:
		s.say(yellow, "%-32s %s  kept; Stripe got %d after %v", ev.Type, ev.ID, status, took)
	}
}

// ServeHTTP is the backend. It checks signatures as Stripe's own libraries do: with a tolerance of five minutes.
func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, bad := stripe.Verify(body, r.Header.Values("Stripe-Signature"), []string{demoSecret}, 5*time.Minute, time.Now())
	id := r.Header.Get("Breakwater-Event-Id")

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		http.Error(w, "closed for repairs", http.StatusServiceUnavailable)
		return
	}
	e := s.events[id]
	if e == nil {
		s.others++
		s.say(plain, "%-32s %s  delivered; it is not one of ours", "(sent by you)", id)
		fmt.Fprintln(w, "ok")
		return
	}
	e.damaged = e.damaged || bad != nil || sha256.Sum256(body) != e.hash
	first := !e.delivered
	e.delivered = true
	if r.Header.Get("Breakwater-Trigger") != "inline" && first {
		e.late = true
		how := ""
		if r.Header.Get("Breakwater-Original-Signature") != "" {
			how = ", signed afresh"
		}
		s.say(green, "%-32s %s  delivered %v late%s", e.typ, id, time.Since(e.at).Round(100*time.Millisecond), how)
	}
	fmt.Fprintln(w, "ok")
}

// finish repairs the backend and waits until everything that is owed has come, or too long.
func (s *shop) finish() {
	s.setDown(false)
	for deadline := time.Now().Add(demoFinish); time.Now().Before(deadline) && s.owed() > 0; {
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *shop) owed() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.answered && !e.delivered {
			n++
		}
	}
	return n
}

// tally prints the sum. An event that was answered 2xx and has not come, or not as it was sent, is lost.
func (s *shop) tally() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var answered, delivered, late, lost int
	for _, e := range s.events {
		if e.answered {
			answered++
			if !e.delivered || e.damaged {
				lost++
			}
		}
		if e.delivered {
			delivered++
		}
		if e.late {
			late++
		}
	}
	fmt.Fprintf(s.out, "\nsent %d, answered 2xx %d, delivered %d (%d of them late), lost %d\n",
		len(s.events), answered, delivered, late, lost)
	if lost > 0 {
		return fmt.Errorf("%d events were answered 2xx and did not reach the backend as they were sent", lost)
	}
	return nil
}
