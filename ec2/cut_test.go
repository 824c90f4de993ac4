package ec2

import (
	"net/netip"
	"testing"
)

func TestCutSelectsByRuleOrByBothEnds(t *testing.T) {
	end := func(vni VNI, prefix string) End { return End{vni, netip.MustParsePrefix(prefix)} }
	ends := CutSelection{From: []End{end(1, "10.0.0.4/32"), end(0, "198.18.0.4/32")}, To: []End{end(0, "10.0.0.5/32"), end(0, "203.0.113.0/24")}}
	for _, tt := range []struct {
		name      string
		selection CutSelection
		network   VNI
		rule      uint64
		a, b      string
		want      bool
	}{
		{"both ends", ends, 1, 7, "10.0.0.4", "10.0.0.5", true},
		{"opened by the other end", ends, 1, 7, "10.0.0.5", "10.0.0.4", true},
		{"one end alone", ends, 1, 7, "10.0.0.4", "10.0.0.6", false},
		{"the other end alone", ends, 1, 7, "10.0.0.6", "10.0.0.5", false},
		{"twice the same end", ends, 1, 7, "10.0.0.4", "10.0.0.4", false},
		{"the same address in another network", ends, 2, 7, "10.0.0.4", "10.0.0.5", false},
		{"a public address in another network", ends, 2, 7, "198.18.0.4", "10.0.0.5", true},
		{"a range", ends, 1, 7, "203.0.113.25", "10.0.0.4", true},
		{"a rule", CutSelection{Serials: []uint64{7, 9}}, 1, 9, "10.0.0.4", "10.0.0.6", true},
		{"another rule", CutSelection{Serials: []uint64{7, 9}}, 1, 8, "10.0.0.4", "10.0.0.5", false},
		{"nothing", CutSelection{}, 1, 0, "10.0.0.4", "10.0.0.5", false},
	} {
		if got := tt.selection.Selects(tt.network, tt.rule, netip.MustParseAddr(tt.a), netip.MustParseAddr(tt.b)); got != tt.want {
			t.Errorf("%s: Selects returned %v, want %v", tt.name, got, tt.want)
		}
	}
}
