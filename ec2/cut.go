package ec2

import (
	"net/netip"
	"slices"
)

// A Cut is the decision of an operator to end connections: those that a rule admitted, or those
// that join two ends. Each node carries it out once, on the connections that it has then.
type Cut struct {
	Index uint64 // of the decision, in the log
	CutSelection
}

// A CutSelection says which connections to end. It has Serials, or From and To.
type CutSelection struct {
	// Serials are of the rule: the present one, and the one that it was made with. The second
	// finds the connections of a rule that is gone.
	Serials []uint64 `json:",omitempty"`
	// A connection is selected if one of its ends is in From and the other in To, whichever of
	// them opened it.
	From []End `json:",omitempty"`
	To   []End `json:",omitempty"`
}

// An End is a range of addresses, in one network or in all.
type End struct {
	VNI    VNI `json:",omitempty"` // 0: in all networks
	Prefix netip.Prefix
}

// Selects reports whether a connection is selected. network is that of the interface that the
// connection crosses, rule the serial of the rule that admitted it, and a and b are its addresses.
func (s *CutSelection) Selects(network VNI, rule uint64, a, b netip.Addr) bool {
	if len(s.Serials) > 0 {
		return slices.Contains(s.Serials, rule)
	}
	return hasEnd(s.From, network, a) && hasEnd(s.To, network, b) || hasEnd(s.From, network, b) && hasEnd(s.To, network, a)
}

func hasEnd(ends []End, network VNI, a netip.Addr) bool {
	return slices.ContainsFunc(ends, func(e End) bool { return (e.VNI == 0 || e.VNI == network) && e.Prefix.Contains(a) })
}
