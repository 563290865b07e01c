package quarantine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/internal/toystripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestStripeIPs(t *testing.T) {
	t.Parallel()
	list := StripeIPs()
	if len(list) != 12 || !slices.Contains(list, netip.MustParsePrefix("54.187.216.72/32")) {
		t.Errorf("%v", list)
	}
	for _, p := range list {
		if !p.IsSingleIP() || p.Addr().IsPrivate() {
			t.Errorf("%v is no address of Stripe's", p)
		}
	}
}

func TestKeepFromStripeOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := request(invoice())
	if !b.keep(r) {
		t.Fatal("from Stripe: not kept")
	}
	for _, from := range []string{"3.18.12.64", "127.0.0.1", "::1", ""} {
		r.Client, _ = netip.ParseAddr(from)
		if b.keep(r) {
			t.Errorf("from %q: kept", from)
		}
	}
	b.cfg.Addresses = nil
	b.Use(b.cfg)
	r.Client = stripeAddr
	if b.keep(r) {
		t.Error("without stripe_ips: kept")
	}
	if s := b.Stats(); s.On || s.Items != 1 {
		t.Errorf("%+v; want it off, with the one that is kept", s)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		r := request(make([]byte, 1000))
		b.cfg.MaxBytes, b.cfg.Rate = 3*size(&r), 2
		b.Use(b.cfg)
		var got []bool
		for range 3 {
			got = append(got, b.keep(r))
		}
		if want := []bool{true, true, false}; !slices.Equal(got, want) {
			t.Errorf("at 2 a second: %v, want %v", got, want)
		}
		time.Sleep(time.Second)
		b.store.fail["Keep"] = errDisk
		if kept, err := b.Keep(t.Context(), r, never); kept || !errors.Is(err, errDisk) {
			t.Errorf("%t, %v; want the store's error", kept, err)
		}
		b.store.fail["Keep"] = nil
		if !b.keep(r) {
			t.Error("what the store did not take still takes room")
		}
		time.Sleep(time.Second)
		if b.keep(r) {
			t.Error("full, and kept")
		}
		small := request(nil)
		if b.keep(small) {
			t.Error("an empty body takes no room")
		}
		if n, err := b.Drop(t.Context(), 1, 77); n != 1 || err != nil {
			t.Errorf("dropped %d, %v", n, err)
		}
		time.Sleep(time.Second)
		if !b.keep(r) {
			t.Error("room was made, and not kept")
		}
		if lines := b.logs.FilterMessageSnippet("answered 400").Len(); lines != 2 {
			t.Errorf("%d lines in the log, want one for the rate and one for the room", lines)
		}
		if s := b.Stats(); !s.TurnedAway.Equal(time.Now().Add(-time.Second)) {
			t.Errorf("last turned away at %v, want a second ago", s.TurnedAway)
		}
	})
}

// A restart knows how much is kept.
func TestBoundsAfterARestart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := request(invoice())
	b.keep(r)
	again, err := New(t.Context(), b.Options)
	if err != nil {
		t.Fatal(err)
	}
	b.cfg.MaxBytes = size(&r) + 1
	again.Use(b.cfg)
	if kept, err := again.Keep(t.Context(), r, never); kept || err != nil {
		t.Errorf("%t, %v; want it full", kept, err)
	}
	b.store.fail["Size"] = errDisk
	if _, err := New(t.Context(), b.Options); !errors.Is(err, errDisk) {
		t.Errorf("got %v", err)
	}
}

// A count that begins before a request is stored and ends after it was reserved must not forget it.
func TestCountBesideKeep(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	reading, read := make(chan struct{}), make(chan struct{})
	b.store.onSize = func() { close(reading); <-read }
	counted, kept := make(chan struct{}), make(chan struct{})
	go func() { defer close(counted); b.count(t.Context()) }()
	<-reading
	go func() { defer close(kept); b.Keep(t.Context(), request(invoice()), never) }()
	select {
	case <-kept: // too early: the count does not know of it
	case <-time.After(50 * time.Millisecond):
	}
	close(read)
	<-counted
	<-kept
	if s := b.Stats(); s.Items != 1 || s.Bytes == 0 || s.Oldest.IsZero() {
		t.Errorf("%+v, want the one that is kept", s)
	}
}

// Where a 2xx would say more than "kept", nothing is kept. Who is not Stripe does not have the body read for it.
func TestKeepNothingThatIsAwaited(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	asked := 0
	awaited := func() bool { asked++; return true }
	r := request(invoice())
	if kept, err := b.Keep(t.Context(), r, awaited); kept || err != nil || asked != 1 {
		t.Errorf("kept %t, %v, asked %d times; want it refused", kept, err, asked)
	}
	r.Client = netip.MustParseAddr("192.0.2.1")
	if kept, _ := b.Keep(t.Context(), r, awaited); kept || asked != 1 {
		t.Errorf("kept %t, asked %d times", kept, asked)
	}
}

func TestDiagnosisIsLoggedOncePerReasonAndSource(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lines := func() int { return b.logs.FilterMessageSnippet("do not verify").Len() }
	send := func(source, reason string) {
		r := request(invoice())
		r.Source, r.Reason = source, reason
		b.keep(r)
	}
	for _, step := range []struct {
		what string
		do   func()
		want int
	}{
		{"the first", func() { send("main", stripe.NoMatch) }, 1},
		{"one more", func() { send("main", stripe.NoMatch) }, 1},
		{"another reason", func() { send("main", stripe.TooOld) }, 2},
		{"another source", func() { send("connect", stripe.NoMatch) }, 3},
		{"again", func() { send("connect", stripe.NoMatch); send("main", stripe.TooOld) }, 3},
		{"after another secret was tried", func() { b.use("whsec_typo"); send("main", stripe.NoMatch) }, 4},
		{"after everything was dropped", func() { b.Drop(t.Context(), 1, 2, 3, 4, 5, 6, 7); send("connect", stripe.NoMatch) }, 5},
	} {
		step.do()
		if got := lines(); got != step.want {
			t.Errorf("%s: %d lines so far, want %d", step.what, got, step.want)
		}
	}
	first := b.logs.FilterMessageSnippet("do not verify").All()[0].ContextMap()
	if first["source"] != "main" || first["reason"] != "no_match" || first["client"] != "3.18.12.63" || first["diagnosis"] == "" {
		t.Errorf("the log says %v", first)
	}
	for _, e := range b.logs.All() {
		if text := fmt.Sprint(e); strings.Contains(text, "whsec_") || strings.Contains(text, "evt_") {
			t.Errorf("a secret or a body is logged: %s", text)
		}
	}
}

func TestDiagnosis(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 15, 30, 0, 0, time.UTC)
	body := toystripe.New("invoice.paid", toystripe.Options{}).Body
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		t.Fatal(err)
	}
	var large bytes.Buffer // compact, and too large to be printed anew
	fmt.Fprintf(&large, `{"id":"evt_1","type":"a","x":%q}`, strings.Repeat("x", maxReindent))
	c := newBench(t).cfg
	for _, tt := range []struct {
		name   string
		secret string
		signed []byte
		ago    time.Duration // when it was signed
		sent   []byte
		source string
		seen   proxy.SourceStatus
		want   string
	}{
		{name: "another source's", secret: other, want: "signed with the secret of source `connect`"},
		{name: "our clock is behind", secret: known, ago: -412 * time.Second, want: "clock is 412 s behind"},
		{name: "our clock is ahead", secret: known, ago: 412 * time.Second, want: "clock is 412 s ahead, or the request was held up"},
		{name: "known by now", secret: known, want: "a secret matches now: recheck releases it"},
		{name: "printed without blanks", secret: known, sent: compact.Bytes(), want: "body was changed on the way (re-indented JSON verifies)"},
		{name: "printed with tabs", secret: known, sent: bytes.ReplaceAll(body, []byte("  "), []byte("\t")), want: "re-indented JSON verifies"},
		{name: "a line break at the end", secret: known, sent: append(slices.Clip(body), '\n'), want: "re-indented JSON verifies"},
		{name: "sent without blanks, printed with them", secret: known, signed: compact.Bytes(), sent: body, want: "re-indented JSON verifies"},
		{name: "changed and unknown", secret: rolled, sent: compact.Bytes(), want: "no secret matches: was it rolled?"},
		{name: "another content", secret: known, sent: bytes.Replace(body, []byte("paid"), []byte("void"), 1), want: "no secret matches"},
		{name: "not JSON", secret: known, sent: []byte("{"), want: "no secret matches"},
		{name: "too large to print", secret: known, signed: append(large.Bytes(), ' '), sent: large.Bytes(), want: "no secret matches"},
		{
			name: "rolled today", secret: rolled, seen: proxy.SourceStatus{NoMatchSince: now.Add(-87 * time.Minute)},
			want: "no secret matches since 14:03 UTC: was it rolled?",
		},
		{
			name: "rolled yesterday", secret: rolled, seen: proxy.SourceStatus{NoMatchSince: now.Add(-24 * time.Hour), LastVerified: now.Add(-25 * time.Hour)},
			want: "no secret matches since 3 March 15:30 UTC: was it rolled?",
		},
		{
			name: "rolled before a restart", secret: rolled, seen: proxy.SourceStatus{LastVerified: now.Add(-25 * time.Hour)},
			want: "no secret matches since 15:30 UTC: was it rolled?",
		},
		{
			name: "rolled before a restart, and more after it", secret: rolled,
			seen: proxy.SourceStatus{LastVerified: now.Add(-25 * time.Hour), NoMatchSince: now.Add(time.Hour)},
			want: "no secret matches since 15:30 UTC: was it rolled?",
		},
		{
			name: "others verify", secret: rolled, seen: proxy.SourceStatus{LastVerified: now.Add(time.Minute), NoMatchSince: now.Add(2 * time.Minute)},
			want: "no secret matches, but others verified later, at 15:31 UTC",
		},
		{name: "no such source", secret: rolled, source: "gone", want: "source `gone` is no longer in routes.yaml"},
		{name: "a source that is gone, with another's secret", secret: known, source: "gone", want: "signed with the secret of source `main`"},
	} {
		signed, sent := body, body
		if tt.signed != nil {
			signed = tt.signed
		}
		if tt.sent != nil {
			sent = tt.sent
		}
		r := signedWith(tt.secret, signed, now.Add(-tt.ago))
		r.Body, r.Received, r.Source = sent, now, "main"
		if tt.source != "" {
			r.Source = tt.source
		}
		if got := diagnose(&c, tt.seen, &r, now); !strings.HasPrefix(got, tt.want) && !(strings.HasPrefix(tt.want, "re-") && strings.Contains(got, tt.want)) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ev := toystripe.New("invoice.paid", toystripe.Options{})
	const n = 2*pageSize + 3
	for range n - 1 {
		b.keep(request([]byte("not JSON")))
	}
	b.keep(request(ev.Body))
	var ids []int64
	for before := int64(0); ; before = ids[len(ids)-1] {
		page, err := b.List(t.Context(), before, pageSize+1)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, item := range page {
			ids = append(ids, item.ID)
		}
	}
	if len(ids) != n || ids[0] != n || ids[n-1] != 1 || !slices.IsSortedFunc(ids, func(a, b int64) int { return int(b - a) }) {
		t.Errorf("listed %v, want %d to 1", ids, n)
	}
	page, _ := b.List(t.Context(), 0, 1)
	stored := b.store.items[n-1]
	want := []Rejected{{
		ID: n, Source: "main", Received: jsontime.Time{Time: stored.Received}, Expires: jsontime.Time{Time: stored.Received.Add(b.cfg.MaxAge)},
		Client: stripeAddr.String(),
		Reason: stripe.NoMatch, Diagnosis: "no secret matches: was it rolled?", Size: len(ev.Body), EventID: ev.ID, EventType: "invoice.paid",
	}}
	if diff := cmp.Diff(want, page); diff != "" {
		t.Errorf("newest (-want +got):\n%s", diff)
	}
	b.store.fail["List"] = errDisk
	if _, err := b.List(t.Context(), 0, 0); !errors.Is(err, errDisk) {
		t.Errorf("got %v", err)
	}
}
