package cli

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/admin"
)

func TestParseTime(t *testing.T) {
	t.Parallel()
	vienna := time.FixedZone("CET", 3600)
	now := time.Date(2026, 11, 21, 14, 30, 0, 0, vienna)
	at := func(day, hour, min, sec int) time.Time { return time.Date(2026, 11, day, hour, min, sec, 0, vienna) }
	for text, want := range map[string]time.Time{
		"":                          {},
		"14:03":                     at(21, 14, 3, 0),
		"14:30":                     at(21, 14, 30, 0),
		"14:31":                     at(20, 14, 31, 0), // yesterday's: today's is to come
		"14:03:59":                  at(21, 14, 3, 59),
		"2h":                        at(21, 12, 30, 0),
		"1h30m":                     at(21, 13, 0, 0),
		"7d":                        at(14, 14, 30, 0),
		"2026-11-20":                at(20, 0, 0, 0),
		"2026-11-20T09:15":          at(20, 9, 15, 0),
		"2026-11-20 09:15":          at(20, 9, 15, 0),
		"2026-11-20T09:15:30":       at(20, 9, 15, 30),
		"2026-11-20T09:15:30Z":      at(20, 10, 15, 30),
		"2026-11-20T09:15:30-05:00": at(20, 15, 15, 30),
	} {
		got, err := parseTime("--since", text, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-2h", "25:00", "2026-13-01", "d", "-1d", "99999999d", "1e9"} {
		if got, err := parseTime("--since", text, now); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestFilterPairs(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 14, 30, 0, 0, time.UTC)
	values, err := parsePairs([]string{"state=failed", "type=invoice.*", "since=2h", "q=a=b"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := values.filter("--filter ", now)
	want := admin.Filter{State: "failed", Type: "invoice.*", Since: now.Add(-2 * time.Hour), Q: "a=b"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
	if got, want := values.String(), "state=failed type=invoice.* since=2h q=a=b"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// What was perhaps an empty variable of a script must not mean everything.
	for _, pairs := range [][]string{
		{"state="}, {"failed"}, {""}, {"stat=failed"}, {"state=failed", "state=pending"},
	} {
		if got, err := parsePairs(pairs); err == nil {
			t.Errorf("%q: got %v, want an error", pairs, got)
		}
	}
	for _, values := range []filterValues{{"state": "lost"}, {"since": "soon"}, {"until": "soon"}} {
		if _, err := values.filter("--", now); err == nil {
			t.Errorf("%v: no error", values)
		}
	}
}

func TestEventRef(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]string{
		"12": "seq:12", "seq:12": "seq:12", "evt_1": "evt_1", "sha256:ab": "sha256:ab", "-1": "-1", "99999999999999999999": "99999999999999999999",
	} {
		if got := eventRef(arg); got != want {
			t.Errorf("%s: got %s, want %s", arg, got, want)
		}
	}
}

func TestQuoted(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"billing": "billing", "invoice.*": "'invoice.*'", "it's": `'it'\''s'`, "": "''", "$(rm)": "'$(rm)'", "2026-11-20T09:15": "2026-11-20T09:15",
		"a\x1bb": `'a\x1bb'`,
	} {
		if got := quoted(word); got != want {
			t.Errorf("%q: got %s, want %s", word, got, want)
		}
	}
}
