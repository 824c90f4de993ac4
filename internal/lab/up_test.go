package lab

import (
	"net/netip"
	"strings"
	"testing"
)

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{
		{Name: "a-b"}, {Name: "../x"}, {Name: "Lab"}, {Name: strings.Repeat("a", 17)}, {Nodes: -1}, {Nodes: 33}, {Port: 70000},
		{ClassicPools: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}},
		{ClassicPools: []netip.Prefix{netip.MustParsePrefix("10.10.1.0/16")}},
	} {
		if err := o.fill(); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
