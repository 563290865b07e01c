package proxy

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// leastAttempts is how many attempts a turn gets however long they take to come round: a give_up_after that ends
// during one long outage must not fail an event that was hardly tried.
const leastAttempts = 10

// settlement says what an attempt means for its delivery: done, again later, or given up. What the delivery waited beyond
// its due time, it waited for us (pause, open breaker, rate, a stop): that does not count towards give_up_after.
func (b *backend) settlement(l Leased, o Outcome, leasedAt time.Time) Settlement {
	retry := b.target.Load().Retry
	ended := o.Started.Add(o.Duration)
	n := l.Attempts + 1
	started := l.TurnStarted
	if started.IsZero() {
		started = o.Started
	} else if waited := leasedAt.Sub(l.Due); waited > 0 {
		started = started.Add(waited)
	}
	switch {
	case o.Outcome == OutcomeDelivered:
		return SettleDelivered(l, o.Attempt)
	case o.Outcome != OutcomeInterrupted && n >= leastAttempts && ended.Sub(started) >= retry.GiveUpAfter:
		return SettleFailed(l, o.Attempt)
	}
	return SettleRetry(l, o.Attempt, ended.Add(retry.after(n, o.RetryAfter)), started)
}

// backoff returns how long a delivery waits after its n-th failed attempt (1 for the first): a random time up to
// Initial doubled n-1 times, at most Max. Full jitter spreads the retries of an outage best
// (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
func (r Retry) backoff(n int) time.Duration {
	limit := r.Initial
	for ; n > 1 && limit < r.Max; n-- {
		limit *= 2
	}
	return rand.N(min(limit, r.Max) + 1)
}

// after is backoff with what the backend asked for in Retry-After, clamped to [backoff, Max].
func (r Retry) after(n int, asked time.Duration) time.Duration {
	return max(r.backoff(n), min(asked, r.Max))
}

// retryAfter reads a Retry-After header: seconds, or a date (RFC 9110, section 10.2.3). It returns 0 when there is none
// that makes sense.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if s, err := strconv.ParseInt(v, 10, 32); err == nil {
		return max(0, time.Duration(s)*time.Second)
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}
