package control

import (
	"net/netip"
	"testing"

	"palisade/ec2"
)

func TestRangesOfANetworkAreListed(t *testing.T) {
	n := &ec2.Network{Prefix: netip.MustParsePrefix("10.0.0.0/16")}
	if got := blocksOf(n); got != "10.0.0.0/16" {
		t.Errorf("the ranges are %q, want 10.0.0.0/16", got)
	}
	n.Blocks = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("100.64.0.0/20")}
	if got := blocksOf(n); got != "10.0.0.0/16,10.1.0.0/16,100.64.0.0/20" {
		t.Errorf("the ranges are %q, want all three", got)
	}
}
