package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/proxy"
)

var pagePaths = []string{
	"/", "/events", "/events?state=pending", "/events?q=nothing", "/events/2", "/events/evt_1", "/backends", "/sources", "/quarantine", "/config",
	"/config?type=invoice.paid&source=main", "/resend", "/resend?state=pending", "/login", "/login?wrong=1", "/events/4711", "/jobs/12",
}

// words is the text of a page without its tags.
func words(page string) string {
	text := regexp.MustCompile(`(?s)<[^>]*>`).ReplaceAllString(page, "")
	return strings.Join(strings.Fields(text), " ")
}

func TestPagesHoldNoCodeAndNoSecret(t *testing.T) {
	t.Parallel()
	f := newFakes()
	inline := regexp.MustCompile(`(?i)<script(?: [^>]*)?>[^<]|<style| style=| on[a-z]+=|javascript:`)
	for _, path := range pagePaths {
		w := ask(f.handler(""), "GET", path)
		page := w.Body.String()
		if w.Code != 200 && w.Code != 404 || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: %d %s", path, w.Code, w.Header().Get("Content-Type"))
		}
		if got := w.Header().Get("Content-Security-Policy"); got != pagePolicy || strings.Contains(got, "unsafe") {
			t.Errorf("%s: policy %q", path, got)
		}
		if found := inline.FindString(page); found != "" {
			t.Errorf("%s: inline code: %q", path, found)
		}
		if strings.Contains(page, "s3cret") || strings.Contains(page, "no value") || strings.Contains(page, "<nil>") {
			t.Errorf("%s: a secret, or a hole in the template", path)
		}
		if !strings.Contains(page, "</html>") {
			t.Errorf("%s: half a page", path)
		}
	}
}

func TestOverviewSaysWhatNeedsAttention(t *testing.T) {
	t.Parallel()
	f := newFakes()
	got := words(ask(f.handler(""), "GET", "/").Body.String())
	for _, want := range []string{
		"legacy has answered 404 since", "23 times. 3 events wait; nothing is lost.", "There is nothing at this path.",
		"1 delivery to legacy was given up. It is kept for you.",
		"routes.yaml does not name gone any more. 2 events wait; nothing is lost.",
		"A change in routes.yaml takes a restart.",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in: %s", want, got)
		}
	}
	f.unreadable, f.ready = 3, errors.New("journal full")
	got = words(ask(f.handler(""), "GET", "/").Body.String())
	full := strings.Index(got, "The journal takes no new events: journal full.")
	if other := strings.Index(got, "A change in routes.yaml"); full < 0 || full > other {
		t.Errorf("a full journal does not come first: %s", got)
	}
	if !strings.Contains(got, "3 events that Stripe signed could not be read; they are kept.") {
		t.Errorf("what cannot be read is not said: %s", got)
	}
	f.unreadable, f.ready = 0, nil
	f.paused["legacy"] = true
	if got := words(ask(f.handler(""), "GET", "/").Body.String()); !strings.Contains(got, "legacy is paused. 3 events wait; nothing is lost.") {
		t.Errorf("a pause is not said: %s", got)
	}
}

func TestCards(t *testing.T) {
	t.Parallel()
	failing := func(name string, pending int64) conditions.Backend {
		return conditions.Backend{
			BackendStatus: proxy.BackendStatus{Name: name, Breaker: "open", Errors: 5}, Configured: true, Pending: pending,
		}
	}
	shown := func(s conditions.Snapshot) []card { return cards(conditions.Of(s)) }
	idle := shown(conditions.Snapshot{Backends: []conditions.Backend{failing("idle", 0)}})
	if len(idle) != 1 || idle[0].Class != "pending" || idle[0].Link != "" {
		t.Errorf("nothing waits for it: %+v", idle)
	}
	paused := failing("idle", 3)
	paused.Paused = true
	got := shown(conditions.Snapshot{NeedsRestart: []string{"listen"}, Backends: []conditions.Backend{paused, failing("down", 1)}})
	var classes []string
	for _, c := range got {
		classes = append(classes, c.Class)
		if c.Label == "" {
			t.Errorf("%s: its link has no label", c.ID)
		}
	}
	if want := []string{"failed", "pending", "paused"}; !slices.Equal(classes, want) {
		t.Errorf("drawn %v, want %v: %+v", classes, want, got)
	}
	var many []conditions.Backend
	for i := range 8 {
		many = append(many, failing(fmt.Sprintf("b%d", i), int64(i)))
	}
	got = shown(conditions.Snapshot{Backends: many})
	if len(got) != failingShown+1 || !strings.HasPrefix(got[0].Text, "b7 ") || got[failingShown].Text != "3 more." {
		t.Errorf("worst first, the rest counted: %+v", got)
	}
}

func TestDryRunCountsWhatNobodyTakes(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.events = f.events[len(f.events)-1:] // ignored, and no route takes it
	a := f.handler("").api
	out, err := a.bulkResend(t.Context(), &bulkInput{BulkResend{Filter: &Filter{State: "ignored"}, DryRun: true}})
	if err != nil || out.Body.NoBackend != 1 {
		t.Errorf("got %+v, %v", out, err)
	}
	out, err = a.bulkResend(t.Context(), &bulkInput{BulkResend{Filter: &Filter{State: "ignored"}, Backends: []string{"legacy"}, DryRun: true}})
	if err != nil || out.Body.NoBackend != 0 {
		t.Errorf("with a backend: got %+v, %v", out, err)
	}
}

func TestRefreshMovesNoRow(t *testing.T) {
	t.Parallel()
	f := newFakes() // 4, 3 delivered, 2 pending, 1 ignored
	order := func(target string) (ids []string, page string) {
		page = ask(f.handler(""), "GET", target).Body.String()
		for _, m := range regexp.MustCompile(`<tbody id="e-(\d+)" class="event( gone)?"`).FindAllStringSubmatch(page, -1) {
			ids = append(ids, m[1]+m[2])
		}
		return ids, page
	}
	got, page := order("/events?state=delivered&shown=3.2.n7")
	if diff := cmp.Diff([]string{"3", "2 gone"}, got); diff != "" || !strings.Contains(words(page), "1 new event") {
		t.Errorf("(-want +got):\n%s%s", diff, words(page))
	}
	if !strings.Contains(page, "cursor="+cursor(7).String()) {
		t.Error("where the list goes on has moved")
	}
	if got, _ := order("/events?shown=n0"); len(got) != 4 {
		t.Errorf("an empty list shows what came: %v", got)
	}
	if got, _ := order("/events?shown=" + strings.Repeat("x.4.", 1000)); len(got) > pageSize+1 {
		t.Errorf("%d rows", len(got))
	}
}

func TestFilterOfAPage(t *testing.T) {
	t.Parallel()
	v := &view{zone: time.FixedZone("", 2*60*60)}
	q, err := url.ParseQuery("state=failed&type=invoice.*&q=+in_1+&since=2026-11-21T14:03&until=2026-11-22&customer=cus_1")
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.filter(q)
	want := Filter{
		State: "failed", Type: "invoice.*", Q: "in_1", Customer: "cus_1",
		Since: time.Date(2026, 11, 21, 12, 3, 0, 0, time.UTC), Until: time.Date(2026, 11, 21, 22, 0, 0, 0, time.UTC),
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, query := range []string{"state=lost", "since=yesterday", "until=x", "cursor=x"} {
		w := ask(newFakes().handler(""), "GET", "/events?"+query)
		if w.Code != 422 || !strings.Contains(w.Body.String(), "That did not work") {
			t.Errorf("%s: %d, want a page that says what is wrong", query, w.Code)
		}
	}
}

func TestActsOfThePage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, form string
		want       string // Location
	}{
		"resend":            {"/events/2/resend", "", "/events/2?done=resent"},
		"resend to one":     {"/events/2/resend", "backend=node", "/events/2?done=resent"},
		"pause":             {"/backends/legacy/pause", "", "/backends?done=paused"},
		"resume":            {"/backends/legacy/resume", "", "/backends?done=resumed"},
		"back to a page":    {"/backends/legacy/pause", "back=/events?state=failed", "/events?done=paused&state=failed"},
		"never elsewhere":   {"/backends/legacy/pause", "back=https://evil.example/x", "/backends?done=paused"},
		"nor by slashes":    {"/backends/legacy/pause", "back=//evil.example/x", "/backends?done=paused"},
		"nor by backslash":  {"/backends/legacy/pause", `back=/\evil.example`, "/backends?done=paused"},
		"reload":            {"/config/reload", "", "/config?done=reloaded"},
		"recheck":           {"/quarantine/recheck", "", "/quarantine?done=released"},
		"begin a job":       {"/resend", "query=state%3Dpending", "/jobs/1"},
		"no such backend":   {"/backends/nobody/pause", "", ""},
		"no such act":       {"/backends/legacy/drop", "", ""},
		"no such event":     {"/events/4711/resend", "", ""},
		"nothing to narrow": {"/resend", "query=", ""},
		"no such item":      {"/quarantine/drop", "id=x", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := ask(newFakes().handler(""), "POST", c.path, func(r *http.Request) {
				*r = *httptest.NewRequest("POST", c.path, strings.NewReader(c.form))
				r.Host = "localhost:8421"
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			})
			if got := w.Header().Get("Location"); got != c.want || c.want != "" && w.Code != 303 {
				t.Errorf("%d to %q, want %q: %s", w.Code, got, c.want, words(w.Body.String()))
			}
			if c.want == "" && (w.Code < 400 || !strings.Contains(w.Body.String(), "</html>")) {
				t.Errorf("%d, want a page that says what is wrong", w.Code)
			}
		})
	}
	w := ask(newFakes().handler(""), "POST", "/backends/legacy/pause", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
	if w.Code != 403 {
		t.Errorf("from another site: %d, want 403", w.Code)
	}
}

func TestAPageWithoutAJournal(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.err = errors.New("disk I/O error at /var/lib/secret")
	for _, path := range []string{"/", "/events", "/events/2", "/backends"} {
		w := ask(f.handler(""), "GET", path)
		if page := w.Body.String(); w.Code < 500 || !strings.Contains(page, "</html>") || strings.Contains(page, "/var/lib") {
			t.Errorf("%s: %d %s", path, w.Code, words(page))
		}
	}
}

func TestStaticFiles(t *testing.T) {
	t.Parallel()
	h := newFakes().handler("a token")
	css, err := asset("app.css")
	if err != nil {
		t.Fatal(err)
	}
	w := ask(h, "GET", css)
	if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/css") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	for _, path := range []string{"/static/x/app.css", "/static/x/layout.html", "/static/x/../page.go", strings.Replace(css, "app.css", "app.js", 1)} {
		if w := ask(h, "GET", path); w.Code == 200 {
			t.Errorf("%s is served", path)
		}
	}
}

func TestVisible(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain\n\ttext, <b>é</b> 日本": "plain\n\ttext, <b>é</b> 日本",
		"a\u202eb":                   "a[U+202E]b",
		"\u2066x\u2069":              "[U+2066]x[U+2069]",
		"\x1b[31mred\x07":            "[U+001B][31mred[U+0007]",
		"z\u200bw\ufeff\u00ad":       "z[U+200B]w[U+FEFF][U+00AD]",
		"l\u2028p\u2029":             "l[U+2028]p[U+2029]",
		"\xff\xc3":                   `[\xFF][\xC3]`,
		"\ufffd":                     "\ufffd",
		"tag\U000E0041":              "tag[U+E0041]",
		"cr\r\n":                     "cr[U+000D]\n",
		"":                           "",
	} {
		var got strings.Builder
		for _, r := range visible(text) {
			if r.Mark {
				got.WriteString("[" + r.Text + "]")
			} else {
				got.WriteString(r.Text)
			}
		}
		if got.String() != want {
			t.Errorf("%q: got %q, want %q", text, got.String(), want)
		}
	}
}

func TestTexts(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		size(999): "999 B", size(1 << 20): "1.0 MiB", size(3218): "3.1 KiB",
		short(59 * time.Second): "59 s", short(47 * time.Minute): "47 min", short(47 * time.Hour): "47 h", short(49 * time.Hour): "2 d",
		clip(3, "日本語日本"): "日本語…", clip(3, "a\nb"): "a b", clip(0, "a"): "…",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	v := view{now: time.Date(2026, 11, 21, 14, 3, 0, 0, time.UTC), zone: time.FixedZone("", 3600)}
	for at, want := range map[time.Time]moment{
		v.now.Add(-time.Minute):          {"2026-11-21T14:02:00Z", "2026-11-21 15:02:00.000", "15:02", "1 min", false},
		v.now.Add(90 * time.Second):      {"2026-11-21T14:04:30Z", "2026-11-21 15:04:30.000", "15:04", "1 min", true},
		v.now.Add(-24 * time.Hour):       {"2026-11-20T14:03:00Z", "2026-11-20 15:03:00.000", "20 Nov 15:03", "24 h", false},
		v.now.Add(-400 * 24 * time.Hour): {"2025-10-17T14:03:00Z", "2025-10-17 15:03:00.000", "17 Oct 2025", "400 d", false},
		{}:                               {},
	} {
		if diff := cmp.Diff(want, v.when(at)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", at, diff)
		}
	}
}
