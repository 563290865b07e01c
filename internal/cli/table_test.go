package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"invoice.paid":            "invoice.paid",
		"Zoë 東京 🎉":                "Zoë 東京 🎉",
		"\x1b[2J\x1b[31mred":      `\x1b[2J\x1b[31mred`,
		"\x1b]0;title\a":          `\x1b]0;title\a`,
		"one\ntwo\ttabs\r":        `one\ntwo\ttabs\r`,
		"\u009b31m":               `\u009b31m`,              // one character that begins an escape sequence
		"abc\u202egnp.exe\u2069":  `abc\u202egnp.exe\u2069`, // right to left
		"a\u200bb\ufeffc\u00add":  `a\u200bb\ufeffc\u00add`, // not seen at all
		"\U000e0041":              `\U000e0041`,             // tags
		"a\u2028b":                `a\u2028b`,               // ends a line somewhere
		"\xff\xfeok\xc3":          `\xff\xfeok\xc3`,         // not UTF-8
		"a\u3164b\u2800":          `a\u3164b\u2800`,
		"\ufffd":                  "\ufffd",                  // the replacement character itself is one
		`{"a":"\u001b"}`:          `{"a":"\u001b"}`,          // escaped already: left alone
		"<script>alert(1)":        "<script>alert(1)",        // harms no terminal
		strings.Repeat("x", 3000): strings.Repeat("x", 3000), // cutting is the table's work
	} {
		if got := visible(in); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

// TestJSONIsSafeToShow: what a terminal acts on is escaped in JSON too, which stays the same JSON.
func TestJSONIsSafeToShow(t *testing.T) {
	t.Parallel()
	want := map[string]string{"a": "\x1b[31m \u009b \u202e \u200b \x7f \U000e0041 東京 🎉 <b> \\u202e"}
	var b strings.Builder
	if err := writeJSON(&b, want); err != nil {
		t.Fatal(err)
	}
	text := `{
  "a": "\u001b[31m \u009b \u202e \u200b \u007f \udb40\udc41 東京 🎉 <b> \\u202e"
}
`
	if b.String() != text {
		t.Errorf("got %s, want %s", b.String(), text)
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil || got["a"] != want["a"] {
		t.Errorf("%v: got %q, want %q", err, got, want)
	}
}

func FuzzVisible(f *testing.F) {
	f.Add("\x1b[31m\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := visible(s)
		if !utf8.ValidString(got) {
			t.Errorf("%q: %q is not UTF-8", s, got)
		}
		for _, r := range got {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
				t.Errorf("%q: %U got through", s, r)
			}
		}
	})
}

func TestTable(t *testing.T) {
	t.Parallel()
	table := table{head: []string{"N", "TYPE", "STATE", "ANSWER"}, numbers: []int{0}, shrink: []int{3, 1}, drop: []int{2}}
	table.add(say("9", plain), say("customer.subscription.updated", plain), say("failed", red), say("503 Service Unavailable", plain))
	table.add(say("1024", plain), say("東京.paid", plain), say("", plain), say("", plain))
	for _, c := range []struct {
		width  int
		colour bool
		want   string
	}{
		{0, false, `
   N  TYPE                           STATE   ANSWER
   9  customer.subscription.updated  failed  503 Service Unavailable
1024  東京.paid                      -       -
`},
		{60, false, `
   N  TYPE                          STATE   ANSWER
   9  customer.subscription.updat…  failed  503 Service Una…
1024  東京.paid                     -       -
`},
		{44, false, `
   N  TYPE                  ANSWER
   9  customer.subscripti…  503 Service Una…
1024  東京.paid             -
`},
		{20, false, `
   N  TYPE
   9  customer.subs…
1024  東京.paid
`},
		{1, false, "\n\n\n…\n"},
		{0, true, "\n" +
			"   \x1b[2mN\x1b[0m  \x1b[2mTYPE\x1b[0m                           \x1b[2mSTATE\x1b[0m   \x1b[2mANSWER\x1b[0m\n" +
			"   9  customer.subscription.updated  \x1b[31mfailed\x1b[0m  503 Service Unavailable\n" +
			"1024  東京.paid                      \x1b[2m-\x1b[0m       \x1b[2m-\x1b[0m\n"},
	} {
		var b strings.Builder
		if err := table.write(screen{w: &b, width: c.width, colour: c.colour}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), b.String()); diff != "" {
			t.Errorf("width %d: (-want +got):\n%s", c.width, diff)
		}
		for line := range strings.Lines(b.String()) {
			if c.width > 0 && columns(strings.TrimSuffix(line, "\n")) > c.width {
				t.Errorf("width %d: %q is wider", c.width, line)
			}
		}
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59900 * time.Millisecond: "59s", time.Minute: "1m", 59 * time.Minute: "59m",
		time.Hour: "1h", 47 * time.Hour: "47h", 48 * time.Hour: "2d", 1000 * time.Hour: "41d",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}
