package state

import (
	"cmp"
	"slices"
	"time"

	"palisade/ec2"
)

// peeringRequests are the requests for peerings of VPCs, and for groups that are used in several VPCs.
var peeringRequests = []Request{
	&CreateVPCPeering{}, &AcceptVPCPeering{}, &RejectVPCPeering{}, &DeleteVPCPeering{}, &ModifyVPCPeering{},
	&AssociateGroupVPC{}, &DisassociateGroupVPC{},
}

// How long a request waits, and how long each account sees a peering that has ended (Amazon VPC
// Peering Guide, "VPC peering connection lifecycle").
const (
	peeringRequestFor = 7 * 24 * time.Hour
	endedForActor     = 2 * time.Hour
	endedForOther     = 48 * time.Hour

	// keptEndedPeerings is how many peerings that have ended an account keeps as their requester in a
	// region. Beyond that the oldest are forgotten early, so that failing requests fill no memory.
	keptEndedPeerings = 100
)

// CreateVPCPeering asks the owner of another VPC to peer it with a VPC of the account. The request
// fails, and shows that as its status, if there is no such VPC or if blocks of the two overlap.
// Result: Peering.
type CreateVPCPeering struct {
	Account ec2.AccountID
	Region  ec2.Region
	VPC     ec2.VPCID

	PeerAccount ec2.AccountID // "": Account
	PeerRegion  ec2.Region    // "": Region
	PeerVPC     ec2.VPCID

	Tags map[string]string `json:",omitempty"`
}

func (r *CreateVPCPeering) apply(t *tx) (Result, error) {
	vpc, err := t.vpc(r.Account, r.Region, r.VPC)
	switch {
	case err != nil:
		return Result{}, err
	case r.PeerVPC == "":
		return Result{}, ec2.Missing("peerVpcId")
	case r.PeerVPC == r.VPC:
		return Result{}, ec2.Errorf("InvalidParameterValue", "A VPC peering connection needs two VPCs, and %s is given for both", r.VPC)
	}
	p := &ec2.VPCPeering{
		Requester: ec2.PeeringSide{Account: vpc.Account, Region: vpc.Region, VPC: vpc.ID, VNI: vpc.VNI},
		Accepter:  ec2.PeeringSide{Account: cmp.Or(r.PeerAccount, r.Account), Region: cmp.Or(r.PeerRegion, r.Region), VPC: r.PeerVPC},
		Status:    ec2.PeeringPending,
		Created:   t.meta.Time,
		Expires:   t.meta.Time.Add(peeringRequestFor),
	}
	if o := t.livePeering(vpc.ID, r.PeerVPC); o != nil {
		return Result{}, ec2.Errorf("VpcPeeringConnectionAlreadyExists", "The VPC peering connection %s between %s and %s is %s. Two VPCs have at most one.", o.ID, vpc.ID, r.PeerVPC, o.Status)
	}
	if err := t.peeringLimits(&p.Requester); err != nil {
		return Result{}, err
	}
	p.ID = ec2.PeeringID(t.meta.longID("pcx", t.serial()))
	peer := ownedRow[ec2.VPC](t.Txn, tableVPC, owner{p.Accepter.Account, p.Accepter.Region}, r.PeerVPC)
	switch {
	case peer == nil || overlap(vpc, peer):
		t.endPeering(p, ec2.PeeringFailed, r.Account)
	default:
		p.Accepter.VNI = peer.VNI
		t.put(tablePeering, p)
	}
	if err := t.tag(string(p.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	t.forgetEndedPeerings(r.Account, r.Region)
	return Result{Peering: p}, nil
}

// overlap reports whether any blocks of two VPCs have addresses in common.
func overlap(a, b *ec2.VPC) bool {
	return slices.ContainsFunc(a.Blocks(), func(x ec2.VPCBlock) bool {
		return slices.ContainsFunc(b.Blocks(), func(y ec2.VPCBlock) bool { return x.CIDR.Overlaps(y.CIDR) })
	})
}

// livePeering returns the peering of two VPCs that is active or requested, or nil.
func (t *tx) livePeering(a, b ec2.VPCID) *ec2.VPCPeering {
	for p := range rows[ec2.VPCPeering](t.Txn, tablePeering, indexVPC, key(a)) {
		if _, other, _ := p.Side(a); other.VPC == b && !t.hasEnded(p) {
			return p
		}
	}
	return nil
}

// hasEnded reports whether a peering has ended. A request ends at its time, also before a Sweep
// marks it.
func (t *tx) hasEnded(p *ec2.VPCPeering) bool {
	return p.Ended() || p.Status == ec2.PeeringPending && !p.Expires.After(t.meta.Time)
}

// peeringLimits returns EC2's error if the requester has too many requests without an answer, or
// if its VPC has too many active peerings.
func (t *tx) peeringLimits(requester *ec2.PeeringSide) error {
	pending := 0
	for p := range rows[ec2.VPCPeering](t.Txn, tablePeering, indexOwner, key(requester.Account)+key(requester.Region)) {
		if p.Requester.Account == requester.Account && p.Requester.Region == requester.Region && !p.Active() && !t.hasEnded(p) {
			pending++
		}
	}
	if pending >= t.limits().PeeringRequests {
		return ec2.Errorf("OutstandingVpcPeeringConnectionLimitExceeded", "The maximum number of outstanding VPC peering connection requests has been reached: %d", pending)
	}
	return t.activePeeringLimit(requester.VPC)
}

func (t *tx) activePeeringLimit(vpc ec2.VPCID) error {
	active := 0
	for p := range rows[ec2.VPCPeering](t.Txn, tablePeering, indexVPC, key(vpc)) {
		if p.Active() {
			active++
		}
	}
	if active >= t.limits().PeeringsPerVPC {
		return ec2.Errorf("ActiveVpcPeeringConnectionPerVpcLimitExceeded", "The maximum number of active VPC peering connections of %s has been reached: %d", vpc, active)
	}
	return nil
}

// AcceptVPCPeering makes a requested peering active. It fails if blocks of the VPCs overlap by now.
// Result: Peering.
type AcceptVPCPeering struct {
	Account ec2.AccountID
	Region  ec2.Region
	Peering ec2.PeeringID
}

func (r *AcceptVPCPeering) apply(t *tx) (Result, error) {
	was, err := t.peeringToAnswer(r.Account, r.Region, r.Peering, "accept")
	if err != nil {
		return Result{}, err
	}
	if was.Active() {
		return Result{Peering: was}, nil
	}
	if t.hasEnded(was) {
		return Result{}, t.noTransition(was, "active")
	}
	for _, side := range []ec2.PeeringSide{was.Requester, was.Accepter} {
		if err := t.activePeeringLimit(side.VPC); err != nil {
			return Result{}, err
		}
	}
	p := *was
	a, b := first[ec2.VPC](t.Txn, tableVPC, indexID, key(p.Requester.VPC)), first[ec2.VPC](t.Txn, tableVPC, indexID, key(p.Accepter.VPC))
	if a == nil || b == nil || overlap(a, b) {
		t.endPeering(&p, ec2.PeeringFailed, p.Requester.Account)
		return Result{Peering: &p}, nil
	}
	p.Status = ec2.PeeringActive
	t.put(tablePeering, &p)
	return Result{Peering: &p}, nil
}

// RejectVPCPeering declines a requested peering. Result: Peering.
type RejectVPCPeering struct {
	Account ec2.AccountID
	Region  ec2.Region
	Peering ec2.PeeringID
}

func (r *RejectVPCPeering) apply(t *tx) (Result, error) {
	was, err := t.peeringToAnswer(r.Account, r.Region, r.Peering, "reject")
	if err != nil {
		return Result{}, err
	}
	if was.Active() || t.hasEnded(was) {
		return Result{}, t.noTransition(was, "rejected")
	}
	p := *was
	t.endPeering(&p, ec2.PeeringRejected, r.Account)
	return Result{Peering: &p}, nil
}

// peeringToAnswer returns a peering that its accepter may accept or reject, in the region of the
// accepter's VPC.
func (t *tx) peeringToAnswer(account ec2.AccountID, region ec2.Region, id ec2.PeeringID, verb string) (*ec2.VPCPeering, error) {
	p, err := t.peering(account, region, id)
	switch {
	case err != nil:
		return nil, err
	case p.Accepter.Account != account:
		return nil, ec2.Errorf("OperationNotPermitted", "User (%s) cannot %s peering %s", account, verb, id)
	case p.Accepter.Region != region:
		return nil, ec2.Errorf("OperationNotPermitted", "Incorrect region (%s) specified for this request. VPC peering connection %s must be accepted or rejected in region %s", region, id, p.Accepter.Region)
	}
	return p, nil
}

// DeleteVPCPeering ends an active peering for both sides, or takes a request back. Result: Peering.
type DeleteVPCPeering struct {
	Account ec2.AccountID
	Region  ec2.Region
	Peering ec2.PeeringID
}

func (r *DeleteVPCPeering) apply(t *tx) (Result, error) {
	was, err := t.peering(r.Account, r.Region, r.Peering)
	if err != nil {
		return Result{}, err
	}
	if t.hasEnded(was) {
		return Result{}, t.noTransition(was, "deleting")
	}
	if !was.Active() && was.Requester.Account != r.Account {
		return Result{}, ec2.Errorf("OperationNotPermitted", "User (%s) cannot delete peering %s while it waits for its acceptance: the accepter can accept or reject it", r.Account, r.Peering)
	}
	p := *was
	t.endPeering(&p, ec2.PeeringDeleted, r.Account)
	return Result{Peering: &p}, nil
}

// ModifyVPCPeering sets whether names of the instances of a side resolve to private addresses from the
// other side. Each account sets it for its own VPC. Result: Peering.
type ModifyVPCPeering struct {
	Account      ec2.AccountID
	Region       ec2.Region
	Peering      ec2.PeeringID
	RequesterDNS *bool `json:",omitempty"`
	AccepterDNS  *bool `json:",omitempty"`
}

func (r *ModifyVPCPeering) apply(t *tx) (Result, error) {
	was, err := t.peering(r.Account, r.Region, r.Peering)
	if err != nil {
		return Result{}, err
	}
	if !was.Active() {
		return Result{}, ec2.Errorf("OperationNotPermitted", "Peering options can be changed while %s is active, and it is %s", was.ID, t.statusOf(was))
	}
	if r.RequesterDNS == nil && r.AccepterDNS == nil {
		return Result{}, ec2.Missing("requesterPeeringConnectionOptions or accepterPeeringConnectionOptions")
	}
	p := *was
	for _, x := range []struct {
		side  *ec2.PeeringSide
		value *bool
		name  string
	}{{&p.Requester, r.RequesterDNS, "requester"}, {&p.Accepter, r.AccepterDNS, "accepter"}} {
		switch {
		case x.value == nil:
			continue
		case x.side.Account != r.Account:
			return Result{}, ec2.Errorf("OperationNotPermitted", "User (%s) cannot modify the %s options of %s", r.Account, x.name, p.ID)
		case x.side.Region != r.Region:
			return Result{}, ec2.Errorf("OperationNotPermitted", "Incorrect region (%s) specified for this request. The %s options of %s are set in region %s", r.Region, x.name, p.ID, x.side.Region)
		}
		x.side.DNS = *x.value
	}
	t.put(tablePeering, &p)
	return Result{Peering: &p}, nil
}

// peering returns a peering that an account sees in a region, or EC2's error.
func (t *tx) peering(account ec2.AccountID, region ec2.Region, id ec2.PeeringID) (*ec2.VPCPeering, error) {
	if id == "" {
		return nil, ec2.Missing("vpcPeeringConnectionId")
	}
	if err := ec2.CheckPeeringID(id); err != nil {
		return nil, err
	}
	p := first[ec2.VPCPeering](t.Txn, tablePeering, indexID, key(id))
	if p == nil || !p.SeenBy(account, region, t.meta.Time) {
		return nil, ec2.NoSuch("pcx", id)
	}
	return p, nil
}

func (t *tx) statusOf(p *ec2.VPCPeering) ec2.PeeringStatus {
	if !p.Ended() && t.hasEnded(p) {
		return ec2.PeeringExpired
	}
	return p.Status
}

func (t *tx) noTransition(p *ec2.VPCPeering, to string) error {
	return ec2.Errorf("InvalidStateTransition", "Invalid state transition for %s, attempted to transition from %s to %s", p.ID, t.statusOf(p), to)
}
