package stripe

import (
	"testing"
	"time"
)

func TestIsTestID(t *testing.T) {
	t.Parallel()
	cases := map[string]bool{
		"evt_00000000000000": true, "evt_0": true, "evt_": false, "": false, "evt_00000000000001": false, "000": false,
	}
	for id, want := range cases {
		if got := IsTestID(id); got != want {
			t.Errorf("%q: got %v, want %v", id, got, want)
		}
	}
}

func TestRealTime(t *testing.T) {
	t.Parallel()
	cases := []struct {
		typ      string
		deadline time.Duration
		want     bool
	}{
		{"issuing_authorization.request", issuingDeadline, true},
		{"v1.issuing_authorization.request", issuingDeadline, true},
		{"issuing_authentication.decision", issuingDeadline, true},
		{"v1.delegated_checkout.finalize_checkout", delegatedDeadline, true},
		{"v1.delegated_checkout.customize_checkout", delegatedDeadline, true},
		{"delegated_commerce.product_price_availability", delegatedDeadline, true},
		{"extend.workflows.custom_action", 0, true},
		{"issuing_authorization.created", 0, false},
		{"issuing_authorization.request.gb", 0, false},
		{"invoice.created", 0, false},
		{"", 0, false},
	}
	for _, c := range cases {
		if deadline, got := RealTime(c.typ); got != c.want || deadline != c.deadline {
			t.Errorf("%q: got %v %v, want %v %v", c.typ, deadline, got, c.deadline, c.want)
		}
	}
}
