// Package config reads routes.yaml. It turns the file into a [File], and everything that is wrong with it into
// [Problems] that name file, line and column: all of them at once.
//
// The structs of this package are the only list of keys: the decoder, the suggestions in its errors and the JSON schema
// come from their tags.
//
// In each value, but not in keys, ${NAME} stands for an environment variable, ${NAME:-default} for one that may be unset
// or empty, and ${file:/path} for a file's content without its last line breaks. They are filled in after the YAML was
// parsed, so what they bring in is always one value and never more YAML; a default is taken as it stands. A $ before { is written $${, and $$ is $ in
// general; any other $ is itself. A relative path, wherever it stands, starts from the file's folder.
//
// A secret is never shown: problems quote no value that was filled in, and excerpts print secrets as ***.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// File is a routes.yaml, with its defaults filled in.
type File struct {
	Path  string       // as it was given to Load
	Proxy proxy.Config // without Journal, Log and Observer

	Listen        string
	Journal       Journal
	JournalLimits JournalLimits
	Admin         Admin
	TLS           TLS
	Limits        Limits
	Retention     Retention
	ShutdownDelay time.Duration
	StripeIPs     StripeIPs
	Quarantine    Quarantine

	Problems Problems // errors, warnings and hints, in the order of the file
	Watch    []string // the files that it is made of: itself, those in ${file:...}, certificates and keys

	doc document
}

// Journal says where events are kept.
type Journal struct {
	Driver string // "sqlite"
	Path   string // of the database file
}

// StripeIPs says which addresses Stripe sends from. The zero value: none are known, and nothing is put into quarantine.
type StripeIPs struct {
	Default bool // those of the list that comes with the gateway
	Own     []netip.Prefix
}

// maxFile is far above any real file; the YAML parser takes time by the square of the number of keys.
const maxFile = 128 << 10

// Load reads and checks the file at path. The File is never nil: with an error, which is a Problems that holds all of the
// errors and nothing else, only its Path, Problems and Watch mean something.
func Load(path string) (*File, error) {
	src, err := readFile(path, maxFile)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "; name another one with --config"
		}
		p := Problems{{File: path, Severity: Error, Text: fmt.Sprintf("read configuration: %v%s", err, hint)}}
		return &File{Path: path, Problems: p, Watch: []string{path}}, p
	}
	f := parse(path, src, os.LookupEnv)
	if p := f.Problems.errors(); len(p) > 0 {
		return f, p
	}
	return f, nil
}

// parse is Load without the operating system, but for ${file:...} and certificates.
func parse(path string, src []byte, env func(string) (string, bool)) *File {
	d := &decoder{
		dir: filepath.Dir(path), env: env,
		places: map[string]place{}, texts: map[string]string{}, bad: map[string]bool{},
		visible: map[place]string{}, filled: map[string]string{},
	}
	f := &File{Path: path, Watch: []string{path}}
	if root := d.parseYAML(src); root != nil {
		var doc document
		d.decode(root, reflect.ValueOf(&doc).Elem(), "")
		d.build(&doc, f)
		f.doc = doc
	}
	f.Problems = d.report(path, src)
	for _, name := range d.read {
		if !slices.Contains(f.Watch, name) {
			f.Watch = append(f.Watch, name)
		}
	}
	return f
}

// readFile reads a file of at most limit bytes. Its errors name the file.
func readFile(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("larger than %d KiB", limit>>10)}
	}
	return b, err
}

// document is routes.yaml as it is written.
type document struct {
	Version int    `yaml:"version" default:"1" doc:"The version of this file's format: 1."`
	Listen  string `yaml:"listen" default:":8420" doc:"Where Stripe's requests come in, as host:port. No host: all addresses."`
	Journal string `yaml:"journal" default:"sqlite:breakwater.db" doc:"Where events are kept: sqlite:PATH, relative to this file's folder."`
	Admin   Admin  `yaml:"admin" doc:"The listener for people and monitoring: health, metrics, API and page."`

	Sources  map[string]source  `yaml:"sources" required:"true" doc:"The webhook endpoints registered at Stripe, by a name of your choice."`
	Backends map[string]backend `yaml:"backends" doc:"Where events are forwarded to, by a name of your choice. Names live on in the journal; to change one, see was."`
	Routes   []route            `yaml:"routes" required:"true" doc:"Which events go to which backends. In order, the first match wins."`

	Retention     Retention      `yaml:"retention" doc:"How long the journal keeps events, by what became of them."`
	InlineTimeout time.Duration  `yaml:"inline_timeout" default:"8s" doc:"Stripe is answered at the latest this long after its request came in, whatever the backend does."`
	ResignAfter   time.Duration  `yaml:"resign_after" default:"60s" doc:"A delivery later than this after Stripe signed the event is signed afresh, so that the backend does not refuse it as too old."`
	DedupeWindow  time.Duration  `yaml:"dedupe_window" default:"1m" doc:"A repeat within this time after our 2xx is answered and not delivered again."`
	ShutdownDelay time.Duration  `yaml:"shutdown_delay" default:"0s" doc:"How long to keep accepting after SIGTERM, while a load balancer sees that /readyz fails."`
	DrainTimeout  time.Duration  `yaml:"drain_timeout" default:"20s" doc:"How long running attempts may take to end when the gateway stops."`
	Limits        Limits         `yaml:"limits" doc:"Limits of the listener that Stripe posts to."`
	JournalLimits JournalLimits  `yaml:"journal_limits" doc:"Limits of the journal."`
	Trusted       []netip.Prefix `yaml:"trusted_proxies" doc:"Addresses and networks (10.0.0.0/8) of proxies whose X-Forwarded-* headers are believed."`
	TLS           TLS            `yaml:"tls" doc:"Serve HTTPS. Both files are read again when they change."`
	StripeIPs     []stripeIP     `yaml:"stripe_ips" doc:"Addresses and networks that Stripe sends from; default stands for a dated list that comes with the gateway. When set, what comes from there and verifies with no secret is kept in quarantine and answered 2xx, instead of refused."`
	Quarantine    Quarantine     `yaml:"quarantine" doc:"Bounds of the quarantine. What they leave no room for is answered 400, as without stripe_ips."`
}

// Admin is the listener for people and monitoring.
type Admin struct {
	Listen string       `yaml:"listen" default:"127.0.0.1:8421" doc:"host:port. Anything but loopback needs a token."`
	Token  proxy.Secret `yaml:"token" doc:"What clients present as a bearer token. Empty: none is asked for."`
}

// TLS names the certificate to serve HTTPS with. Without one the listener speaks HTTP.
type TLS struct {
	CertFile string `yaml:"cert_file" doc:"PEM file: the certificate and its chain."`
	KeyFile  string `yaml:"key_file" doc:"PEM file: the certificate's private key."`
}

// Limits bound what the listener that Stripe posts to takes. ReadBody and BodyMemory are in proxy.Config too.
type Limits struct {
	ReadHeader  time.Duration `yaml:"read_header" default:"5s" doc:"A request's headers must have arrived within this time."`
	ReadBody    time.Duration `yaml:"read_body" default:"15s" doc:"A request's body must have arrived within this time."`
	Connections int           `yaml:"connections" default:"4096" doc:"Connections at once."`
	HeaderBytes int64         `yaml:"header_bytes" default:"32KiB" doc:"Size of a request's headers."`
	BodyMemory  int64         `yaml:"body_memory" default:"64MiB" doc:"Bodies held in memory at once, all requests together."`
}

// JournalLimits bound the journal.
type JournalLimits struct {
	Reserve int64 `yaml:"reserve" default:"256MiB" doc:"Below this much free space no new event is stored (Stripe gets 503 and keeps it), so that a full disk can heal by draining."`
}

// Retention says how long events are kept.
type Retention struct {
	Delivered time.Duration `yaml:"delivered" default:"168h" doc:"Events that every backend has."`
	Failed    time.Duration `yaml:"failed" default:"2160h" doc:"Events that were given up. Until then they can be resent; after it they are gone."`
	Ignored   time.Duration `yaml:"ignored" default:"24h" doc:"Events that a route with to: [] ignores."`
	Unrouted  time.Duration `yaml:"unrouted" default:"720h" doc:"Events that no route matches."`
}

// Quarantine bounds what is kept of requests that come from Stripe's addresses and do not verify.
type Quarantine struct {
	MaxBytes int64         `yaml:"max_bytes" default:"64MiB" doc:"Of all that is kept."`
	MaxAge   time.Duration `yaml:"max_age" default:"720h" doc:"Then a request is dropped for good; it is alerted 7 days before."`
	Rate     float64       `yaml:"rate" default:"10/s" doc:"At most this many are kept in a time."`
}

type source struct {
	Path           string         `yaml:"path" required:"true" doc:"The path of the URL registered at Stripe, exactly, such as /stripe/webhook."`
	SigningSecrets []proxy.Secret `yaml:"signing_secrets" required:"true" doc:"This endpoint's signing secrets (whsec_...). Several while one is rolled."`
	Tolerance      time.Duration  `yaml:"tolerance" default:"5m" doc:"How old a signature may be."`
	MaxBody        int64          `yaml:"max_body" default:"1MiB" doc:"Larger bodies are refused with 413."`
}

type backend struct {
	URL            string                  `yaml:"url" required:"true" doc:"The exact target: nothing is added to its path."`
	Timeout        time.Duration           `yaml:"timeout" default:"30s" doc:"Of one attempt, at most 5m. Stripe is answered at inline_timeout, whatever this says."`
	MaxInFlight    int                     `yaml:"max_in_flight" default:"64" doc:"Requests at once, first and later attempts together. Less than the backend has workers."`
	Rate           float64                 `yaml:"rate" doc:"At most this many late deliveries in a time, such as 50/s or 600/m. Default: no limit."`
	Retry          retry                   `yaml:"retry" doc:"How a failed delivery is tried again: exponential backoff with jitter."`
	Breaker        breaker                 `yaml:"breaker" doc:"When to leave a failing backend alone."`
	SigningSecrets []proxy.Secret          `yaml:"signing_secrets" doc:"The backend's own secrets, when it does not hold Stripe's: every delivery is then signed with them."`
	Headers        map[string]proxy.Secret `yaml:"headers" doc:"Added to each request, for instance Authorization. Values are secrets."`
	Success        success                 `yaml:"success" doc:"What counts as done, when a 2xx alone does not say so."`
	Host           string                  `yaml:"host" doc:"The Host header, when it is not the URL's."`
	CAFile         string                  `yaml:"ca_file" doc:"PEM file of the only certificate authorities to believe for this backend."`
	ForwardedProto string                  `yaml:"forwarded_proto" default:"https" enum:"http,https" doc:"X-Forwarded-Proto, where Stripe's request came through no trusted proxy."`
	APIVersion     string                  `yaml:"api_version" doc:"The API version that the backend's Stripe library expects; events of another one are counted and warned of."`
	Was            []string                `yaml:"was" doc:"Earlier names of this backend: their deliveries are taken over."`
}

type retry struct {
	Initial     time.Duration `yaml:"initial" default:"5s" doc:"Before the second attempt."`
	Max         time.Duration `yaml:"max" default:"1h" doc:"The longest wait between two attempts."`
	GiveUpAfter time.Duration `yaml:"give_up_after" default:"168h" doc:"Then the delivery is Failed: kept, and sent again only when asked. At least 10 attempts are made."`
}

type breaker struct {
	Failures int           `yaml:"failures" default:"5" doc:"So many failures in a row open it: events are stored at once, and nothing is sent."`
	OpenFor  time.Duration `yaml:"open_for" default:"30s" doc:"Then one event is sent, to see whether the backend is back."`
}

type success struct {
	Status  []proxy.StatusRange `yaml:"status" doc:"Statuses and ranges, such as 200 or 200-299. Default: 200-299."`
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
	Answer     proxy.Answer  `yaml:"answer" default:"always" enum:"always,backend,relay" doc:"always: 2xx once the event is delivered or stored. backend: 2xx only once each backend answered 2xx. relay: the backend's own answer; nothing is kept."`
	HoldFor    time.Duration `yaml:"hold_for" doc:"With answer: backend: Stripe gets its 2xx after this time in any case. Default 24h, at most 60h."`
	Fallback   *fallback     `yaml:"fallback" doc:"With answer: relay: what Stripe gets when the backend gives no answer. Default: 503."`
	Deliver    string        `yaml:"deliver" default:"inline" enum:"inline,queued" doc:"inline: while Stripe waits. queued: in the background, after Stripe got its 2xx."`
}

type fallback struct {
	Status  int               `yaml:"status" required:"true" doc:"The HTTP status."`
	Headers map[string]string `yaml:"headers" doc:"Its headers."`
	Body    string            `yaml:"body" doc:"Its body, as it is."`
}
