package ec2

import (
	"fmt"
	"net/netip"
	"slices"
)

// A Network is one flat address space: all of EC2-Classic in a region, or one VPC.
type Network struct {
	VNI     VNI
	Region  Region
	VPC     VPCID        // "" for EC2-Classic
	Prefix  netip.Prefix // on-link for its instances
	Gateway netip.Addr

	// Blocks are the further ranges of a VPC, in which it has subnets too.
	Blocks []netip.Prefix `json:",omitempty"`

	Mode    TrackingMode
	ModeSet uint64 `json:",omitempty"` // log index of the last change of Mode

	// Pools are the ranges that private addresses are leased from, in this order. PublicPools are
	// the ranges for public addresses.
	Pools       []netip.Prefix
	PublicPools []netip.Prefix

	// Opened says that the network was made when an account first used its region. It has the
	// settings of the first EC2-Classic network, and public addresses of that network's pools.
	Opened bool `json:",omitempty"`
}

// Contains reports whether an address is a private one of the network.
func (n *Network) Contains(a netip.Addr) bool {
	return n.Prefix.Contains(a) || slices.ContainsFunc(n.Blocks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// TrackingMode says what happens to a tracked connection when the rule that admitted it is
// removed.
type TrackingMode uint8

const (
	// TrackAWS keeps the connection until it ends or idles out (EC2 User Guide, "Security
	// group connection tracking").
	TrackAWS TrackingMode = iota
	// TrackStrict drops the connection as soon as no rule admits it.
	TrackStrict
)

// ParseTrackingMode returns the mode that String describes as text.
func ParseTrackingMode(text string) (TrackingMode, error) {
	for _, m := range []TrackingMode{TrackAWS, TrackStrict} {
		if text == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("%q is not a tracking mode: it must be aws or strict", Clip(text))
}

func (m TrackingMode) String() string {
	switch m {
	case TrackAWS:
		return "aws"
	case TrackStrict:
		return "strict"
	}
	return fmt.Sprintf("TrackingMode(%d)", uint8(m))
}
