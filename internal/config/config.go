// Package config reads routes.yaml. It turns the file into a [File], and everything that is wrong with it into
// [Problems] that name file, line and column: all of them at once.
//
// The structs of this package are the only list of keys: the decoder, the suggestions in its errors and the JSON schema
// all read their tags.
//
// In each value, but not in keys, ${NAME} stands for an environment variable, ${NAME:-default} for one that may be unset
// or empty, and ${file:/path} for a file's content without its last line breaks. They are filled in once the YAML is
// parsed, so that what they bring in is always one value and never more YAML. A default is taken as it stands. $$
// stands for $, so that $${NAME} is the text ${NAME}; any other $ is itself. A relative path, wherever it stands, starts
// from the file's folder.
//
// A secret is never shown: problems quote no value that was filled in, and excerpts print secrets as ***.
package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// File is a routes.yaml, with its defaults filled in.
type File struct {
	Path  string       // as it was given to Load
	Proxy proxy.Config // without Journal, Log, Observers and Quarantine

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

	Problems Problems // errors, warnings and advice, in the order of the file
	Watch    []string // the files to read again when they change: itself, those in ${file:...}, certificates and keys

	doc          document
	holdsSecrets bool // in its own text, and not only by ${...}
}

// Journal says where events are kept.
type Journal struct {
	Driver string // "sqlite"
	Path   string // of the database file
}

// StripeIPs says which addresses Stripe sends from. The zero value knows none, so that nothing is put into quarantine.
type StripeIPs struct {
	Default bool           // those of the list that comes with the gateway
	Own     []netip.Prefix // those that the file names
}

// maxFile is far above any real file. The YAML parser's time grows with the square of the number of keys.
const maxFile = 128 << 10

// Load reads and checks the file at path. Its error is a Problems: every error in the file, without warnings and advice.
// The File is never nil, but with an error only its Path, Problems and Watch mean anything.
func Load(path string) (*File, error) {
	src, err := readFile(path, maxFile)
	if err != nil {
		remedy := ""
		if errors.Is(err, fs.ErrNotExist) {
			remedy = "; name another one with --config"
		}
		p := Problems{{File: path, Severity: Error, Text: fmt.Sprintf("read configuration: %v%s", err, remedy)}}
		return &File{Path: path, Problems: p, Watch: []string{path}}, p
	}
	f := parse(path, src, os.LookupEnv)
	if text := openToOthers(path); text != "" && f.holdsSecrets {
		about := Problem{File: path, Severity: Warning, Text: "this file holds secrets and " + text}
		f.Problems = append(Problems{about}, f.Problems...)
	}
	if p := f.Problems.errors(); len(p) > 0 {
		return f, p
	}
	return f, nil
}

// parse is Load with the file's content and an environment given; only what the file names is read from disk.
func parse(path string, src []byte, env func(string) (string, bool)) *File {
	d := &decoder{
		dir: filepath.Dir(path), env: env,
		places: map[string]place{}, texts: map[string]string{}, bad: map[string]bool{},
		visible: map[place]string{},
	}
	f := &File{Path: path, Watch: []string{path}}
	if root := d.parseYAML(src); root != nil {
		var doc document
		d.decode(root, reflect.ValueOf(&doc).Elem(), "")
		d.build(&doc, f)
		f.doc = doc
	}
	f.Problems, f.holdsSecrets = d.report(path, src), d.literal
	for _, name := range d.files {
		if !slices.Contains(f.Watch, name) {
			f.Watch = append(f.Watch, name)
		}
	}
	return f
}

// readFile returns a file's content, or an error that names the file when it is longer than limit.
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

// build makes a File of a document, and checks what only several values together show: two listeners on one port, say.
func (d *decoder) build(doc *document, f *File) {
	f.Listen, f.Admin, f.TLS, f.Limits = doc.Listen, doc.Admin, doc.TLS, doc.Limits
	f.JournalLimits, f.Retention, f.ShutdownDelay = doc.JournalLimits, doc.Retention, doc.ShutdownDelay
	f.StripeIPs, f.Quarantine = d.stripeIPs(doc.StripeIPs), doc.Quarantine
	f.Proxy = proxy.Config{
		Sources:        map[string]proxy.Source{},
		Backends:       map[string]proxy.Backend{},
		InlineTimeout:  doc.InlineTimeout,
		ResignAfter:    doc.ResignAfter,
		DedupeWindow:   doc.DedupeWindow,
		DrainTimeout:   doc.DrainTimeout,
		ReadBody:       doc.Limits.ReadBody,
		BodyMemory:     doc.Limits.BodyMemory,
		TrustedProxies: doc.Trusted,
	}
	for name, s := range doc.Sources {
		f.Proxy.Sources[name] = proxy.Source(s)
	}
	for _, name := range slices.Sorted(maps.Keys(doc.Backends)) {
		f.Proxy.Backends[name] = d.backend("backends."+name, doc.Backends[name])
	}
	for i := range doc.Routes {
		f.Proxy.Routes = append(f.Proxy.Routes, doc.Routes[i].route())
	}
	if doc.Version != 1 && !d.bad["version"] {
		d.fail("version", "this gateway reads version 1 of the file")
	}
	f.Journal = d.journal(doc.Journal)
	d.checkListeners(f)
	d.checkTrusted(doc.Trusted)
	d.checkTLS(&f.TLS)
	d.checkProxy(&f.Proxy)
}

func (d *decoder) backend(path string, b backend) proxy.Backend {
	if b.CAFile != "" && d.checkFileName(path+".ca_file", b.CAFile) {
		b.CAFile = d.fromDir(b.CAFile)
		if pem, err := readFile(b.CAFile, 1<<20); err != nil {
			d.fail(path+".ca_file", "read ca_file: %v", err)
		} else if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			d.fail(path+".ca_file", "the file holds no certificate in PEM form")
		}
	}
	return proxy.Backend{
		URL: b.URL, Timeout: b.Timeout, MaxInFlight: b.MaxInFlight, Rate: b.Rate,
		Retry: proxy.Retry(b.Retry), Breaker: proxy.Breaker(b.Breaker), Success: proxy.Success(b.Success),
		SigningSecrets: b.SigningSecrets, Headers: b.Headers, Host: b.Host, CAFile: b.CAFile,
		ForwardedProto: b.ForwardedProto, APIVersion: b.APIVersion, Was: b.Was,
	}
}

func (r *route) route() proxy.Route {
	out := proxy.Route{
		Types: r.Types, Source: r.Source, Account: r.Account, Livemode: r.Livemode, APIVersion: r.APIVersion,
		To: r.To, Continue: r.Continue, Answer: r.Answer, HoldFor: r.HoldFor, Queued: r.Deliver == "queued",
	}
	if r.Fallback != nil {
		out.Fallback = &proxy.Fallback{Status: r.Fallback.Status, Header: http.Header{}, Body: r.Fallback.Body}
		for name, value := range r.Fallback.Headers {
			out.Fallback.Header.Set(name, value)
		}
	}
	return out
}

func (d *decoder) stripeIPs(list []stripeIP) StripeIPs {
	var out StripeIPs
	for i, p := range list {
		switch at := fmt.Sprintf("stripe_ips[%d]", i); {
		case d.spoiled(at):
		case !p.IsValid():
			out.Default = true
		default:
			out.Own = append(out.Own, p.Prefix)
			if p.Bits() == 0 {
				d.add(d.locate(at), at, Warning, "this is every address: anybody can fill the quarantine, and gets a 2xx until it is full")
			}
		}
	}
	return out
}

func (d *decoder) journal(text string) Journal {
	driver, path, _ := strings.Cut(text, ":")
	switch {
	case d.bad["journal"]:
	case driver == "postgres" || driver == "postgresql":
		d.fail("journal", "this build has no PostgreSQL journal: write sqlite:breakwater.db")
	case driver != "sqlite" || strings.HasPrefix(path, "//") || path == "":
		d.fail("journal", "journal must be sqlite:PATH, such as sqlite:breakwater.db")
	case path == ":memory:" || strings.HasPrefix(path, "file:"):
		d.fail("journal", "journal must be a plain path: an event that was answered 2xx has to be on stable storage")
	default:
		j := Journal{Driver: driver, Path: d.fromDir(path)}
		d.files = d.files[:len(d.files)-1] // not to be watched: the gateway writes it itself
		return j
	}
	return Journal{}
}

func (d *decoder) checkListeners(f *File) {
	public, port, okPublic := d.checkListen("listen", f.Listen)
	admin, adminPort, okAdmin := d.checkListen("admin.listen", f.Admin.Listen)
	if okPublic && okAdmin && port == adminPort && port != "0" && (public == admin || public == "" || admin == "") {
		d.fail("listen", "admin.listen is the same as listen: Stripe's side and the admin side need an address each")
	}
	if !okAdmin || d.bad["admin.token"] {
		return
	}
	switch fault := tokenFault(string(f.Admin.Token)); {
	case f.Admin.Token == "" && loopback(admin), f.Admin.Token != "" && fault == "":
	case loopback(admin):
		d.add(d.locate("admin.token"), "admin.token", Warning, fault)
	case f.Admin.Token != "":
		d.fail("admin.token", "%s", fault)
	default:
		d.fail("admin.listen", `admin.listen is reachable from other machines: set admin.token, such as "${BREAKWATER_ADMIN_TOKEN}", `+
			"or listen on 127.0.0.1")
	}
}

// checkListen splits an address to listen on; ok is false when it is none, which is told.
func (d *decoder) checkListen(path, address string) (host, port string, ok bool) {
	if d.bad[path] {
		return "", "", false
	}
	host, port, err := net.SplitHostPort(address)
	if n, e := strconv.ParseUint(port, 10, 16); errors.Join(err, e) != nil || n > 65535 {
		d.fail(path, "%s must be host:port, such as :8420 or 127.0.0.1:8421", path)
		return "", "", false
	}
	return host, port, true
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

func (d *decoder) checkTLS(t *TLS) {
	switch {
	case t.CertFile == "" && t.KeyFile == "":
		return
	case t.CertFile == "" || t.KeyFile == "":
		d.fail("tls", "cert_file and key_file go together")
		return
	case !d.checkFileName("tls.cert_file", t.CertFile) || !d.checkFileName("tls.key_file", t.KeyFile):
		return
	}
	t.CertFile, t.KeyFile = d.fromDir(t.CertFile), d.fromDir(t.KeyFile)
	if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
		d.fail("tls.cert_file", "load certificate and key: %v", err)
	}
}

// checkFileName reports whether a value names a file. Where it is what should be in the file, that is told, and not shown.
func (d *decoder) checkFileName(path, value string) bool {
	if strings.ContainsAny(value, "\n\x00") || strings.HasPrefix(value, "-----BEGIN") {
		d.fail(path, "%s must be the name of a file, not what is in it", lastKey(path))
		return false
	}
	return true
}

// checkProxy adds what proxy.Config.Check finds, except what follows from an error that is told already: a route to a
// backend whose name could not be read is not told to name none.
func (d *decoder) checkProxy(c *proxy.Config) {
	broken := func(part string) bool {
		for path := range d.bad {
			if path == part || strings.HasPrefix(path, part+".") || strings.HasPrefix(path, part+"[") {
				return true
			}
		}
		return false
	}
	for _, p := range c.Check() {
		names := "backends"
		if strings.HasSuffix(p.Path, ".source") {
			names = "sources"
		}
		switch {
		case d.spoiled(p.Path), p.Known != nil && d.spoiled(names), p.Warning && broken("routes"):
			continue
		case p.Advice:
			d.add(d.locate(p.Path), p.Path, Advice, p.Text)
		case p.Warning:
			d.add(d.locate(p.Path), p.Path, Warning, p.Text)
		default:
			d.fail(p.Path, "%s%s", p.Text, didYouMean(d.texts[p.Path], p.Known))
		}
	}
}
