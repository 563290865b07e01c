package proxy

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Problem is something wrong, or odd, in a Config.
type Problem struct {
	Path    string   // where, in the words of routes.yaml: "routes[2].to[0]", "sources.main.path"
	Text    string   // what is wrong, and what to do
	Warning bool     // the gateway works with it, but probably not as meant
	Advice  bool     // a Warning that is only worth a line when somebody asks, as `breakwater check` does
	Known   []string // the names that could have stood there, when Text is about an unknown one
}

// Check returns everything that is wrong or odd in c, once its defaults are filled in: sources first, then backends,
// routes and timing. New and Reload refuse a Config that has a Problem without Warning. Check touches no file and no
// network, and its texts quote names, but never a secret, a header's value or a URL.
func (c Config) Check() []Problem {
	k := &checker{Config: c.WithDefaults()}
	k.checkSources()
	k.checkBackends()
	k.checkRoutes()
	k.checkTiming()
	return k.problems
}

type checker struct {
	Config
	problems []Problem
}

func (k *checker) fail(path, format string, args ...any) {
	k.problems = append(k.problems, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
}

func (k *checker) warn(path, format string, args ...any) {
	k.problems = append(k.problems, Problem{Path: path, Text: fmt.Sprintf(format, args...), Warning: true})
}

func (k *checker) advise(path, format string, args ...any) {
	k.problems = append(k.problems, Problem{Path: path, Text: fmt.Sprintf(format, args...), Warning: true, Advice: true})
}

func (k *checker) unknown(path, what, name string, known []string) {
	k.problems = append(k.problems, Problem{Path: path, Text: fmt.Sprintf("no %s %q", what, name), Known: known})
}

func (k *checker) checkSources() {
	if len(k.Sources) == 0 {
		k.fail("sources", "no source: name at least one, with the path that Stripe posts to and its signing secret")
	}
	byPath := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(k.Sources)) {
		s, at := k.Sources[name], "sources."+name
		k.checkName(at, name)
		switch other, dup := byPath[s.Path]; {
		case !strings.HasPrefix(s.Path, "/"):
			k.fail(at+".path", "the path must start with /, such as /stripe/webhook")
		case strings.ContainsAny(s.Path, "?#") || strings.ContainsFunc(s.Path, unprintable):
			k.fail(at+".path", "the path is compared as it is: no query, no fragment, no blanks")
		case dup:
			k.fail(at+".path", "source %q has this path too: each source needs its own", other)
		default:
			byPath[s.Path] = name
		}
		if len(s.SigningSecrets) == 0 {
			k.fail(at+".signing_secrets",
				"no signing secret: copy it (whsec_...) from this endpoint's page in Stripe's dashboard")
		}
		k.checkSecrets(at+".signing_secrets", s.SigningSecrets)
		k.checkNotNegative(at+".tolerance", int64(s.Tolerance))
		k.checkNotNegative(at+".max_body", s.MaxBody)
		if s.MaxBody > k.BodyMemory && k.BodyMemory >= 0 {
			k.fail(at+".max_body", "max_body is larger than limits.body_memory: such a body could never be read")
		}
	}
}

func (k *checker) checkSecrets(path string, secrets []Secret) {
	for i, s := range secrets {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case strings.TrimSpace(string(s)) == "":
			k.fail(at, "the signing secret is empty")
		case strings.ContainsFunc(string(s), unprintable):
			k.warn(at, "the signing secret has blanks in it, which Stripe's never have: no signature will match")
		case !strings.HasPrefix(string(s), "whsec_"):
			k.warn(at, "the signing secret does not start with whsec_: an API key, or the endpoint's id, will match nothing")
		}
	}
}

// checkName keeps names fit for a metric's label, a path of the admin API and the command line.
func (k *checker) checkName(at, name string) {
	odd := func(r rune) bool { return !(alphanumeric(r) || strings.ContainsRune("-_.", r)) }
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, odd) || !alphanumeric(rune(name[0])) {
		k.fail(at, "the name %q must be 1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit first", name)
	}
}

func (k *checker) checkNotNegative(at string, n int64) {
	if n < 0 {
		k.fail(at, "%s must not be negative", at[strings.LastIndexByte(at, '.')+1:])
	}
}

func (k *checker) checkBackends() {
	heirs := map[string]string{} // by a backend's earlier name
	for _, name := range slices.Sorted(maps.Keys(k.Backends)) {
		b, at := k.Backends[name], "backends."+name
		k.checkName(at, name)
		if b.Sender == nil {
			k.checkURL(at, &b)
		}
		k.checkLimits(at, &b)
		k.checkSecrets(at+".signing_secrets", b.SigningSecrets)
		k.checkHeaders(at+".headers", b.Headers)
		k.checkSuccess(at+".success", b.Success)
		if strings.ContainsAny(b.Host, "/@?#") || strings.ContainsFunc(b.Host, unprintable) {
			k.fail(at+".host", "host must be a host name, with a port if need be: no scheme, no path")
		}
		if !slices.Contains([]string{"", "http", "https"}, b.ForwardedProto) {
			k.fail(at+".forwarded_proto", `forwarded_proto must be "http" or "https"`)
		}
		for i, old := range b.Was {
			at := fmt.Sprintf("%s.was[%d]", at, i)
			other, dup := heirs[old]
			heirs[old] = name
			switch _, exists := k.Backends[old]; {
			case exists:
				k.fail(at, "backend %q still exists: its deliveries are its own", old)
			case dup:
				k.fail(at, "backend %q takes over the deliveries of %q too: only one can", other, old)
			}
		}
	}
}

func (k *checker) checkURL(at string, b *Backend) {
	u, err := url.Parse(b.URL)
	at += ".url"
	switch { // url.Parse's own error quotes the URL, which may hold a password
	case b.URL == "":
		k.fail(at, "no url: where are events forwarded to? Such as http://127.0.0.1:8000/webhook.php")
	case err != nil || strings.ContainsFunc(b.URL, unprintable):
		k.fail(at, "url is not a URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		k.fail(at, "url must be absolute, such as http://127.0.0.1:8000/webhook.php")
	case u.User != nil:
		k.fail(at, `url must not hold a user or password: send them with headers, {Authorization: "Basic ..."}`)
	case u.Fragment != "":
		k.fail(at, "url has a fragment (#...), which is never sent: remove it")
	case u.Scheme == "http" && b.CAFile != "":
		k.warn(at, "url is http, so ca_file has no effect: write https")
	}
}

func (k *checker) checkLimits(at string, b *Backend) {
	k.checkNotNegative(at+".timeout", int64(b.Timeout))
	if b.Timeout > maxTimeout {
		k.fail(at+".timeout", "timeout is at most %s", short(maxTimeout))
	}
	k.checkNotNegative(at+".max_in_flight", int64(b.MaxInFlight))
	if b.Rate < 0 || math.IsNaN(b.Rate) || math.IsInf(b.Rate, 0) {
		k.fail(at+".rate", "rate must not be negative")
	}
	k.checkNotNegative(at+".retry.initial", int64(b.Retry.Initial))
	k.checkNotNegative(at+".retry.max", int64(b.Retry.Max))
	k.checkNotNegative(at+".retry.give_up_after", int64(b.Retry.GiveUpAfter))
	if r := b.Retry; r.Initial > r.Max && r.Max > 0 {
		k.fail(at+".retry.max", "retry.max, %s, is less than retry.initial, %s", short(r.Max), short(r.Initial))
	}
	k.checkNotNegative(at+".breaker.failures", int64(b.Breaker.Failures))
	k.checkNotNegative(at+".breaker.open_for", int64(b.Breaker.OpenFor))
}

// ownHeaders are set by the gateway or by net/http, or would make net/http replay a POST by itself when a connection
// dies, as an Idempotency-Key does (net/http, Request.isReplayable).
var ownHeaders = map[string]string{
	"host":                "write it under host",
	"stripe-signature":    "write the backend's secrets under signing_secrets",
	"x-forwarded-proto":   "write it under forwarded_proto",
	"content-length":      "the gateway sets it",
	"connection":          "the gateway sets it",
	"transfer-encoding":   "the gateway sets it",
	"te":                  "the gateway sets it",
	"trailer":             "the gateway sets it",
	"upgrade":             "the gateway sets it",
	"keep-alive":          "the gateway sets it",
	"expect":              "the gateway sets it",
	"accept-encoding":     "the gateway sets it",
	"idempotency-key":     "it would make deliveries repeat unseen; backends know an event by Breakwater-Event-Id",
	"x-idempotency-key":   "it would make deliveries repeat unseen; backends know an event by Breakwater-Event-Id",
	"breakwater-event-id": "the gateway sets it",
}

func (k *checker) checkHeaders(at string, headers map[string]Secret) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		why, own := ownHeaders[strings.ToLower(name)]
		switch at := at + "." + name; {
		case !token(name):
			k.fail(at, "%q is not a header's name", name)
		case own:
			k.fail(at, "%s cannot be set here: %s", name, why)
		case strings.ContainsAny(string(headers[name]), "\r\n\x00"):
			k.fail(at, "a header's value cannot have line breaks")
		}
	}
}

func (k *checker) checkSuccess(at string, s Success) {
	for i, r := range s.Status {
		if r.From < 200 || r.To > 299 || r.From > r.To {
			k.fail(fmt.Sprintf("%s.status[%d]", at, i), "status must be within 200-299, such as 204 or 200-204: "+
				"rules can only be stricter than Stripe's, so let the backend answer 2xx for what it took")
		}
	}
	for i, text := range s.BodyNot {
		if text == "" {
			k.fail(fmt.Sprintf("%s.body_not[%d]", at, i), "an empty text is in every body: nothing would ever be delivered")
		}
	}
}

func (k *checker) checkTiming() {
	k.checkNotNegative("inline_timeout", int64(k.InlineTimeout))
	k.checkNotNegative("resign_after", int64(k.ResignAfter))
	k.checkNotNegative("dedupe_window", int64(k.DedupeWindow))
	k.checkNotNegative("drain_timeout", int64(k.DrainTimeout))
	k.checkNotNegative("limits.read_body", int64(k.ReadBody))
	k.checkNotNegative("limits.body_memory", k.BodyMemory)
	if k.InlineTimeout > 15*time.Second {
		k.warn("inline_timeout", "Stripe does not say how long it waits, and checkout pages wait 10s: stay below that")
	}
	if k.ResignAfter >= 5*time.Minute {
		k.warn("resign_after", "Stripe's libraries refuse a signature of 5m and more: deliveries between 5m and this age will fail")
	}
}

func alphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// token reports whether s may be a header's name (RFC 9110, section 5.6.2).
func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !alphanumeric(r) && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

func unprintable(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// short writes a duration as people do: 5m rather than 5m0s, 1h rather than 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
