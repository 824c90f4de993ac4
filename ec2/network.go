package ec2

import "net/netip"

// A Network is one flat address space. The EC2-Classic network of a region is one; a
// VPC will be another.
type Network struct {
	VNI     VNI
	Region  Region
	VPC     VPCID        // "" is EC2-Classic
	Prefix  netip.Prefix // what is on-link for its instances
	Gateway netip.Addr
	Mode    TrackingMode

	// Pools are the ranges private addresses are leased from, in this order.
	// PublicPools the same for public ones.
	Pools       []netip.Prefix
	PublicPools []netip.Prefix
}

// TrackingMode says what becomes of tracked connections whose rule is removed.
type TrackingMode uint8

const (
	// TrackAWS lets them live until they end or idle out (EC2 User Guide,
	// "Security group connection tracking").
	TrackAWS TrackingMode = iota
	// TrackStrict cuts whatever no rule allows any more.
	TrackStrict
)
