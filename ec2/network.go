package ec2

import "net/netip"

// A Network is one flat address space: all of EC2-Classic in a region, or one VPC.
type Network struct {
	VNI     VNI
	Region  Region
	VPC     VPCID        // "" for EC2-Classic
	Prefix  netip.Prefix // on-link for its instances
	Gateway netip.Addr
	Mode    TrackingMode

	// Pools are the ranges that private addresses are leased from, in this order. PublicPools are
	// the ranges for public addresses.
	Pools       []netip.Prefix
	PublicPools []netip.Prefix
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
