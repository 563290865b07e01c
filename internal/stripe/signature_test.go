package stripe

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stripe/stripe-go/v76/webhook"
)

const (
	secret  = "whsec_test_1"
	secret2 = "whsec_test_2"
)

var (
	signedAt = time.Unix(1760000000, 0).UTC()
	good     = Sign([]byte("{}"), signedAt, secret)
	junk     = "v1=" + strings.Repeat("0", 64)
)

// The expected header was computed by hand with: printf '1760000000.{}' | openssl dgst -sha256 -hmac whsec_test_1
func TestSign(t *testing.T) {
	t.Parallel()
	const one = "t=1760000000,v1=c8eab52a1c4c753f6de65ec6c4ac51cae581653cef413c9c997807969877f0b0"
	if got := Sign([]byte("{}"), signedAt.Add(999*time.Millisecond), secret); got != one {
		t.Errorf("got %s, want %s", got, one)
	}
	if got, want := Sign([]byte("{}"), signedAt, secret, secret2), one+",v1=5efcd3df1221b97a6bed343c6d59803f83bee8290df8d735ee48c45dba3cae8c"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	v1 := strings.TrimPrefix(good, "t=1760000000,")
	cases := []struct {
		name    string
		header  []string
		secrets []string
		after   time.Duration // now minus signedAt
		want    string        // reason, "" when accepted
		secret  int
	}{
		{name: "good", header: []string{good}},
		{name: "second secret of ours", header: []string{good}, secrets: []string{secret2, secret}, secret: 1},
		{name: "rolling at Stripe", header: []string{Sign([]byte("{}"), signedAt, secret2, secret)}},
		{name: "with v0", header: []string{good + ",v0=" + junk[3:]}},
		{name: "v1 before t", header: []string{v1 + ",t=1760000000"}},
		{name: "just within", header: []string{good}, after: 5 * time.Minute},
		{name: "just not too far ahead", header: []string{good}, after: -5 * time.Minute},
		{name: "sixteenth", header: []string{"t=1760000000," + strings.Repeat(junk+",", 15) + v1}},
		{name: "after one that is not hex", header: []string{"t=1760000000,v1=zz," + v1}},

		{name: "none", header: nil, want: MissingHeader},
		{name: "empty", header: []string{""}, want: MissingHeader},
		{name: "twice", header: []string{good, good}, want: MalformedHeader},
		{name: "empty and good", header: []string{"", good}, want: MalformedHeader},
		{name: "ten thousand v1", header: []string{good + strings.Repeat(",v1=", 10_000)}, want: MalformedHeader},
		{name: "comma at the end", header: []string{good + ","}, want: MalformedHeader},
		{name: "space", header: []string{strings.Replace(good, ",", ", ", 1)}, want: MalformedHeader},
		{name: "no t", header: []string{v1}, want: MalformedHeader},
		{name: "two t", header: []string{"t=1760000000," + good}, want: MalformedHeader},
		{name: "t with a plus", header: []string{"t=+1760000000," + v1}, want: MalformedHeader},
		{name: "t with a zero", header: []string{"t=01760000000," + v1}, want: MalformedHeader},
		{name: "t with letters", header: []string{"t=1760000000a," + v1}, want: MalformedHeader},
		{name: "t negative", header: []string{"t=-1," + v1}, want: MalformedHeader},
		{name: "t without a value", header: []string{"t=," + v1}, want: MalformedHeader},
		{name: "t too long", header: []string{"t=9223372036854775807," + v1}, want: MalformedHeader},
		{name: "two equals", header: []string{good + ",a=b=c"}, want: MalformedHeader},
		{name: "no equals", header: []string{good + ",foo"}, want: MalformedHeader},
		{name: "only v0", header: []string{"t=1760000000,v0" + v1[2:]}, want: MalformedHeader},
		{name: "upper case", header: []string{"t=1760000000,v1=" + strings.ToUpper(v1[3:])}, want: MalformedHeader},
		{name: "short v1", header: []string{good[:len(good)-2]}, want: MalformedHeader},

		{name: "seventeenth", header: []string{"t=1760000000," + strings.Repeat(junk+",", 16) + v1}, want: NoMatch},
		{name: "other secret", header: []string{good}, secrets: []string{secret2}, want: NoMatch},
		{name: "no secret", header: []string{good}, secrets: []string{}, want: NoMatch},
		{name: "empty secret", header: []string{Sign([]byte("{}"), signedAt, "")}, secrets: []string{""}, want: NoMatch},
		{name: "other time", header: []string{"t=1760000001," + v1}, want: NoMatch},
		{name: "stale and forged", header: []string{good}, secrets: []string{secret2}, after: time.Hour, want: NoMatch},
		{name: "stale", header: []string{good}, after: 5*time.Minute + 1, want: TooOld},
		{name: "ahead", header: []string{good}, after: -5*time.Minute - 1, want: TooFarAhead},
		{name: "far future", header: []string{Sign([]byte("{}"), time.Unix(999999999999, 0), secret)}, want: TooFarAhead},
		{name: "the epoch", header: []string{Sign([]byte("{}"), time.Unix(0, 0), secret)}, want: TooOld},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.secrets == nil {
				c.secrets = []string{secret}
			}
			got, err := Verify([]byte("{}"), c.header, c.secrets, 5*time.Minute, signedAt.Add(c.after))
			if reason := reasonOf(t, err); reason != c.want {
				t.Fatalf("got %q (%v), want %q", reason, err, c.want)
			}
			if c.want == "" {
				if d := cmp.Diff(Signature{Time: signedAt, Secret: c.secret}, got); d != "" {
					t.Error(d)
				}
			}
			cheap := reasonOf(t, headerError(c.header))
			if want := c.want == MissingHeader || c.want == MalformedHeader; want && cheap != c.want || !want && cheap != "" {
				t.Errorf("ParseHeader: got %q", cheap)
			}
		})
	}
}

func reasonOf(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var f *Failure
	if !errors.As(err, &f) {
		t.Fatalf("%T is not a *Failure", err)
	}
	return f.Reason
}

func TestFailure(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		header  []string
		secret  string
		after   time.Duration
		want    Failure
		is      error
		message string
	}{
		{
			"missing", nil, secret, 0,
			Failure{Reason: MissingHeader},
			webhook.ErrNotSigned,
			"missing_header: webhook has no Stripe-Signature header",
		},
		{
			"malformed",
			[]string{"t=1"},
			secret, 0,
			Failure{Reason: MalformedHeader},
			webhook.ErrInvalidHeader,
			"malformed_header: webhook has invalid Stripe-Signature header: no v1 of 64 lower-case hex digits",
		},
		{
			"no match",
			[]string{good},
			secret2, time.Hour,
			Failure{Reason: NoMatch, Age: time.Hour},
			webhook.ErrNoValidSignature,
			"no_match: webhook had no valid signature",
		},
		{
			"too old",
			[]string{good},
			secret, 12 * time.Minute,
			Failure{Reason: TooOld, Age: 12 * time.Minute, Genuine: true},
			webhook.ErrTooOld,
			"too_old: timestamp wasn't within tolerance: signed 12m0s ago, tolerance 5m0s",
		},
		{
			"ahead",
			[]string{good},
			secret, -time.Hour,
			Failure{Reason: TooFarAhead, Age: -time.Hour, Genuine: true},
			errAhead,
			"too_far_ahead: timestamp is ahead of this machine's clock: by 1h0m0s, tolerance 5m0s",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Verify([]byte("{}"), c.header, []string{c.secret}, 5*time.Minute, signedAt.Add(c.after))
			var got *Failure
			if !errors.As(err, &got) || !errors.Is(err, c.is) {
				t.Fatalf("got %v, want %v", err, c.is)
			}
			if got.Reason != c.want.Reason || got.Age != c.want.Age || got.Genuine != c.want.Genuine {
				t.Errorf("got %+v, want %+v", *got, c.want)
			}
			if got.Error() != c.message {
				t.Errorf("got %q, want %q", got.Error(), c.message)
			}
		})
	}
}

func TestMatchesAny(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		header []string
		want   int
	}{
		{"of another source", []string{Sign([]byte("{}"), time.Unix(1, 0), "other")}, 1},
		{"of none", []string{good}, -1},
		{"malformed", []string{"t=1"}, -1},
	}
	for _, c := range cases {
		if got := MatchesAny([]byte("{}"), c.header, []string{secret2, "other"}); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestTimestamp(t *testing.T) {
	t.Parallel()
	if got, ok := Timestamp(good); !ok || !got.Equal(signedAt) {
		t.Errorf("got %v %v", got, ok)
	}
	if _, ok := Timestamp("t=x"); ok {
		t.Error("a malformed header has a time")
	}
}

// FuzzVerify holds Verify against stripe-go: it never accepts what stripe-go refuses, and refuses what stripe-go
// accepts for a documented reason only.
func FuzzVerify(f *testing.F) {
	for _, h := range []string{
		good, good + ",v0=1", "t=1760000000,v1=A", "t=1," + good, strings.ToUpper(good), "v1=" + good[20:], good + ",", "t=1,v1=" + good[16:],
		"t=1760000000," + strings.Repeat(junk+",", 16) + good[13:],
	} {
		f.Add([]byte("{}"), h, int64(0))
	}
	f.Fuzz(func(t *testing.T, body []byte, header string, after int64) {
		now := signedAt.Add(time.Duration(after))
		got, err := Verify(body, []string{header}, []string{secret}, 5*time.Minute, now)
		theirs := webhook.ValidatePayloadIgnoringTolerance(body, header, secret)
		var failure *Failure
		switch {
		case err == nil:
			if theirs != nil {
				t.Fatalf("accepted, stripe-go says: %v", theirs)
			}
			if age := now.Sub(got.Time).Abs(); age > 5*time.Minute {
				t.Fatalf("accepted at an age of %v", age)
			}
		case !errors.As(err, &failure):
			t.Fatalf("%T is not a *Failure", err)
		case failure.Genuine != (failure.Reason == TooOld || failure.Reason == TooFarAhead):
			t.Fatalf("%+v", failure)
		case failure.Genuine && theirs != nil:
			t.Fatalf("genuine, stripe-go says: %v", theirs)
		case failure.Reason == NoMatch && theirs == nil && strings.Count(header, "v1=") <= maxSignatures:
			if header == strings.ToLower(header) { // else an upper-case v1 matches, beside one that does not
				t.Fatal("refused, stripe-go accepts")
			}
		case failure.Reason == MissingHeader && header != "":
			t.Fatalf("missing: %q", header)
		}
		// What is signed here is accepted here, whatever the body.
		if _, err := Verify(body, []string{Sign(body, now, secret)}, []string{secret}, time.Second, now); err != nil && now.Unix() >= 0 {
			t.Fatalf("own signature refused: %v", err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for _, size := range []int{2500, 50_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			body := make([]byte, size)
			header := []string{Sign(body, signedAt, secret)}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Verify(body, header, []string{secret}, time.Minute, signedAt); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The cost of a junk header is bounded before any hashing.
func BenchmarkParseHeader(b *testing.B) {
	for name, header := range map[string]string{"good": good, "8KiB": good + strings.Repeat(",v1=", 2000)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = headerError([]string{header})
			}
		})
	}
}

func headerError(lines []string) error {
	_, err := ParseHeader(lines)
	return err
}
