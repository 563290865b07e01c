package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

//go:generate go test -run TestSchemaFile -update .

// document is routes.yaml as it is written. Its tags say what each key is called and for, and the most that it may be; what a key is when it is left
// out, defaults says.
type document struct {
	Version int    `yaml:"version" doc:"The version of this file's format: 1."`
	Listen  string `yaml:"listen" doc:"Where Stripe's requests come in, as host:port. No host: all addresses."`
	Journal string `yaml:"journal" doc:"Where events are kept: sqlite:PATH, relative to this file's folder."`
	Admin   Admin  `yaml:"admin" doc:"The listener for people and monitoring: health, metrics, API and page."`

	Sources  map[string]source  `yaml:"sources" required:"true" doc:"The webhook endpoints registered at Stripe, by a name of your choice."`
	Backends map[string]backend `yaml:"backends" doc:"Where events are forwarded to, by a name of your choice. Names live on in the journal; to change one, see was."`
	Routes   []route            `yaml:"routes" required:"true" doc:"Which events go to which backends. In order, the first match wins."`

	Retention     Retention      `yaml:"retention" doc:"How long the journal keeps events, by what became of them."`
	InlineTimeout time.Duration  `yaml:"inline_timeout" most:"1m" doc:"Stripe is answered at the latest this long after its request came in, whatever the backend does."`
	ResignAfter   time.Duration  `yaml:"resign_after" most:"72h" doc:"A delivery later than this after Stripe signed the event is signed afresh, so that the backend does not refuse it as too old."`
	DedupeWindow  time.Duration  `yaml:"dedupe_window" most:"72h" doc:"A repeat within this time after our 2xx is answered and not delivered again."`
	ShutdownDelay time.Duration  `yaml:"shutdown_delay" most:"1h" doc:"How long to keep accepting after SIGTERM, while a load balancer sees that /readyz fails. Default: 0s."`
	DrainTimeout  time.Duration  `yaml:"drain_timeout" most:"1h" doc:"How long running attempts may take to end when the gateway stops."`
	Limits        Limits         `yaml:"limits" doc:"Limits of the listener that Stripe posts to."`
	JournalLimits JournalLimits  `yaml:"journal_limits" doc:"Limits of the journal."`
	Trusted       []netip.Prefix `yaml:"trusted_proxies" doc:"Addresses and networks (10.0.0.0/8) of proxies whose X-Forwarded-* headers are believed: at most a /8, or a /20 of IPv6."`
	TLS           TLS            `yaml:"tls" doc:"Serve HTTPS. Both files are read again when they change."`
	StripeIPs     []stripeIP     `yaml:"stripe_ips" doc:"Addresses and networks that Stripe sends from; default stands for a dated list that comes with the gateway. When set, what comes from there and verifies with no secret is kept in quarantine and answered 2xx, instead of refused."`
	Quarantine    Quarantine     `yaml:"quarantine" doc:"Bounds of the quarantine. What they leave no room for is answered 400, as without stripe_ips."`
}

// Admin is the listener for people and monitoring.
type Admin struct {
	Listen string       `yaml:"listen" doc:"host:port. Anything but loopback needs a token."`
	Token  proxy.Secret `yaml:"token" doc:"What clients present as a bearer token, of at least 16 characters: openssl rand -hex 32. Empty: none is asked for."`
}

// TLS names the certificate to serve HTTPS with. Without one the listener speaks HTTP.
type TLS struct {
	CertFile string `yaml:"cert_file" doc:"PEM file: the certificate and its chain."`
	KeyFile  string `yaml:"key_file" doc:"PEM file: the certificate's private key."`
}

// Limits bound what the listener that Stripe posts to takes. ReadBody and BodyMemory are in proxy.Config too.
type Limits struct {
	ReadHeader  time.Duration `yaml:"read_header" most:"5m" doc:"A request's headers must have arrived within this time."`
	ReadBody    time.Duration `yaml:"read_body" most:"5m" doc:"A request's body must have arrived within this time."`
	Connections int           `yaml:"connections" most:"1000000" doc:"Connections at once."`
	HeaderBytes int64         `yaml:"header_bytes" most:"1MiB" doc:"Size of a request's headers."`
	BodyMemory  int64         `yaml:"body_memory" most:"64GiB" doc:"Bodies held in memory at once, all requests together."`
}

// JournalLimits bound the journal.
type JournalLimits struct {
	Reserve int64 `yaml:"reserve" most:"1TiB" doc:"Below this much free space no new event is stored (Stripe gets 503 and keeps it), so that a full disk can heal by draining."`
}

// Retention says how long events are kept.
type Retention struct {
	Delivered time.Duration `yaml:"delivered" most:"87600h" doc:"Events that every backend has."`
	Failed    time.Duration `yaml:"failed" most:"87600h" doc:"Events that were given up. Until then they can be resent; after it they are gone."`
	Ignored   time.Duration `yaml:"ignored" most:"87600h" doc:"Events that a route with to: [] ignores."`
	Unrouted  time.Duration `yaml:"unrouted" most:"87600h" doc:"Events that no route matches."`
}

// Quarantine bounds what is kept of requests that come from Stripe's addresses and do not verify.
type Quarantine struct {
	MaxBytes int64         `yaml:"max_bytes" most:"64GiB" doc:"Of all that is kept."`
	MaxAge   time.Duration `yaml:"max_age" most:"8760h" doc:"Then a request is dropped for good; it is alerted 7 days before."`
	Rate     float64       `yaml:"rate" doc:"At most this many are kept in a time."`
}

type source struct {
	Path           string         `yaml:"path" required:"true" doc:"The path of the URL registered at Stripe, exactly, such as /stripe/webhook."`
	SigningSecrets []proxy.Secret `yaml:"signing_secrets" required:"true" doc:"This endpoint's signing secrets (whsec_...). Several while one is rolled."`
	Tolerance      time.Duration  `yaml:"tolerance" most:"24h" doc:"How old a signature may be."`
	MaxBody        int64          `yaml:"max_body" most:"64MiB" doc:"Larger bodies are refused with 413."`
}

type backend struct {
	URL            string                  `yaml:"url" required:"true" doc:"The exact target: nothing is added to its path."`
	Timeout        time.Duration           `yaml:"timeout" doc:"Of one attempt, at most 5m. Stripe is answered at inline_timeout, whatever this says."`
	MaxInFlight    int                     `yaml:"max_in_flight" most:"10000" doc:"Requests at once, first and later attempts together. Less than the backend has workers."`
	Rate           float64                 `yaml:"rate" doc:"At most this many late deliveries in a time, such as 50/s or 600/m. Default: no limit."`
	Retry          retry                   `yaml:"retry" doc:"How a failed delivery is tried again: exponential backoff with jitter."`
	Breaker        breaker                 `yaml:"breaker" doc:"When to leave a failing backend alone."`
	SigningSecrets []proxy.Secret          `yaml:"signing_secrets" doc:"The backend's own secrets, when it does not hold Stripe's: every delivery is then signed with them."`
	Headers        map[string]proxy.Secret `yaml:"headers" doc:"Added to each request, for instance Authorization. Values are secrets."`
	Success        success                 `yaml:"success" doc:"What counts as done, when a 2xx alone does not say so."`
	Host           string                  `yaml:"host" doc:"The Host header, when it is not the URL's."`
	CAFile         string                  `yaml:"ca_file" doc:"PEM file of the only certificate authorities to believe for this backend."`
	ForwardedProto string                  `yaml:"forwarded_proto" enum:"http,https" doc:"X-Forwarded-Proto, whatever a trusted proxy said. Default: what it said, else https."`
	APIVersion     string                  `yaml:"api_version" doc:"The API version that the backend's Stripe library expects; events of another one are counted and warned of."`
	Was            []string                `yaml:"was" doc:"Earlier names of this backend: their deliveries are taken over."`
}

type retry struct {
	Initial     time.Duration `yaml:"initial" most:"24h" doc:"Before the second attempt."`
	Max         time.Duration `yaml:"max" most:"168h" doc:"The longest wait between two attempts."`
	GiveUpAfter time.Duration `yaml:"give_up_after" most:"8760h" doc:"Then the delivery is Failed: kept, and sent again only when asked. At least 10 attempts are made."`
}

type breaker struct {
	Failures int           `yaml:"failures" most:"1000" doc:"So many failures in a row open it: events are stored at once, and nothing is sent."`
	OpenFor  time.Duration `yaml:"open_for" most:"24h" doc:"Then one event is sent, to see whether the backend is back."`
}

type success struct {
	Status  []proxy.StatusRange `yaml:"status" doc:"Statuses and ranges within 200-299, such as 200 or 200-204. Default: 200-299."`
	BodyNot []string            `yaml:"body_not" doc:"Texts that an answer's first 64 KiB must not contain."`
}

type route struct {
	Types      []string      `yaml:"types" doc:"Event types; * stands for any run of characters, dots included. Left out: every event."`
	Source     string        `yaml:"source" doc:"Only events that came in on this source."`
	Account    string        `yaml:"account" doc:"Only events of this connected account (acct_..., * as in types); \"-\" for one's own account."`
	Livemode   *bool         `yaml:"livemode" doc:"Only live events (true) or only test events (false)."`
	APIVersion string        `yaml:"api_version" doc:"Only events of this API version; * as in types."`
	To         []string      `yaml:"to" required:"true" doc:"The names of backends; [] ignores the event."`
	Continue   bool          `yaml:"continue" doc:"Look at later routes too."`
	Answer     proxy.Answer  `yaml:"answer" enum:"always,backend,relay" doc:"always: 2xx once the event is delivered or stored. backend: 2xx only once each backend answered 2xx. relay: the backend's own answer; nothing is kept."`
	HoldFor    time.Duration `yaml:"hold_for" doc:"With answer: backend: Stripe gets its 2xx after this time in any case. Default 24h, at most 60h."`
	Fallback   *fallback     `yaml:"fallback" doc:"With answer: relay: what Stripe gets when the backend gives no answer. Default: 503. With a 2xx the event has reached nobody and is kept nowhere."`
	Deliver    string        `yaml:"deliver" enum:"inline,queued" doc:"inline: while Stripe waits. queued: in the background, after Stripe got its 2xx."`
}

type fallback struct {
	Status  int               `yaml:"status" required:"true" doc:"The HTTP status."`
	Headers map[string]string `yaml:"headers" doc:"Its headers."`
	Body    string            `yaml:"body" doc:"Its body, as it is."`
}

// defaults holds what the keys of a source, backend, route or whole document are when they are left out. What the gateway
// itself has a default for, proxy says.
var defaults = sync.OnceValue(func() map[reflect.Type]reflect.Value {
	p := proxy.Config{Sources: map[string]proxy.Source{"": {}}, Backends: map[string]proxy.Backend{"": {}}}.WithDefaults()
	b := p.Backends[""]
	values := map[reflect.Type]reflect.Value{}
	for _, v := range []any{
		document{
			Version: 1, Listen: ":8420", Journal: "sqlite:breakwater.db", Admin: Admin{Listen: "127.0.0.1:8421"},
			InlineTimeout: p.InlineTimeout, ResignAfter: p.ResignAfter, DedupeWindow: p.DedupeWindow, DrainTimeout: p.DrainTimeout,
			Limits: Limits{
				ReadHeader: 5 * time.Second, ReadBody: p.ReadBody, Connections: 4096, HeaderBytes: 32 << 10, BodyMemory: p.BodyMemory,
			},
			Retention:     Retention(journal.DefaultRetention),
			JournalLimits: JournalLimits{Reserve: 256 << 20},
			Quarantine:    Quarantine{MaxBytes: 64 << 20, MaxAge: 720 * time.Hour, Rate: 10},
		},
		source(p.Sources[""]),
		backend{Timeout: b.Timeout, MaxInFlight: b.MaxInFlight, Retry: retry(b.Retry), Breaker: breaker(b.Breaker)},
		route{Answer: proxy.AnswerAlways, Deliver: "inline"},
	} {
		values[reflect.TypeOf(v)] = reflect.ValueOf(v)
	}
	return values
})

// defaultOf returns what a struct is by default. part is its default as part of another struct, as retry is of a backend.
func defaultOf(t reflect.Type, part reflect.Value) reflect.Value {
	if own, ok := defaults()[t]; ok {
		return own
	}
	if part.Type() == t {
		return part
	}
	return reflect.Zero(t) // the part is a list, a map or a pointer, which is empty by default
}

// eachKey visits the keys of a struct, and of those below it, with their paths, such as backends.NAME.timeout, and their
// defaults. part is as for defaultOf.
func eachKey(t reflect.Type, part reflect.Value, path string, visit func(path string, f reflect.StructField, def reflect.Value)) {
	for _, f := range reflect.VisibleFields(t) {
		below, at, def := f.Type, join(path, f.Tag.Get("yaml")), defaultOf(t, part).FieldByIndex(f.Index)
		visit(at, f, def)
		switch below.Kind() {
		case reflect.Map:
			below, at = below.Elem(), at+".NAME"
		case reflect.Slice, reflect.Pointer:
			below = below.Elem()
		}
		if scalarTypes[below].parse == nil && below.Kind() == reflect.Struct {
			eachKey(below, def, at, visit)
		}
	}
}

// Schema returns the JSON schema of routes.yaml, for editors: the file routes.schema.json.
func Schema() []byte {
	t := reflect.TypeFor[document]()
	r := jsonschema.Reflector{
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true,
		DoNotReference:             true,
		Anonymous:                  true,
		Mapper:                     scalarSchema,
	}
	s := r.ReflectFromType(t)
	s.Title = "routes.yaml of Breakwater"
	annotate(s, t, reflect.Value{})
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("encode schema: %v", err)) // it is made of our own structs alone
	}
	return append(b, '\n')
}

// reference matches a text that holds a ${...}, which may stand for any value.
const reference = `\$\{`

// scalarSchema returns the schema of a type that is written as one value, nil for other types.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	s, ok := scalarTypes[t]
	if !ok {
		return nil
	}
	out := &jsonschema.Schema{Type: "string"}
	if s.pattern != "" {
		out.Pattern = s.pattern + "|" + reference
	}
	if s.json == "" {
		return out
	}
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: s.json, Minimum: s.min, Maximum: s.max}, out}}
}

// annotate adds what our own tags and defaults say to the schema of a struct and of those below it. part is as for
// defaultOf.
func annotate(s *jsonschema.Schema, t reflect.Type, part reflect.Value) {
	for t.Kind() != reflect.Struct || scalarTypes[t].parse != nil {
		switch t.Kind() {
		case reflect.Pointer:
			t = t.Elem()
		case reflect.Slice:
			s, t = s.Items, t.Elem()
		case reflect.Map:
			s, t = s.AdditionalProperties, t.Elem()
		default:
			return
		}
	}
	def := defaultOf(t, part)
	for _, f := range reflect.VisibleFields(t) {
		p, _ := s.Properties.Get(f.Tag.Get("yaml"))
		p.Description = f.Tag.Get("doc")
		if most := f.Tag.Get("most"); most != "" {
			p.Description += " At most " + most + "."
		}
		if _, ok := scalarTypes[f.Type]; ok {
			p.Default = rendered(def.FieldByIndex(f.Index))
		}
		if f.Tag.Get("required") != "" {
			s.Required = append(s.Required, f.Tag.Get("yaml"))
		}
		if enum := f.Tag.Get("enum"); enum != "" {
			words := &jsonschema.Schema{}
			for v := range strings.SplitSeq(enum, ",") {
				words.Enum = append(words.Enum, v)
			}
			p.Type, p.AnyOf = "", []*jsonschema.Schema{words, {Type: "string", Pattern: reference}}
		}
		annotate(p, f.Type, def.FieldByIndex(f.Index))
		if f.Type == reflect.TypeFor[[]stripeIP]() { // a single one may stand for the list: "stripe_ips: default"
			p.AnyOf = []*jsonschema.Schema{{Type: p.Type, Items: p.Items}, p.Items}
			p.Type, p.Items = "", nil
		}
	}
}
