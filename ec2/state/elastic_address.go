package state

import (
	"net/netip"
	"slices"

	"palisade/ec2"
)

// AllocateAddress takes a public address out of the region's pools for an account.
// Result: Elastic.
type AllocateAddress struct {
	Account ec2.AccountID
	Region  ec2.Region
	Tags    map[string]string `json:",omitempty"`
}

func (r *AllocateAddress) apply(t *tx) (Result, error) {
	if _, err := t.platform(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	count := 0
	for range rows[ec2.ElasticAddress](t.Txn, tableElastic, indexOwner, key(r.Account)+key(r.Region)) {
		count++
	}
	if count >= t.limits().AddressesPerRegion {
		return Result{}, ec2.Errorf("AddressLimitExceeded", "The maximum number of addresses has been reached.")
	}
	public, ok := t.freePublic(r.Region)
	if !ok {
		return Result{}, ec2.Errorf("InsufficientAddressCapacity", "There are no free public addresses in region %s", r.Region)
	}
	e := &ec2.ElasticAddress{ID: ec2.AllocationID(t.meta.longID("eipalloc", t.serial())), Account: r.Account, Region: r.Region, Public: public}
	t.put(tableElastic, e)
	t.put(tableAddress, &address{VNI: publicVNI, Addr: public, Allocation: e.ID})
	if err := t.tag(string(e.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{Elastic: e}, nil
}

func (t *tx) freePublic(region ec2.Region) (netip.Addr, bool) {
	return (&allocator{t: t, vni: publicVNI, pools: t.publicPools(region)}).next()
}

// ReleaseAddress gives an address back that nobody has. Result: Elastic.
type ReleaseAddress struct {
	Account    ec2.AccountID
	Region     ec2.Region
	Allocation ec2.AllocationID
}

func (r *ReleaseAddress) apply(t *tx) (Result, error) {
	e, err := t.elastic(r.Account, r.Region, r.Allocation)
	if err != nil {
		return Result{}, err
	}
	if e.Association != "" {
		return Result{}, ec2.Errorf("InvalidIPAddress.InUse", "Address %s is in use. %s", e.Public, dependentObjects([]string{string(e.Interface)}))
	}
	t.untag(string(e.ID))
	t.del(tableElastic, e)
	t.quarantine(publicVNI, e.Public)
	return Result{Elastic: e}, nil
}

// AssociateAddress gives an elastic address to a private address of an interface: of the
// one that is named, or of the only one of an instance. What was there goes: an automatic
// public address rests, another elastic one stays its account's. Result: Elastic.
type AssociateAddress struct {
	Account            ec2.AccountID
	Region             ec2.Region
	Allocation         ec2.AllocationID
	Instance           ec2.InstanceID  `json:",omitempty"` // or
	Interface          ec2.InterfaceID `json:",omitempty"`
	Private            netip.Addr      `json:",omitzero"`  // the zero Addr is the primary one
	AllowReassociation *bool           `json:",omitempty"` // nil: as usual for the account's platform
}

func (r *AssociateAddress) apply(t *tx) (Result, error) {
	e, err := t.elastic(r.Account, r.Region, r.Allocation)
	if err != nil {
		return Result{}, err
	}
	eni, err := t.associable(r)
	if err != nil {
		return Result{}, err
	}
	private := r.Private
	if !private.IsValid() {
		private = eni.Private
	}
	at := slices.IndexFunc(eni.Addresses(), func(p ec2.AddressPair) bool { return p.Private == private })
	if at < 0 {
		return Result{}, ec2.Errorf("InvalidParameterValue", "The private IP address %s is not assigned to network interface %s", private, eni.ID)
	}
	if e.Interface == eni.ID && e.Private == private {
		return Result{Elastic: e}, nil
	}
	if t.gatewayOf(eni.VPC) == nil {
		return Result{}, ec2.Errorf("Gateway.NotAttached", "Network %s is not attached to any internet gateway", eni.VPC)
	}
	had := t.elasticAt(eni.Addresses()[at].Public)
	if !t.mayReassociate(r) {
		switch {
		case e.Association != "":
			return Result{}, ec2.Errorf("Resource.AlreadyAssociated", "resource %s is already associated with associate-id %s", e.ID, e.Association)
		case had != nil:
			return Result{}, ec2.Errorf("Resource.AlreadyAssociated", "resource %s is already associated with associate-id %s", eni.ID, had.Association)
		}
	}
	t.disassociate(e)
	eni = first[ec2.Interface](t.Txn, tableInterface, indexID, key(eni.ID)) // it may have had the address elsewhere
	eni = t.removePublic(eni, private)
	now := *e
	now.Association = ec2.AssociationID(t.meta.longID("eipassoc", t.serial()))
	now.Interface, now.Private = eni.ID, private
	t.put(tableElastic, &now)
	t.setPublic(eni, private, e.Public)
	t.restorePublic(e.Interface, e.Private)
	return Result{Elastic: &now}, nil
}

// mayReassociate is what AllowReassociation says. Without it, an account of EC2-Classic is
// asked to say so and one of VPCs is not (EC2 API Reference, "AssociateAddress").
func (t *tx) mayReassociate(r *AssociateAddress) bool {
	if r.AllowReassociation != nil {
		return *r.AllowReassociation
	}
	platform, err := t.platform(r.Account, r.Region)
	return err == nil && platform == ec2.VPCOnly
}

// associable finds the interface that a request means.
func (t *tx) associable(r *AssociateAddress) (*ec2.Interface, error) {
	switch {
	case r.Instance != "" && r.Interface != "":
		return nil, ec2.Errorf("InvalidParameterCombination", "You may specify an instance or a network interface, but not both")
	case r.Interface != "":
		return t.interfaceOf(r.Account, r.Region, r.Interface)
	case r.Instance == "":
		return nil, ec2.Errorf("MissingParameter", "Either InstanceId or NetworkInterfaceId must be specified")
	}
	i, err := t.instance(r.Account, r.Region, r.Instance)
	if err != nil {
		return nil, err
	}
	if i.State != ec2.Running && i.State != ec2.Stopped {
		return nil, ec2.Errorf("InvalidInstanceID", "The %s instance '%s' is not in a valid state for this operation.", i.State, i.ID)
	}
	attached := slices.Collect(rows[ec2.Interface](t.Txn, tableInterface, indexHolder, key(i.ID)))
	if len(attached) > 1 {
		return nil, ec2.Errorf("InvalidInstanceID", "There are multiple interfaces attached to instance '%s'. Please specify an interface ID for the operation instead.", i.ID)
	}
	if len(attached) == 0 || attached[0].VPC == "" {
		return nil, ec2.Errorf("InvalidInstanceID", "The instance '%s' is in EC2-Classic; its addresses are not elastic here.", i.ID)
	}
	return attached[0], nil
}

// DisassociateAddress takes an elastic address from who has it. An interface whose
// instance is to have a public address gets one of the pools again. Result: Elastic.
type DisassociateAddress struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Association ec2.AssociationID
}

func (r *DisassociateAddress) apply(t *tx) (Result, error) {
	if r.Association == "" {
		return Result{}, ec2.Missing("associationId")
	}
	var e *ec2.ElasticAddress
	for had := range rows[ec2.ElasticAddress](t.Txn, tableElastic, indexOwner, key(r.Account)+key(r.Region)) {
		if had.Association == r.Association {
			e = had
		}
	}
	if e == nil {
		return Result{}, ec2.NoSuch("eipassoc", r.Association)
	}
	now := t.disassociate(e)
	t.restorePublic(e.Interface, e.Private)
	return Result{Elastic: now}, nil
}

// givePublicAgain gives an interface an automatic public address in place of the elastic
// one that its primary private address had, if it is the only interface of its instance
// and the pools have one (EC2 User Guide, "Public IPv4 addresses").
func (t *tx) restorePublic(id ec2.InterfaceID, private netip.Addr) {
	eni := first[ec2.Interface](t.Txn, tableInterface, indexID, key(id))
	if eni == nil || eni.Private != private || eni.Public.IsValid() || !eni.AutoPublic || eni.State != ec2.Active || eni.Instance == "" {
		return
	}
	attached := 0
	for range rows[ec2.Interface](t.Txn, tableInterface, indexHolder, key(eni.Instance)) {
		attached++
	}
	public, ok := t.freePublic(eni.Region)
	if attached != 1 || !ok {
		return
	}
	t.put(tableAddress, &address{VNI: publicVNI, Addr: public, Interface: eni.ID})
	t.setPublic(eni, eni.Private, public)
}

// elasticAt is the elastic address that a public address is, or nil: it is an automatic
// one, or none.
func (t *tx) elasticAt(public netip.Addr) *ec2.ElasticAddress {
	if !public.IsValid() {
		return nil
	}
	a := first[address](t.Txn, tableAddress, indexID, addressKey(publicVNI, public))
	if a == nil || a.Allocation == "" {
		return nil
	}
	return first[ec2.ElasticAddress](t.Txn, tableElastic, indexID, key(a.Allocation))
}

// takePublic takes the public address of a private one, if it has any: an elastic one is
// nobody's from then on, an automatic one rests.
func (t *tx) removePublic(eni *ec2.Interface, private netip.Addr) *ec2.Interface {
	for _, p := range eni.Addresses() {
		if p.Private != private || !p.Public.IsValid() {
			continue
		}
		if e := t.elasticAt(p.Public); e != nil {
			t.disassociate(e)
			return first[ec2.Interface](t.Txn, tableInterface, indexID, key(eni.ID))
		}
		t.quarantine(publicVNI, p.Public)
		return t.setPublic(eni, private, netip.Addr{})
	}
	return eni
}

// dissociate takes an elastic address from its interface, if it has one.
func (t *tx) disassociate(e *ec2.ElasticAddress) *ec2.ElasticAddress {
	if e.Association == "" {
		return e
	}
	if eni := first[ec2.Interface](t.Txn, tableInterface, indexID, key(e.Interface)); eni != nil {
		t.setPublic(eni, e.Private, netip.Addr{})
	}
	now := *e
	now.Association, now.Interface, now.Private = "", "", netip.Addr{}
	t.put(tableElastic, &now)
	return &now
}

// setPublic makes a public address that of one of the interface's private ones; the zero
// Addr takes it away. The lease goes on under its Epoch.
func (t *tx) setPublic(was *ec2.Interface, private, public netip.Addr) *ec2.Interface {
	eni := *was
	if eni.Private == private {
		eni.Public = public
	}
	eni.Further = slices.Clone(eni.Further)
	for n := range eni.Further {
		if eni.Further[n].Private == private {
			eni.Further[n].Public = public
		}
	}
	t.put(tableInterface, &eni)
	return &eni
}
