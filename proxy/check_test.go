package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func ptr[T any](v T) *T { return &v }

// sound is a Config with nothing to say about.
func sound() Config {
	return Config{
		Sources:  map[string]Source{"main": {Path: "/stripe", SigningSecrets: []Secret{"whsec_a"}}},
		Backends: map[string]Backend{"a": {URL: "http://127.0.0.1/"}, "b": {URL: "https://example.com:8443/hook?x=1"}},
		Routes:   Routes{{Types: []string{"*"}, To: []string{"a"}}},
	}
}

func told(problems []Problem) []string {
	var out []string
	for _, p := range problems {
		kind := "error"
		if p.Advice {
			kind = "hint"
		} else if p.Warning {
			kind = "warning"
		}
		out = append(out, fmt.Sprintf("%s %s: %s", kind, p.Path, p.Text))
	}
	return out
}

// TestCheck breaks a sound Config in one way after the other. Each want is the beginning of one problem.
func TestCheck(t *testing.T) {
	t.Parallel()
	backend := func(change func(*Backend)) func(*Config) {
		return func(c *Config) {
			b := c.Backends["a"]
			change(&b)
			c.Backends["a"] = b
		}
	}
	source := func(change func(*Source)) func(*Config) {
		return func(c *Config) {
			s := c.Sources["main"]
			change(&s)
			c.Sources["main"] = s
		}
	}
	first := func(r ...Route) func(*Config) {
		return func(c *Config) { c.Routes = append(r, c.Routes...) }
	}
	to := []string{"a"}
	for name, tt := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"nothing": {func(*Config) {}, nil},
		"empty":   {func(c *Config) { *c = Config{} }, []string{"error sources: no source"}},

		"path":            {source(func(s *Source) { s.Path = "stripe" }), []string{"error sources.main.path: the path must start with /"}},
		"path with query": {source(func(s *Source) { s.Path = "/a?b" }), []string{"error sources.main.path: the path is compared"}},
		"no secret":       {source(func(s *Source) { s.SigningSecrets = nil }), []string{"error sources.main.signing_secrets: no signing secret"}},
		"blank secret":    {source(func(s *Source) { s.SigningSecrets = []Secret{" "} }), []string{"error sources.main.signing_secrets[0]: the signing secret is empty"}},
		"odd secrets": {
			source(func(s *Source) { s.SigningSecrets = []Secret{"whsec_a\n", "sk_live_a"} }),
			[]string{"warning sources.main.signing_secrets[0]: the signing secret has blanks", "warning sources.main.signing_secrets[1]: the signing secret does not start with whsec_"},
		},
		"same path": {
			func(c *Config) { c.Sources["other"] = c.Sources["main"] },
			[]string{`error sources.other.path: source "main" has this path too`},
		},
		"large body": {source(func(s *Source) { s.MaxBody = 65 << 20 }), []string{"error sources.main.max_body: max_body is larger"}},

		"timeout":         {backend(func(b *Backend) { b.Timeout = 5*time.Minute + 1 }), []string{"error backends.a.timeout: timeout is at most 5m"}},
		"longest timeout": {backend(func(b *Backend) { b.Timeout = 5 * time.Minute }), nil},
		"negative":        {backend(func(b *Backend) { b.Retry.Initial, b.MaxInFlight = -1, -1 }), []string{"error backends.a.max_in_flight: max_in_flight must not", "error backends.a.retry.initial: initial must not"}},
		"retry":           {backend(func(b *Backend) { b.Retry.Max = time.Second }), []string{"error backends.a.retry.max: retry.max, 1s, is less than retry.initial, 5s"}},
		"name":            {func(c *Config) { c.Backends["a/b"] = c.Backends["a"] }, []string{`error backends.a/b: the name "a/b" must`}},
		"was itself":      {backend(func(b *Backend) { b.Was = []string{"a"} }), []string{`error backends.a.was[0]: backend "a" still exists`}},
		"breaker, rate":   {backend(func(b *Backend) { b.Breaker.Failures, b.Rate = -1, -1 }), []string{"error backends.a.rate", "error backends.a.breaker.failures"}},
		"success": {
			backend(func(b *Backend) { b.Success.Status = []StatusRange{{200, 299}, {200, 499}, {404, 404}, {204, 201}} }),
			[]string{"error backends.a.success.status[1]: status must be within 200-299", "error backends.a.success.status[2]", "error backends.a.success.status[3]"},
		},
		"own headers": {backend(func(b *Backend) { b.Headers = map[string]Secret{"stripe-signature": "x"} }), []string{"error backends.a.headers.stripe-signature: stripe-signature cannot be set here"}},

		"unknown names": {
			first(Route{Types: []string{"x"}, Source: "man", To: []string{"c"}}),
			[]string{`error routes[0].source: no source "man"`, `error routes[0].to[0]: no backend "c"`, "hint"},
		},
		"named twice":                  {first(Route{Types: []string{"x"}, To: []string{"a", "a"}}), []string{`warning routes[0].to[1]: "a" is named twice`, "hint"}},
		"relay":                        {first(Route{Types: []string{"x"}, To: to, Answer: AnswerRelay, Fallback: &Fallback{Status: 200}}), []string{"warning routes[0].fallback.status: a relayed event that gets this 2xx", "hint"}},
		"relay, fallback that refuses": {first(Route{Types: []string{"x"}, To: to, Answer: AnswerRelay, Fallback: &Fallback{Status: 402}}), []string{"hint"}},
		"relay by fallback only":       {first(Route{Types: []string{"x"}, Answer: AnswerRelay, Fallback: &Fallback{Status: 200}}), []string{"warning routes[0].fallback.status: a relayed event that gets this 2xx", "hint"}},
		"relay and all else": {
			first(Route{Types: []string{"x"}, To: []string{"a", "b"}, Answer: AnswerRelay, Continue: true, Queued: true}),
			[]string{"error routes[0].continue", "error routes[0].deliver", "error routes[0].to: answer: relay goes to one", "hint"},
		},
		"relay behind continue": {
			first(Route{Types: []string{"x.*"}, To: to, Continue: true}, Route{Types: []string{"x.y"}, To: to, Answer: AnswerRelay}),
			[]string{"warning routes[1].answer: not relayed: routes[0]", "hint"},
		},
		"hold_for":        {first(Route{Types: []string{"x"}, To: to, Answer: AnswerBackend, HoldFor: 60*time.Hour + 1}), []string{"error routes[0].hold_for: hold_for is at most 60h", "hint"}},
		"misplaced":       {first(Route{Types: []string{"x"}, To: to, HoldFor: 1, Fallback: &Fallback{Status: 200}}), []string{"error routes[0].hold_for: hold_for only", "error routes[0].fallback: fallback only", "hint"}},
		"answer":          {first(Route{Types: []string{"x"}, To: to, Answer: "no"}), []string{`error routes[0].answer: no answer "no"`, "hint"}},
		"queued":          {first(Route{Types: []string{"x"}, To: to, Answer: AnswerBackend, Queued: true}), []string{"error routes[0].deliver", "hint"}},
		"real time":       {first(Route{Types: []string{"issuing_authorization.request"}, To: to}), []string{"warning routes[0].types[0]: Stripe waits for a decision"}},
		"real time, glob": {first(Route{Types: []string{"v1.delegated_checkout.*"}, To: to}), []string{"warning routes[0].types[0]: Stripe waits for a decision"}},
		"partly":          {first(Route{Types: []string{"v1.*", "issuing_authorization.*"}, To: to}), nil},
		"no types":        {first(Route{Types: []string{}, To: to}), []string{"error routes[0].types: an empty list"}},
		"odd types":       {first(Route{Types: []string{"v1.x?", "Invoice"}, To: to}), []string{`error routes[0].types[0]: "v1.x?" matches nothing`, `warning routes[0].types[1]: "Invoice" matches nothing`}},
		"thin hint":       {first(Route{Types: []string{"invoice.*"}, To: to}), []string{`hint routes[0].types[0]: thin events have names of their own: if Stripe sends you those, add "v1.invoice.*"`}},
		"thin named":      {first(Route{Types: []string{"invoice.*", "v1.invoice.*"}, To: to}), nil},

		"no catch-all":            {func(c *Config) { c.Routes = nil }, []string{"warning routes: events that no route matches"}},
		"catch-all without types": {func(c *Config) { c.Routes[0].Types = nil }, nil},
		"catch-all for live only": {func(c *Config) { c.Routes[0].Livemode = ptr(true) }, []string{"warning routes: events that no route"}},
		"catch-all in two halves": {
			func(c *Config) {
				c.Routes = Routes{{To: to, Livemode: ptr(true)}, {Types: []string{"**"}, To: to, Livemode: ptr(false)}}
			}, nil,
		},
		"catch-all of one source": {
			func(c *Config) {
				c.Sources["other"] = Source{Path: "/other", SigningSecrets: []Secret{"whsec_b"}}
				c.Routes[0].Source = "main"
			},
			[]string{"warning routes: source other: events"},
		},
		"timing": {
			func(c *Config) { c.InlineTimeout, c.ResignAfter, c.BodyMemory = time.Minute, 5*time.Minute, -1 },
			[]string{"error limits.body_memory", "warning inline_timeout", "warning resign_after"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := sound()
			tt.change(&c)
			got := told(c.Check())
			match := len(got) == len(tt.want)
			for i := 0; match && i < len(got); i++ {
				match = strings.HasPrefix(got[i], tt.want[i])
			}
			if !match {
				t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// TestCheckURL: whatever is wrong with a URL, its password is not told.
func TestCheckURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"":                               "no url",
		"webhook.php":                    "url must be absolute",
		"ftp://example.com/":             "url must be absolute",
		"http:///x":                      "url must be absolute",
		"http://u:hunter2@example.com/":  "url must not hold a user",
		"http://u:hun/ter2@example.com/": "url is not a URL",
		"http://exa mple/hunter2":        "url is not a URL",
		"http://a/#hunter2":              "url has a fragment",
		"http://[::1]:80/x?y=z#":         "",
	} {
		c := sound()
		c.Backends["a"] = Backend{URL: url}
		got := fmt.Sprint(told(c.Check()))
		if (want == "") != (got == "[]") || !strings.Contains(got, want) || strings.Contains(got, "ter2") {
			t.Errorf("%q: %s, want %q", url, got, want)
		}
	}
}

func TestCheckReach(t *testing.T) {
	t.Parallel()
	to := []string{"a"}
	route := func(types ...string) Route { return Route{Types: types, To: to} }
	const never = "never reached"
	for name, tt := range map[string]struct {
		earlier []Route
		late    Route
		want    string // beginning of what is told of the last route, "" for nothing
	}{
		"same":                      {[]Route{route("v1.a")}, route("v1.a"), never},
		"wider":                     {[]Route{route("v1.*")}, route("v1.a.*", "v1.b"), never},
		"wider in the middle":       {[]Route{route("v1.*.created")}, route("v1.*.x.created"), never},
		"narrower":                  {[]Route{route("v1.a.*")}, route("v1.*"), ""},
		"crossing":                  {[]Route{route("v1.*b")}, route("v1.a*"), ""},
		"by two":                    {[]Route{route("v1.a"), route("v1.b")}, route("v1.a", "v1.b"), never},
		"one of two":                {[]Route{route("v1.a")}, route("v1.a", "v1.b"), "never matches here"},
		"continue":                  {[]Route{{Types: []string{"*"}, To: to, Continue: true}}, route("v1.a"), ""},
		"no types":                  {[]Route{{To: to}}, Route{To: to}, never},
		"star is not what has none": {[]Route{route("*")}, Route{To: to}, ""},
		"ping by its name":          {[]Route{route("*")}, route(pingType), ""},
		"other source":              {[]Route{{Source: "main", To: to}}, route("v1.a"), ""},
		"same source":               {[]Route{{Source: "main", To: to}}, Route{Source: "main", To: to}, never},
		"live only":                 {[]Route{{Livemode: ptr(true), To: to}}, route("v1.a"), ""},
		"live and live":             {[]Route{{Livemode: ptr(true), To: to}}, Route{Livemode: ptr(true), To: to}, never},
		"live and test":             {[]Route{{Livemode: ptr(true), To: to}}, Route{Livemode: ptr(false), To: to}, ""},
		"account":                   {[]Route{{Account: "acct_*", To: to}}, Route{Account: "acct_1", To: to}, never},
		"own account":               {[]Route{{Account: "acct_*", To: to}}, Route{Account: "-", To: to}, ""},
		"any account":               {[]Route{{Account: "*", To: to}}, Route{Account: "-", To: to}, never},
		"only one's own":            {[]Route{{Account: "-", To: to}}, route("v1.a"), ""},
		"version":                   {[]Route{{APIVersion: "2023*", To: to}}, Route{APIVersion: "2023-10-16", To: to}, never},
		"versions":                  {[]Route{{APIVersion: "2023*", To: to}}, Route{APIVersion: "202*", To: to}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := sound()
			c.Routes = append(append(Routes{}, tt.earlier...), tt.late)
			at := fmt.Sprintf("routes[%d]", len(tt.earlier))
			var got []string
			for _, p := range c.Check() {
				if strings.HasPrefix(p.Path, at) && p.Warning && !p.Advice {
					got = append(got, p.Text)
				}
			}
			if (len(got) == 1) != (tt.want != "") || tt.want != "" && !strings.HasPrefix(got[0], tt.want) {
				t.Errorf("told %q, want %q", got, tt.want)
			}
		})
	}
}

// TestGlobCovers compares the rule with what it means: p's matches are all q's matches, tried on short texts.
func TestGlobCovers(t *testing.T) {
	t.Parallel()
	var globs, texts []string
	for n := 1; n <= 4; n++ {
		globs = append(globs, words("ab*", n)...)
	}
	for n := 0; n <= 6; n++ {
		texts = append(texts, words("abc", n)...)
	}
	covers := func(q, p string) bool {
		for _, s := range texts {
			if globMatch(p, s) && !globMatch(q, s) {
				return false
			}
		}
		return true
	}
	for _, q := range globs {
		for _, p := range globs {
			if want, got := covers(q, p), globCovers(q, p); got != want {
				t.Fatalf("globCovers(%q, %q) = %t", q, p, got)
			}
		}
	}
}

// words returns all texts of n letters.
func words(letters string, n int) []string {
	if n == 0 {
		return []string{""}
	}
	var out []string
	for _, w := range words(letters, n-1) {
		for _, l := range letters {
			out = append(out, w+string(l))
		}
	}
	return out
}

func TestShort(t *testing.T) {
	t.Parallel()
	got := []string{short(5 * time.Minute), short(time.Hour), short(90 * time.Second), short(500 * time.Millisecond), short(10 * time.Second)}
	if diff := cmp.Diff([]string{"5m", "1h", "1m30s", "500ms", "10s"}, got); diff != "" {
		t.Error(diff)
	}
}
