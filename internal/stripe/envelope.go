package stripe

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Envelope is what routing needs of an event. Only ID and Type are always there.
type Envelope struct {
	ID         string
	Type       string
	Account    string // the connected account: account, or the acct_ in context
	APIVersion string
	Object     string // data.object.id, or related_object.id of a thin event
	Customer   string // data.object.customer, or its id where it is expanded; the object itself where it is a customer
	Livemode   bool
	Created    time.Time // UTC; zero when the body says nothing
}

const maxName = 255 // bytes of an id, a type, a version

// Parse reads the envelope out of an event's raw body: a snapshot event of any API version, or a thin one.
//
// The whole body must be one JSON object in valid UTF-8, at most 512 levels deep, with nothing after it. id and type
// must be there. A key that Parse reads must not stand twice in its object: two readers could take one body for two
// different events. id, type, account, context and api_version are printable ASCII of at most 255 bytes, livemode is a
// boolean (null is as good as missing), since a guess there would route the event wrongly. What else is odd (created,
// the object's and the customer's id) is left zero: it costs a filter, not the event.
//
// Parse makes one pass, does not recurse, and allocates the returned strings only (and where a string that it reads has
// escapes). Errors name the offset.
func Parse(body []byte) (Envelope, error) {
	p := parser{scanner: scanner{b: body}}
	p.body()
	if p.err != nil {
		return Envelope{}, fmt.Errorf("event: %w", p.err)
	}
	if p.Account == "" {
		p.Account = accountOf(p.context)
	}
	if p.Object == "" {
		p.Object, p.isCustomer = p.related, p.relatedIsCustomer
	}
	if p.Customer == "" && p.isCustomer {
		p.Customer = p.Object
	}
	return p.Envelope, nil
}

// accountOf returns the connected account that a context names: the last segment of org_.../acct_...
func accountOf(context string) string {
	last := context[strings.LastIndexByte(context, '/')+1:]
	if strings.HasPrefix(last, "acct_") {
		return last
	}
	return ""
}

// parser has a method for each object that it reads; each leaves the position behind its value.
type parser struct {
	scanner
	Envelope
	context           string
	isCustomer        bool   // by data.object.object
	related           string // related_object.id
	relatedIsCustomer bool   // by related_object.type
}

var (
	eventKeys    = []string{"id", "type", "account", "context", "api_version", "livemode", "created", "data", "related_object"}
	dataKeys     = []string{"object"}
	objectKeys   = []string{"id", "object", "customer"}
	customerKeys = []string{"id"}
	relatedKeys  = []string{"id", "type"}
)

func (p *parser) body() {
	if bytes.HasPrefix(p.b, []byte("\xEF\xBB\xBF")) {
		p.fail("starts with a byte order mark")
		return
	}
	if p.peek() != '{' {
		p.unexpected("an object")
		return
	}
	p.event()
	if p.peek(); p.i < len(p.b) {
		p.unexpected("the end")
	}
	switch {
	case p.err != nil:
	case p.ID == "":
		p.err = errors.New(`no "id"`)
	case p.Type == "":
		p.err = errors.New(`no "type"`)
	}
}

func (p *parser) event() {
	var seen uint
	for k, ok := p.first(); ok; k, ok = p.next() {
		switch p.known(k, eventKeys, &seen) {
		case "id":
			p.ID = p.name("id")
		case "type":
			p.Type = p.name("type")
		case "account":
			p.Account = p.name("account")
		case "context":
			p.context = p.name("context")
		case "api_version":
			p.APIVersion = p.name("api_version")
		case "livemode":
			p.Livemode = p.boolean("livemode")
		case "created":
			p.Created = p.time()
		case "data":
			p.data()
		case "related_object":
			p.relatedObject()
		default:
			p.skip()
		}
	}
}

func (p *parser) data() {
	if p.peek() != '{' {
		p.skip()
		return
	}
	var seen uint
	for k, ok := p.first(); ok; k, ok = p.next() {
		if p.known(k, dataKeys, &seen) == "object" && p.peek() == '{' {
			p.object()
		} else {
			p.skip()
		}
	}
}

func (p *parser) object() {
	var seen uint
	for k, ok := p.first(); ok; k, ok = p.next() {
		switch p.known(k, objectKeys, &seen) {
		case "id":
			p.Object = p.label()
		case "object":
			p.isCustomer = p.is("customer")
		case "customer":
			if p.peek() == '{' {
				p.customer()
			} else {
				p.Customer = p.label()
			}
		default:
			p.skip()
		}
	}
}

func (p *parser) customer() {
	var seen uint
	for k, ok := p.first(); ok; k, ok = p.next() {
		if p.known(k, customerKeys, &seen) == "id" {
			p.Customer = p.label()
		} else {
			p.skip()
		}
	}
}

func (p *parser) relatedObject() {
	if p.peek() != '{' {
		p.skip()
		return
	}
	var seen uint
	for k, ok := p.first(); ok; k, ok = p.next() {
		switch p.known(k, relatedKeys, &seen) {
		case "id":
			p.related = p.label()
		case "type":
			p.relatedIsCustomer = p.is("customer")
		default:
			p.skip()
		}
	}
}

// known returns which of names the key is, or "". seen has a bit for each name that was met in this object.
func (p *parser) known(key []byte, names []string, seen *uint) string {
	i := slices.IndexFunc(names, func(n string) bool { return string(key) == n })
	if i < 0 {
		return ""
	}
	if *seen&(1<<i) != 0 {
		p.fail("%q stands twice", names[i])
	}
	*seen |= 1 << i
	return names[i]
}

// name reads a string that routing rests on; null is "".
func (p *parser) name(what string) string {
	c := p.peek()
	at := p.i
	switch c {
	case '"':
	case 'n':
		p.literal()
		return ""
	default:
		p.unexpected("a string for " + what)
		return ""
	}
	s := p.text(maxName)
	if p.err != nil {
		return ""
	}
	fits := s != "" || p.i-at == len(`""`)
	for _, c := range []byte(s) {
		fits = fits && ' ' <= c && c <= '~'
	}
	if !fits {
		p.i = at
		p.fail("%s is not printable ASCII of at most %d bytes", what, maxName)
	}
	return s
}

// label reads a value that is only shown and searched: "" for anything but a short string without control characters.
func (p *parser) label() string {
	if p.peek() != '"' {
		p.skip()
		return ""
	}
	s := p.text(maxName)
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7F }) >= 0 {
		return ""
	}
	return s
}

// is passes a value and reports whether it is that string.
func (p *parser) is(word string) bool {
	if p.peek() != '"' {
		p.skip()
		return false
	}
	from := p.i
	if p.str() {
		return unquote(p.b[from:p.i], maxName) == word
	}
	return string(p.b[from+1:max(p.i-1, from+1)]) == word
}

func (p *parser) boolean(what string) bool {
	switch p.peek() {
	case 't', 'f', 'n':
		return p.literal() == "true"
	}
	p.unexpected("true or false for " + what)
	return false
}

// time reads whole seconds since 1970, or the RFC 3339 text of a thin event.
func (p *parser) time() time.Time {
	if p.peek() == '"' {
		t, _ := time.Parse(time.RFC3339, p.text(maxName))
		return t.UTC()
	}
	from := p.i
	p.skip()
	if t, ok := parseStamp(string(p.b[from:p.i])); ok {
		return t
	}
	return time.Time{}
}
