package ec2

import (
	"net/netip"
	"testing"
)

func TestFirstFourAndLastAddressOfASubnetAreNotLeasable(t *testing.T) {
	s := &Subnet{CIDR: netip.MustParsePrefix("10.0.1.0/28")}
	for _, c := range []struct {
		address string
		want    bool
	}{
		{"10.0.0.255", false},
		{"10.0.1.0", false}, {"10.0.1.1", false}, {"10.0.1.2", false}, {"10.0.1.3", false},
		{"10.0.1.4", true}, {"10.0.1.14", true},
		{"10.0.1.15", false}, {"10.0.1.16", false}, {"::1", false},
	} {
		if got := s.Leasable(netip.MustParseAddr(c.address)); got != c.want {
			t.Errorf("%s in %s is leasable: %v, want %v", c.address, s.CIDR, got, c.want)
		}
	}
	if got := s.Gateway().String(); got != "10.0.1.1" {
		t.Errorf("the router is at %s, want 10.0.1.1", got)
	}
}
