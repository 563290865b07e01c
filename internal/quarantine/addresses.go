package quarantine

import (
	_ "embed"
	"net/netip"
	"strings"
)

//go:embed stripe_ips.txt
var stripeIPs string

// StripeIPs returns the list that comes with the gateway: the addresses that Stripe sends webhooks from, as they were
// known at the date in stripe_ips.txt.
func StripeIPs() []netip.Prefix {
	var list []netip.Prefix
	for line := range strings.Lines(stripeIPs) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			addr := netip.MustParseAddr(line)
			list = append(list, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	return list
}
