package state

import (
	"net/netip"
	"slices"

	"palisade/ec2"
)

// AllocateAddress gives an account a public address from the pools of the region. Result: Elastic.
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

// ReleaseAddress returns an elastic address to its pool. It must not be associated. Result:
// Elastic.
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

// AssociateAddress associates an elastic address with a private address of an interface. The
// request names the interface, or an instance that has only one. It replaces the public address
// that the private address had: an automatic address goes into quarantine, an elastic address stays
// allocated to its account. Result: Elastic.
type AssociateAddress struct {
	Account            ec2.AccountID
	Region             ec2.Region
	Allocation         ec2.AllocationID
	Instance           ec2.InstanceID  `json:",omitempty"` // its only interface; or
	Interface          ec2.InterfaceID `json:",omitempty"`
	Private            netip.Addr      `json:",omitzero"`  // zero: the primary one
	AllowReassociation *bool           `json:",omitempty"` // nil: the default of the account's platform
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
	if err := notManaged(eni); err != nil {
		return Result{}, err
	}
	if has := first[ec2.Interface](t.Txn, tableInterface, indexID, key(e.Interface)); has != nil && has.NATGateway != "" {
		return Result{}, notManaged(has)
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
	eni = first[ec2.Interface](t.Txn, tableInterface, indexID, key(eni.ID)) // read again: it may have had this address at another private one
	eni = t.removePublic(eni, private)
	now := *e
	now.Association = ec2.AssociationID(t.meta.longID("eipassoc", t.serial()))
	now.Interface, now.Private = eni.ID, private
	t.put(tableElastic, &now)
	t.setPublic(eni, private, e.Public)
	t.restorePublic(e.Interface, e.Private)
	return Result{Elastic: &now}, nil
}

// mayReassociate reports whether the request may move an address that is associated already. If
// AllowReassociation is not set, a VPC account may move the address and an EC2-Classic account may
// not (EC2 API Reference, "AssociateAddress").
func (t *tx) mayReassociate(r *AssociateAddress) bool {
	if r.AllowReassociation != nil {
		return *r.AllowReassociation
	}
	platform, err := t.platform(r.Account, r.Region)
	return err == nil && platform == ec2.VPCOnly
}

// associable returns the interface that a request names, directly or by its instance, or EC2's
// error.
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

// DisassociateAddress ends the association of an elastic address. If the launch of the instance
// asked for a public address, the interface gets an automatic public address again. Result:
// Elastic.
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
	if eni := first[ec2.Interface](t.Txn, tableInterface, indexID, key(e.Interface)); eni != nil && eni.NATGateway != "" {
		return Result{}, notManaged(eni)
	}
	now := t.disassociate(e)
	t.restorePublic(e.Interface, e.Private)
	return Result{Elastic: now}, nil
}

// restorePublic leases an automatic public address to an interface whose primary private address
// has lost an elastic address. It does so only if the interface is the only one of its instance and
// the pools have a free address (EC2 User Guide, "Public IPv4 addresses").
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

// elasticAt returns the ElasticAddress whose address is public, or nil if public is zero or an
// automatic address.
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

// removePublic takes the public address, if there is one, away from a private address, and returns
// the changed interface. An elastic address becomes unassociated, an automatic one goes into
// quarantine.
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

// disassociate takes an elastic address away from its interface, if it has one, and returns the
// changed elastic address.
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

// setPublic sets the public address of one of the interface's private addresses, or removes it if
// public is zero. It returns the changed interface, whose Epoch stays.
func (t *tx) setPublic(was *ec2.Interface, private, public netip.Addr) *ec2.Interface {
	eni := *was
	if eni.Private == private {
		eni.Public = public
	}
	eni.Secondary = slices.Clone(eni.Secondary)
	for n := range eni.Secondary {
		if eni.Secondary[n].Private == private {
			eni.Secondary[n].Public = public
		}
	}
	t.put(tableInterface, &eni)
	return &eni
}
