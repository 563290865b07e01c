package stripe

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	gocmp "github.com/google/go-cmp/cmp"
)

const snapshot = `{
  "id": "evt_1QYjTnB7WZ01zgkWwyRHS12y",
  "object": "event",
  "account": "acct_1PgafTB7WZ01zgkW",
  "api_version": "2023-10-16; orders_beta=v4",
  "created": 1760000000,
  "data": {
    "object": {
      "id": "in_1QYjTn",
      "object": "invoice",
      "customer": "cus_R1",
      "lines": {"data": [{"id": "il_1", "customer": "cus_other"}, []]},
      "amount": -1.5e3
    },
    "previous_attributes": {"id": "in_old"}
  },
  "livemode": true,
  "pending_webhooks": 1,
  "request": {"id": null, "idempotency_key": null},
  "type": "invoice.paid"
}
`

func TestParse(t *testing.T) {
	t.Parallel()
	created := time.Unix(1760000000, 0).UTC()
	cases := []struct {
		name, body string
		want       Envelope
	}{
		{"snapshot", snapshot, Envelope{
			ID: "evt_1QYjTnB7WZ01zgkWwyRHS12y", Type: "invoice.paid", Account: "acct_1PgafTB7WZ01zgkW",
			APIVersion: "2023-10-16; orders_beta=v4", Object: "in_1QYjTn", Customer: "cus_R1", Livemode: true, Created: created,
		}},
		{
			"thin",
			`{"id":"evt_2","object":"v2.core.event","type":"v1.billing.meter.error_report_triggered","livemode":false,` +
				`"created":"2024-03-07T18:27:56.000Z","context":"acct_7","related_object":{"id":"bm_1","type":"billing.meter","url":"/x"}}`,
			Envelope{
				ID: "evt_2", Type: "v1.billing.meter.error_report_triggered", Account: "acct_7", Object: "bm_1",
				Created: time.Date(2024, 3, 7, 18, 27, 56, 0, time.UTC),
			},
		},
		{"context of an organisation", `{"id":"e","type":"t","context":"org_1/acct_2"}`, Envelope{ID: "e", Type: "t", Account: "acct_2"}},
		{"context without an account", `{"id":"e","type":"t","context":"org_1"}`, Envelope{ID: "e", Type: "t"}},
		{"account before context", `{"id":"e","type":"t","context":"acct_1","account":"acct_2"}`, Envelope{ID: "e", Type: "t", Account: "acct_2"}},
		{"request of 2016", `{"id":"e","type":"t","request":"req_1","user_id":"u"}`, Envelope{ID: "e", Type: "t"}},
		{
			"nothing but null", `{"id":"e","type":"t","account":null,"context":null,"api_version":null,"livemode":null,"created":null,"data":null,"related_object":null}`,
			Envelope{ID: "e", Type: "t"},
		},
		{"object without an id", `{"id":"e","type":"invoice.upcoming","data":{"object":{"customer":"cus_1"}}}`, Envelope{ID: "e", Type: "invoice.upcoming", Customer: "cus_1"}},
		{"expanded customer", `{"id":"e","type":"t","data":{"object":{"id":"o","customer":{"id":"cus_1","object":"customer"}}}}`, Envelope{ID: "e", Type: "t", Object: "o", Customer: "cus_1"}},
		{"a customer", `{"id":"e","type":"t","data":{"object":{"object":"customer","id":"cus_1","deleted":true}}}`, Envelope{ID: "e", Type: "t", Object: "cus_1", Customer: "cus_1"}},
		{"a thin customer", `{"id":"e","type":"t","related_object":{"id":"cus_1","type":"customer"}}`, Envelope{ID: "e", Type: "t", Object: "cus_1", Customer: "cus_1"}},
		{"escaped keys and values", `{"\u0069d":"e","ty\u0070e":"\u0074\u002eu"}`, Envelope{ID: "e", Type: "t.u"}},
		{"an id that the merchant chose", `{"id":"e","type":"t","data":{"object":{"id":"rabatt \u00fc ☀"}}}`, Envelope{ID: "e", Type: "t", Object: "rabatt ü ☀"}},
		{"odd details", `{"id":"e","type":"t","created":-1.5,"data":{"object":{"id":7,"customer":["c"],"object":"a\u0000"}}}`, Envelope{ID: "e", Type: "t"}},
		{"keys of another case", `{"ID":"x","id":"e","type":"t","Type":"x"}`, Envelope{ID: "e", Type: "t"}},
		{"other keys twice", `{"id":"e","type":"t","x":1,"x":2,"data":{"object":{"id":"o","y":{"id":"p"},"y":{"id":"q"}}}}`, Envelope{ID: "e", Type: "t", Object: "o"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse([]byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if d := gocmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, body, want string }{
		{"nothing", ``, "event: offset 0: the body ends where an object should be"},
		{"an array", `[]`, "event: offset 0: '[' where an object should be"},
		{"a byte order mark", "\ufeff{}", "event: offset 0: starts with a byte order mark"},
		{"no id", `{"type":"t"}`, `event: no "id"`},
		{"empty id", `{"id":"","type":"t"}`, `event: no "id"`},
		{"no type", `{"id":"e","type":null}`, `event: no "type"`},
		{"id a number", `{"id":1,"type":"t"}`, "event: offset 6: '1' where a string for id should be"},
		{"account an object", `{"account":{},"id":"e"}`, "event: offset 11: '{' where a string for account should be"},
		{"livemode a string", `{"livemode": "true"}`, `event: offset 13: '"' where true or false for livemode should be`},
		{"NUL in the id", `{"id": "e\u0000", "type":"t"}`, "event: offset 7: id is not printable ASCII of at most 255 bytes"},
		{"raw NUL", "{\"id\":\"e\x00\"}", `event: offset 8: control character 0x00 in a string`},
		{"newline in the type", `{"type":"a\nb"}`, "event: offset 8: type is not printable ASCII of at most 255 bytes"},
		{"umlaut in the id", `{"id":"ü"}`, "event: offset 6: id is not printable ASCII of at most 255 bytes"},
		{"long id", `{"id":"` + strings.Repeat("e", 256) + `"}`, "event: offset 6: id is not printable ASCII of at most 255 bytes"},
		{"id twice", `{"id":"e","id":"f","type":"t"}`, `event: offset 15: "id" stands twice`},
		{"id twice, once escaped", `{"id":"e","type":"t","i\u0064":"f"}`, `event: offset 31: "id" stands twice`},
		{"data twice", `{"id":"e","type":"t","data":null,"data":{}}`, `event: offset 40: "data" stands twice`},
		{"the object's id twice", `{"data":{"object":{"id":1,"id":2}}}`, `event: offset 31: "id" stands twice`},
		{"the customer's id twice", `{"data":{"object":{"customer":{"id":1,"id":2}}}}`, `event: offset 43: "id" stands twice`},
		{"the related id twice", `{"related_object":{"id":1,"id":2}}`, `event: offset 31: "id" stands twice`},
		{"cut in a string", `{"id":"e`, "event: offset 8: the body ends where the rest of a string should be"},
		{"cut in an object", `{"id":"e",`, "event: offset 10: the body ends where a key should be"},
		{"two bodies", `{"id":"e","type":"t"}{}`, "event: offset 21: '{' where the end should be"},
		{"NUL after the end", "{\"id\":\"e\",\"type\":\"t\"}\x00", "event: offset 21: '\\x00' where the end should be"},
		{"not UTF-8", "{\"x\":\"a\xff\"}", "event: offset 5: a string is not UTF-8"},
		{"not UTF-8 in a key", "{\"\xc3\x28\":1}", "event: offset 1: a string is not UTF-8"},
		{"bad escape", `{"x":"\x"}`, "event: offset 6: not an escape"},
		{"wrong bracket", `{"x":[}}`, "event: offset 6: '}' where a value should be"},
		{"wrong closing", `{"x":[1}}`, `event: offset 7: '}' where "," or "]" should be`},
		{"comma at the end", `{"x":[1,]}`, "event: offset 8: ']' where a value should be"},
		{"leading zero", `{"x":01}`, `event: offset 6: '1' where "," or "}" should be`},
		{"half a number", `{"x":1.}`, `event: offset 7: '}' where a digit should be`},
		{"not a literal", `{"x":nul}`, `event: offset 5: 'n' where a value should be`},
		{"deep", `{"x":` + strings.Repeat("[", 100_000), "event: offset 516: more than 512 levels"},
		{"deep objects", strings.Repeat(`{"x":`, 100_000), "event: offset 2560: more than 512 levels"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse([]byte(c.body))
			if err == nil {
				t.Fatalf("got %+v", got)
			}
			if d := gocmp.Diff(c.want, err.Error()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseDeepest(t *testing.T) {
	t.Parallel()
	body := `{"id":"e","type":"t","x":` + strings.Repeat("[{\"y\":", 255) + "[]" + strings.Repeat("}]", 255) + "}"
	if _, err := Parse([]byte(body)); err != nil {
		t.Errorf("512 levels: %v", err)
	}
}

// FuzzParse holds Parse against the same rules written down over encoding/json.
func FuzzParse(f *testing.F) {
	f.Add([]byte(snapshot))
	for _, s := range []string{
		`{"id":"evt_2","type":"v2.core.event_destination.ping","created":"2024-03-07T18:27:56.000Z","context":"acct_7","related_object":{"id":"ed_1","type":"t"}}`,
		`{"id":"e","type":"t","data":{"object":{"id":"o","customer":{"id":"c","x":[{}]},"object":"customer"}},"created":1760000000}`,
		`{"i\u0064":"\ud83d\ude00","type":"\ud800","livemode":true,"account":"a","api_version":"2023-10-16"}`,
		`{"id":"e","type":"t","x":[1,-0.5e-7,[],{},true,null,"é"],"data":{"object":{"id":"\ud83d\ude00 \n"}}} `,
		"\ufeff{}", `{"x":[[[[{"y":{}}]]]]}`, `{"id":"e","id":"e"}`, `{"id":"e","type":"t","data":{"object":{"id":"o","id":"o"}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		got, err := Parse(body)
		if !bytes.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		want, ok := reference(body)
		if (err == nil) != ok {
			t.Fatalf("got error %v, want accepted %v", err, ok)
		}
		if d := gocmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

// members returns an object's members, and whether one of keys stands twice; nil when raw is no object.
func members(raw json.RawMessage, keys []string) (m map[string]json.RawMessage, twice bool) {
	if !json.Valid(raw) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, false
	}
	m = map[string]json.RawMessage{}
	for d.More() {
		key, _ := d.Token()
		k, _ := key.(string)
		if _, again := m[k]; again && slices.Contains(keys, k) {
			twice = true
		}
		var value json.RawMessage
		_ = d.Decode(&value)
		m[k] = value
	}
	return m, twice
}

func reference(body []byte) (e Envelope, ok bool) {
	top, twice := members(body, eventKeys)
	if !utf8.Valid(body) || !json.Valid(body) || top == nil || twice || depth(body) > maxDepth {
		return Envelope{}, false
	}
	data, twiceData := members(top["data"], dataKeys)
	object, twiceObject := members(data["object"], objectKeys)
	customer, twiceCustomer := members(object["customer"], customerKeys)
	related, twiceRelated := members(top["related_object"], relatedKeys)
	ok = !twiceData && !twiceObject && !twiceCustomer && !twiceRelated
	name := func(key string) string {
		var s string
		ok = ok && (top[key] == nil || json.Unmarshal(top[key], &s) == nil)
		outside := func(r rune) bool { return r < ' ' || r > '~' }
		ok = ok && len(s) <= maxName && !strings.ContainsFunc(s, outside)
		return s
	}
	label := func(raw json.RawMessage) string {
		var s string
		control := func(r rune) bool { return r < ' ' || r == 0x7f }
		if json.Unmarshal(raw, &s) != nil || len(s) > maxName || strings.ContainsFunc(s, control) {
			return ""
		}
		return s
	}
	e = Envelope{
		ID: name("id"), Type: name("type"), APIVersion: name("api_version"),
		Object:   cmp.Or(label(object["id"]), label(related["id"])),
		Customer: cmp.Or(label(object["customer"]), label(customer["id"])),
	}
	e.Account = cmp.Or(name("account"), accountOf(name("context")))
	ok = ok && (top["livemode"] == nil || json.Unmarshal(top["livemode"], &e.Livemode) == nil)
	kind := label(object["object"])
	if label(object["id"]) == "" {
		kind = label(related["type"])
	}
	if e.Customer == "" && kind == "customer" {
		e.Customer = e.Object
	}
	if seconds, good := parseStamp(string(top["created"])); good {
		e.Created = seconds
	}
	if text := label(top["created"]); text != "" {
		at, _ := time.Parse(time.RFC3339, text)
		e.Created = at.UTC()
	}
	if !ok || e.ID == "" || e.Type == "" {
		return Envelope{}, false
	}
	return e, true
}

// depth returns how many levels a valid JSON text has.
func depth(body []byte) (deepest int) {
	d := json.NewDecoder(bytes.NewReader(body))
	for level := 0; ; deepest = max(deepest, level) {
		token, err := d.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			level++
		case json.Delim('}'), json.Delim(']'):
			level--
		}
	}
}

func BenchmarkParse(b *testing.B) {
	body := []byte(snapshot)
	lines := bytes.Repeat([]byte(`
          {"id": "il_1QYjTn", "object": "line_item", "amount": 2900, "metadata": {}, "livemode": false},`), 23)
	body = bytes.Replace(body, []byte(`{"id": "il_1"`), append(lines, `{"id": "il_1"`...), 1)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}
