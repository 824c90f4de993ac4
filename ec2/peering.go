package ec2

import (
	"time"
)

// A VPCPeering connects two VPCs, of one account or of two, in one region or in two. It carries
// packets while it is Active, and only those from an interface in one VPC to one in the other. It
// is never used again once it has another status, so what names it is void for good (Amazon VPC
// Peering Guide, "VPC peering connection lifecycle").
type VPCPeering struct {
	ID        PeeringID // "pcx-…"
	Requester PeeringSide
	Accepter  PeeringSide
	Status    PeeringStatus
	DeletedBy AccountID `json:",omitempty"` // of a deleted peering

	Created time.Time
	Expires time.Time // when a request expires if it is not accepted
}

// A PeeringSide is one of the two VPCs of a peering, as its owner and the other side see it.
type PeeringSide struct {
	Account AccountID
	Region  Region
	VPC     VPCID
	VNI     VNI `json:",omitempty"` // of the VPC; 0 if the VPC does not exist, then the request fails

	DNS bool `json:",omitempty"` // names of instances resolve to private addresses from the other VPC

	Until time.Time `json:",omitzero"` // until when the account sees a peering that has ended
}

// PeeringStatus is the state of a peering, in EC2's words.
type PeeringStatus string

const (
	PeeringPending  PeeringStatus = "pending-acceptance"
	PeeringActive   PeeringStatus = "active"
	PeeringFailed   PeeringStatus = "failed"
	PeeringRejected PeeringStatus = "rejected"
	PeeringExpired  PeeringStatus = "expired"
	PeeringDeleted  PeeringStatus = "deleted"
)

// Ended reports whether the peering can never become active again.
func (p *VPCPeering) Ended() bool { return p.Status != PeeringPending && p.Status != PeeringActive }

// Active reports whether the peering carries packets.
func (p *VPCPeering) Active() bool { return p.Status == PeeringActive }

// SameRegion reports whether both VPCs are in one region. Only then rules of one can name groups of
// the other.
func (p *VPCPeering) SameRegion() bool { return p.Requester.Region == p.Accepter.Region }

// Side returns the side of a VPC and that of the other VPC; false if the peering is not of the VPC.
func (p *VPCPeering) Side(vpc VPCID) (own, other *PeeringSide, ok bool) {
	switch vpc {
	case p.Requester.VPC:
		return &p.Requester, &p.Accepter, true
	case p.Accepter.VPC:
		return &p.Accepter, &p.Requester, true
	}
	return nil, nil, false
}

// SeenBy reports whether an account sees the peering in a region at a time.
func (p *VPCPeering) SeenBy(account AccountID, region Region, now time.Time) bool {
	sees := func(s *PeeringSide) bool {
		return s.Account == account && s.Region == region && (!p.Ended() || now.Before(s.Until))
	}
	return sees(&p.Requester) || sees(&p.Accepter)
}
