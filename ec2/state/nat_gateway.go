package state

import (
	"net/netip"
	"slices"
	"time"

	"palisade/ec2"
)

// natRequests are the requests for NAT gateways.
var natRequests = []Request{&CreateNATGateway{}, &DeleteNATGateway{}, &MoveNATGateway{}}

// CreateNATGateway makes a NAT gateway in a subnet, with an elastic address if it is public. What keeps it
// from working makes it a failed one, as at EC2, and is no error. A repeated request with the same
// ClientToken returns the same gateway. Result: NAT.
type CreateNATGateway struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Subnet      ec2.SubnetID
	Private     bool              `json:",omitempty"`
	Allocation  ec2.AllocationID  `json:",omitempty"`
	Address     netip.Addr        `json:",omitzero"` // zero: any free one of Subnet
	ClientToken string            `json:",omitempty"`
	Tags        map[string]string `json:",omitempty"`
}

func (r *CreateNATGateway) apply(t *tx) (Result, error) {
	shape := shapeOf(r)
	if r.ClientToken != "" {
		made := first[ec2.NATGateway](t.Txn, tableNAT, indexToken, key(r.Account)+key(r.Region)+key(r.ClientToken))
		if made != nil && made.RequestShape != shape {
			return Result{}, tokenMismatch()
		}
		if made != nil {
			return Result{NAT: made}, nil
		}
	}
	if err := checkClientToken(r.ClientToken); err != nil {
		return Result{}, err
	}
	s, err := t.subnetOf(r.Account, r.Region, r.Subnet)
	if err != nil {
		return Result{}, err
	}
	if err := r.checkAllocation(t); err != nil {
		return Result{}, err
	}
	if r.Address.IsValid() && (!s.CIDR.Contains(r.Address) || !s.Leasable(r.Address)) {
		return Result{}, ec2.Errorf("InvalidParameterValue", "Address %s does not fall within the subnet's address range, or is reserved there", r.Address)
	}
	if err := t.roomForNATGateway(s); err != nil {
		return Result{}, err
	}
	if err := t.roomForInterfaces(r.Account, r.Region, 1); err != nil {
		return Result{}, err
	}
	g := &ec2.NATGateway{
		ID: ec2.NATGatewayID(t.meta.longID("nat", t.serial())), Account: r.Account, Region: r.Region, VPC: s.VPC, Subnet: s.ID,
		Created: t.meta.Time, Allocation: r.Allocation, ClientToken: r.ClientToken,
	}
	if r.ClientToken != "" {
		g.RequestShape = shape
	}
	if failed := r.connect(t, g, s); failed != nil {
		g.State, g.Ended = ec2.NATFailed, t.meta.Time
		g.FailureCode, g.FailureMessage = failed.Code, failed.Message
	}
	t.put(tableNAT, g)
	if err := t.tag(string(g.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{NAT: g}, nil
}

// checkAllocation returns EC2's error if the request names an elastic address for a private gateway, none for
// a public one, or one that the account does not have.
func (r *CreateNATGateway) checkAllocation(t *tx) error {
	switch {
	case r.Private && r.Allocation != "":
		return ec2.Errorf("InvalidParameterCombination", "AllocationId may not be given for a private NAT gateway")
	case r.Private:
		return nil
	case r.Allocation == "":
		return ec2.Missing("allocationId")
	}
	_, err := t.elastic(r.Account, r.Region, r.Allocation)
	return err
}

// roomForNATGateway returns EC2's error if the zone of a subnet has as many gateways of the account as it may.
func (t *tx) roomForNATGateway(s *ec2.Subnet) error {
	count := 0
	for g := range rows[ec2.NATGateway](t.Txn, tableNAT, indexOwner, key(s.Account)+key(s.Region)) {
		if o := first[ec2.Subnet](t.Txn, tableSubnet, indexID, key(g.Subnet)); g.Interface != "" && o != nil && o.Zone == s.Zone {
			count++
		}
	}
	if limit := t.limits().NATGatewaysPerZone; count >= limit {
		return ec2.Errorf("NatGatewayLimitExceeded", "Performing this operation would exceed the limit of %d NAT gateways in the Availability Zone", limit)
	}
	return nil
}

// connect gives a gateway its interface, at a node, and its elastic address. It returns why EC2 would show the
// gateway as failed, and then has changed nothing.
func (r *CreateNATGateway) connect(t *tx, g *ec2.NATGateway, s *ec2.Subnet) *ec2.Error {
	var e *ec2.ElasticAddress
	if !r.Private {
		e, _ = t.elastic(r.Account, r.Region, r.Allocation)
		if e.Association != "" {
			return ec2.Errorf("Resource.AlreadyAssociated", "Elastic IP address [%s] is already associated", e.ID)
		}
		if t.gatewayOf(s.VPC) == nil {
			return ec2.Errorf("Gateway.NotAttached", "Network %s has no Internet gateway attached", s.VPC)
		}
	}
	l := t.newSubnetLeaser(s)
	eni := &ec2.Interface{
		ID: ec2.InterfaceID(t.meta.longID("eni", t.serial())), Account: s.Account, Region: s.Region, VNI: l.vni, State: ec2.Idle,
		VPC: s.VPC, Subnet: s.ID, Description: "Interface for NAT Gateway " + string(g.ID), Unchecked: true, NATGateway: g.ID,
	}
	var err error
	if eni.Private, err = l.take(r.Address, eni.ID); err != nil {
		return err.(*ec2.Error)
	}
	eni.MAC = t.meta.mac(l.vni, eni.Private)
	eni.Attachment = &ec2.Attachment{ID: ec2.AttachmentID(t.meta.longID("ela-attach", t.serial())), DeviceIndex: 1, Time: t.meta.Time}
	t.activate(eni, t.nodeForNAT(s.Region, s.Zone, ""))
	t.put(tableInterface, eni)
	g.Interface, g.Address.Private = eni.ID, eni.Private
	if e == nil {
		return nil
	}
	now := *e
	now.Association = ec2.AssociationID(t.meta.longID("eipassoc", t.serial()))
	now.Interface, now.Private = eni.ID, eni.Private
	t.put(tableElastic, &now)
	t.setPublic(eni, eni.Private, e.Public)
	g.Address.Public, g.Assoc = e.Public, now.Association
	return nil
}

// nodeForNAT returns the member that has the fewest gateways among those that carry a zone, or among all if
// none does. It leaves out the node without, if it can.
func (t *tx) nodeForNAT(name ec2.Region, zone string, without ec2.NodeID) ec2.NodeID {
	gateways := make(map[ec2.NodeID]int)
	for g := range rows[ec2.NATGateway](t.Txn, tableNAT, indexID, "") {
		if eni := first[ec2.Interface](t.Txn, tableInterface, indexID, key(g.Interface)); eni != nil {
			gateways[eni.Node]++
		}
	}
	best, rank := ec2.NodeID(""), 0
	for n := range rows[ec2.Node](t.Txn, tableNode, indexID, "") {
		if !n.Member() {
			continue
		}
		r := 1 + gateways[n.ID]
		if !t.carries(n, name, zone) {
			r += 1 << 20
		}
		if n.ID == without {
			r += 1 << 30
		}
		if best == "" || r < rank {
			best, rank = n.ID, r
		}
	}
	return best
}

// DeleteNATGateway deletes a gateway with its interface, and so cuts its connections. Its elastic address becomes
// unassociated. Routes to the gateway stay, as black holes. Result: NAT.
type DeleteNATGateway struct {
	Account ec2.AccountID
	Region  ec2.Region
	NAT     ec2.NATGatewayID
}

func (r *DeleteNATGateway) apply(t *tx) (Result, error) {
	was, err := find[ec2.NATGateway](t.Txn, ofNAT, owner{r.Account, r.Region}, r.NAT)
	if err != nil {
		return Result{}, err
	}
	if was.State == ec2.NATDeleted {
		return Result{NAT: was}, nil
	}
	g := *was
	if eni := first[ec2.Interface](t.Txn, tableInterface, indexID, key(g.Interface)); eni != nil {
		t.deleteInterface(eni)
	}
	g.State, g.Ended, g.Interface, g.Had = ec2.NATDeleted, t.meta.Time, "", g.Interface
	t.put(tableNAT, &g)
	return Result{NAT: &g}, nil
}

// MoveNATGateway moves a gateway from a node that is lost to another one. The leader proposes it. Its connections
// are lost, because the table of its translations is at the lost node. It changes nothing if the gateway is not at
// that node any more. Result: Interface.
type MoveNATGateway struct {
	NAT      ec2.NATGatewayID
	From, To ec2.NodeID
}

func (r *MoveNATGateway) apply(t *tx) (Result, error) {
	g := first[ec2.NATGateway](t.Txn, tableNAT, indexID, key(r.NAT))
	if g == nil {
		return Result{}, ec2.NoSuch("nat", r.NAT)
	}
	n := first[ec2.Node](t.Txn, tableNode, indexID, key(r.To))
	if n == nil || !n.Member() {
		return Result{}, noSuchNode(r.To)
	}
	was := first[ec2.Interface](t.Txn, tableInterface, indexID, key(g.Interface))
	if was == nil || was.Node != r.From {
		return Result{}, nil
	}
	return Result{Interface: t.moveNAT(was, r.To)}, nil
}

// moveNAT makes the interface of a gateway Active at another node.
func (t *tx) moveNAT(was *ec2.Interface, to ec2.NodeID) *ec2.Interface {
	eni := *was
	t.activate(&eni, to)
	t.put(tableInterface, &eni)
	return &eni
}

// moveNATsFrom moves the gateways at a node that leaves the cluster to other nodes.
func (t *tx) moveNATsFrom(id ec2.NodeID) {
	for _, eni := range slices.Collect(rows[ec2.Interface](t.Txn, tableInterface, indexNode, key(id))) {
		if eni.NATGateway == "" {
			continue
		}
		zone := ""
		if s := first[ec2.Subnet](t.Txn, tableSubnet, indexID, key(eni.Subnet)); s != nil {
			zone = s.Zone
		}
		if to := t.nodeForNAT(eni.Region, zone, id); to != id {
			t.moveNAT(eni, to)
		}
	}
}

// natShown is how long a deleted or failed gateway is still described (VPC User Guide, "NAT gateways").
const natShown = time.Hour

// sweepNATs removes the gateways that have been shown for long enough.
func (t *tx) sweepNATs() {
	var gone []*ec2.NATGateway
	for g := range rows[ec2.NATGateway](t.Txn, tableNAT, indexID, "") {
		if g.State != ec2.NATAvailable && !g.Ended.Add(natShown).After(t.meta.Time) {
			gone = append(gone, g)
		}
	}
	for _, g := range gone {
		t.untag(string(g.ID))
		t.del(tableNAT, g)
	}
}

// notManaged returns EC2's error if a user may not change an interface, because it is that of a NAT gateway.
func notManaged(eni *ec2.Interface) error {
	if eni.NATGateway == "" {
		return nil
	}
	return ec2.Errorf("OperationNotPermitted", "You are not allowed to manage network interface '%s': it belongs to %s.", eni.ID, eni.NATGateway)
}

// NATGateway returns the gateway with an id.
func (v *View) NATGateway(id ec2.NATGatewayID) (*ec2.NATGateway, bool) {
	return get[ec2.NATGateway](v, tableNAT, key(id))
}

// NATGateways yields all gateways, by id.
func (v *View) NATGateways() func(func(*ec2.NATGateway) bool) {
	return rows[ec2.NATGateway](v.txn(), tableNAT, indexID, "")
}

// NATGatewaysOf yields the gateways of an account in a region, by id.
func (v *View) NATGatewaysOf(account ec2.AccountID, name ec2.Region) func(func(*ec2.NATGateway) bool) {
	return rows[ec2.NATGateway](v.txn(), tableNAT, indexOwner, key(account)+key(name))
}

// NodeForNAT returns the node that a gateway moves to when its own is lost. Nodes for which lost returns true are
// no candidates; it returns "" if there is none.
func (v *View) NodeForNAT(g *ec2.NATGateway, lost func(ec2.NodeID) bool) ec2.NodeID {
	zone := ""
	if s, ok := v.Subnet(g.Subnet); ok {
		zone = s.Zone
	}
	t := newTx(v.v.db.Snapshot(), v.Index()+1)
	defer t.Abort()
	best, near := ec2.NodeID(""), false
	for n := range v.Nodes() {
		if !n.Member() || lost(n.ID) {
			continue
		}
		if carries := t.carries(n, g.Region, zone); best == "" || carries && !near {
			best, near = n.ID, carries
		}
	}
	return best
}
