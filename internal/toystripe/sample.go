package toystripe

import (
	"cmp"
	"embed"
	"encoding/json"
	"io/fs"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed samples/*.json
var files embed.FS

// samples returns the files by event type. They are cut when first asked for: not every command sends events.
var samples = sync.OnceValue(load)

func load() map[string]template {
	paths, err := fs.Glob(files, "samples/*.json")
	if err != nil {
		panic(err)
	}
	all := make(map[string]template, len(paths))
	for _, path := range paths {
		body, err := files.ReadFile(path)
		if err != nil {
			panic(err)
		}
		typ := strings.TrimSuffix(strings.TrimPrefix(path, "samples/"), ".json")
		all[typ] = compile(strings.TrimSuffix(string(body), "\n"))
	}
	return all
}

// template is a body cut where an event differs from the next one of its type.
type template struct {
	pieces  []piece
	size    int
	id      string // the sample's: new ones have its shape
	object  string // the id of the event's object, "" when that has none of its own
	request string
	account string
}

type piece struct {
	text  string // what stands before the slot
	slot  slot
	after int64 // of times: seconds after the event's created
}

type slot int

const (
	end slot = iota
	eventID
	objectID
	requestID
	accountID
	accountMember // a whole line, where the sample has no account
	contextMember
	unixTime
	textTime
	typeName
	objectName
)

const (
	accountLine = "  \"object\": \"event\",\n"
	contextLine = "  \"livemode\": false,\n"
	timeLayout  = "2006-01-02T15:04:05.000Z"
)

// compile cuts a sample. It panics on one that is not an event: samples are part of the program.
func compile(body string) template {
	var e struct {
		ID, Account, Context string
		Created              any
		Request              struct{ ID string }
		Reason               struct{ Request struct{ ID string } }
		Data                 struct{ Object struct{ ID string } }
		Related              struct{ ID string } `json:"related_object"`
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		panic(err)
	}
	t := template{
		size:    len(body) + 64,
		id:      e.ID,
		object:  cmp.Or(e.Data.Object.ID, e.Related.ID),
		request: cmp.Or(e.Request.ID, e.Reason.Request.ID),
		account: cmp.Or(e.Account, e.Context),
	}
	if t.object == t.account || !strings.Contains(t.object, "_") { // a coupon's id is chosen by a person
		t.object = ""
	}
	slots, cut := t.slots()
	created := seconds(e.Created)
	last, member := 0, false
	for _, at := range cut.FindAllStringIndex(body, -1) {
		found := body[at[0]:at[1]]
		p := piece{text: body[last:at[0]], slot: slots[found]}
		switch p.slot {
		case accountMember, contextMember:
			if member { // livemode follows object: a snapshot event
				continue
			}
			member = true
			p.text = body[last:at[1]]
		case end:
			if p.slot = textTime; found[4] != '-' {
				p.slot = unixTime
			}
			p.after = seconds(found) - created
		}
		t.pieces = append(t.pieces, p)
		last = at[1]
	}
	t.pieces = append(t.pieces, piece{text: body[last:]})
	return t
}

// slots returns the texts that are replaced, and what finds them and times.
func (t *template) slots() (map[string]slot, *regexp.Regexp) {
	slots := map[string]slot{
		t.id: eventID, t.object: objectID, t.request: requestID, t.account: accountID, "<type>": typeName, "<object>": objectName,
	}
	if t.account == "" {
		slots[accountLine], slots[contextLine] = accountMember, contextMember
	}
	delete(slots, "")
	texts := slices.SortedFunc(maps.Keys(slots), func(a, b string) int { return len(b) - len(a) }) // <object> starts an object's id
	for i, text := range texts {
		texts[i] = regexp.QuoteMeta(text)
	}
	texts = append(texts, `\b1[678]\d{8}\b`, `\d{4}-\d\d-\d\dT[0-9:.]+Z`)
	return slots, regexp.MustCompile(strings.Join(texts, "|"))
}

// seconds reads a time in either of the ways that Stripe writes it; 0 for none.
func seconds(v any) int64 {
	switch v := v.(type) {
	case float64:
		return int64(v)
	case string:
		if at, err := time.Parse(timeLayout, v); err == nil {
			return at.Unix()
		}
		n, _ := strconv.ParseInt(v, 10, 64)
		return n
	}
	return 0
}

// fill returns a new event's id and body.
func (t *template) fill(typ string, o Options) (id string, body []byte) {
	id = newID(t.id, o.Created)
	kind := objectOf(typ)
	object, request := t.object, t.request
	if strings.HasPrefix(object, "<object>") {
		object = kind + strings.TrimPrefix(object, "<object>")
	}
	object, request = newID(object, o.Created), newID(request, o.Created)
	b := make([]byte, 0, t.size)
	for _, p := range t.pieces {
		b = append(b, p.text...)
		switch p.slot {
		case eventID:
			b = append(b, id...)
		case objectID:
			b = append(b, object...)
		case requestID:
			b = append(b, request...)
		case accountID:
			b = append(b, cmp.Or(o.Account, t.account)...)
		case accountMember:
			b = appendMember(b, "account", o.Account)
		case contextMember:
			b = appendMember(b, "context", o.Account)
		case unixTime:
			b = strconv.AppendInt(b, o.Created.Unix()+p.after, 10)
		case textTime:
			b = o.Created.UTC().Add(time.Duration(p.after)*time.Second).AppendFormat(b, timeLayout)
		case typeName:
			b = append(b, quoted(typ)...)
		case objectName:
			b = append(b, kind...)
		}
	}
	return id, b
}

func appendMember(b []byte, key, account string) []byte {
	if account == "" {
		return b
	}
	return append(b, `  "`+key+`": "`+quoted(account)+"\",\n"...)
}

// quoted escapes s for a place between quotes.
func quoted(s string) string {
	plain := func(c rune) bool { return c >= ' ' && c < 0x7F && c != '"' && c != '\\' }
	if strings.IndexFunc(s, func(c rune) bool { return !plain(c) }) < 0 {
		return s
	}
	b, _ := json.Marshal(s) // of a string: cannot fail
	return string(b[1 : len(b)-1])
}

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// newID returns an id of like's shape: its prefix, its first character, six that follow the time (in tenths of a
// second), and random ones. Stripe's own sort roughly by time as well.
func newID(like string, at time.Time) string {
	if like == "" {
		return ""
	}
	b := []byte(like)
	tail := b[strings.LastIndexByte(like, '_')+2:]
	if len(tail) > 12 {
		n := uint64(max(at.UnixMilli()/100, 0))
		for i := 5; i >= 0; i-- {
			tail[i] = digits[n%62]
			n /= 62
		}
		tail = tail[6:]
	}
	var r uint64
	for i := range tail {
		if i%10 == 0 { // 62^10 is below 2^64
			r = rand.Uint64()
		}
		tail[i] = digits[r%62]
		r /= 62
	}
	return string(b)
}
