package stripe_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// What a Stripe that shares no code with this package sends is believed and understood.
func TestSamples(t *testing.T) {
	t.Parallel()
	created := time.Date(2026, 11, 21, 19, 0, 0, 0, time.UTC)
	for _, typ := range append(toystripe.Types(), "invoice.overdue", "v2.made.up") {
		ev := toystripe.New(typ, toystripe.Options{Account: "acct_7", Created: created})
		secrets := []string{"whsec_new", "whsec_old"}
		req, err := toystripe.Request(t.Context(), "http://127.0.0.1", ev, secrets, toystripe.Sending{})
		if err != nil {
			t.Fatal(err)
		}
		sig, err := stripe.Verify(ev.Body, req.Header["Stripe-Signature"], []string{"whsec_x", "whsec_old"}, time.Minute, time.Now())
		if err != nil || sig.Secret != 1 {
			t.Errorf("%s: got secret %d, %v", typ, sig.Secret, err)
		}
		e, err := stripe.Parse(ev.Body)
		if err != nil {
			t.Errorf("%s: %v", typ, err)
			continue
		}
		if e.ID != ev.ID || e.Type != typ || e.Account != "acct_7" || e.Livemode || stripe.IsTestID(e.ID) {
			t.Errorf("%s: got %+v", typ, e)
		}
		hook := typ == "v1.delegated_checkout.finalize_checkout" // has neither a time nor an object
		nameless := hook || typ == "invoice.upcoming" || typ == "balance.available"
		if e.Created.Equal(created) == hook || (e.Object == "") != nameless {
			t.Errorf("%s: got %+v", typ, e)
		}
		if typ == "customer.deleted" && e.Customer != e.Object || typ == "invoice.paid" && !bytes.Contains(ev.Body, []byte(e.Customer)) {
			t.Errorf("%s: customer %q", typ, e.Customer)
		}
	}
}
