package state

import (
	"net/netip"
	"slices"

	"palisade/ec2"
)

// A subnetLeaser makes interfaces in one subnet. It remembers where its search for free addresses
// ended, so a launch of many instances walks the subnet once.
type subnetLeaser struct {
	t       *tx
	subnet  *ec2.Subnet
	vni     ec2.VNI
	private *allocator
}

func (t *tx) newSubnetLeaser(s *ec2.Subnet) *subnetLeaser {
	l := &subnetLeaser{t: t, subnet: s, vni: first[ec2.VPC](t.Txn, tableVPC, indexID, key(s.VPC)).VNI}
	l.private = &allocator{t: t, vni: l.vni, pools: []netip.Prefix{s.CIDR}, low: firstLeasable(s)}
	return l
}

// firstLeasable returns the first Leasable address of a subnet.
func firstLeasable(s *ec2.Subnet) netip.Addr {
	a := s.CIDR.Addr()
	for !s.Leasable(a) {
		a = a.Next()
	}
	return a
}

// The method make returns a new interface and assigns its addresses. The caller must put the row of
// the interface.
func (l *subnetLeaser) make(spec InterfaceSpec) (*ec2.Interface, error) {
	t, s := l.t, l.subnet
	if err := checkInterfaceDescription(spec.Description); err != nil {
		return nil, err
	}
	groups, err := t.interfaceGroups(s.Account, s.Region, s.VPC, spec.Groups)
	if err != nil {
		return nil, err
	}
	eni := &ec2.Interface{
		ID:          ec2.InterfaceID(t.meta.longID("eni", t.serial())),
		Account:     s.Account,
		Region:      s.Region,
		VNI:         l.vni,
		Groups:      groups,
		State:       ec2.Idle,
		VPC:         s.VPC,
		Subnet:      s.ID,
		Description: spec.Description,
	}
	if eni.Private, err = l.take(spec.Private, eni.ID); err != nil {
		return nil, err
	}
	eni.MAC = t.meta.mac(l.vni, eni.Private)
	if _, err := l.takeSecondary(eni, spec.Secondary, spec.SecondaryCount); err != nil {
		return nil, err
	}
	return eni, nil
}

// takeSecondary assigns an interface the chosen secondary addresses, or count free ones if chosen
// is empty, and returns them.
func (l *subnetLeaser) takeSecondary(eni *ec2.Interface, chosen []netip.Addr, count int) ([]netip.Addr, error) {
	if err := l.t.checkSecondary(len(eni.Secondary), chosen, count); err != nil {
		return nil, err
	}
	if len(chosen) == 0 {
		chosen = make([]netip.Addr, count)
	}
	var taken []netip.Addr
	eni.Secondary = slices.Clone(eni.Secondary)
	for _, want := range chosen {
		a, err := l.take(want, eni.ID)
		if err != nil {
			return nil, err
		}
		taken = append(taken, a)
		eni.Secondary = append(eni.Secondary, ec2.AddressPair{Private: a})
	}
	sortPairs(eni.Secondary)
	return taken, nil
}

// checkSecondary returns EC2's error if an interface may not get the secondary addresses in chosen,
// or count of them. The argument has is the number of secondary addresses that it has already.
func (t *tx) checkSecondary(has int, chosen []netip.Addr, count int) error {
	switch room := t.limits().AddressesPerInterface - 1 - has; {
	case len(chosen) > 0 && count != 0:
		return ec2.Errorf("InvalidParameterCombination", "Secondary addresses are either chosen or counted, not both")
	case count < 0:
		return ec2.Errorf("InvalidParameterValue", "Value (%d) for parameter secondaryPrivateIpAddressCount is invalid. It must not be negative.", count)
	case max(len(chosen), count) > room:
		return ec2.Errorf("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit of %d.", t.limits().AddressesPerInterface)
	}
	return nil
}

func sortPairs(pairs []ec2.AddressPair) {
	slices.SortFunc(pairs, func(a, b ec2.AddressPair) int { return a.Private.Compare(b.Private) })
}

// take assigns an interface the address want, or any free address if want is zero, and returns the
// address. An address in quarantine is not free, not even for a request that names it.
func (l *subnetLeaser) take(want netip.Addr, id ec2.InterfaceID) (netip.Addr, error) {
	a := want
	if !a.IsValid() {
		var ok bool
		if a, ok = l.private.next(); !ok {
			return a, ec2.Errorf("InsufficientFreeAddressesInSubnet", "The specified subnet does not have enough free addresses to satisfy the request.")
		}
	} else if err := l.free(a); err != nil {
		return a, err
	}
	l.t.assign(l.vni, a, id)
	return a, nil
}

// The method free returns EC2's error if a chosen address is not free, else nil.
func (l *subnetLeaser) free(a netip.Addr) error {
	switch {
	case !l.subnet.CIDR.Contains(a):
		return ec2.Errorf("InvalidParameterValue", "Address %s does not fall within the subnet's address range", a)
	case !l.subnet.Leasable(a):
		return ec2.Errorf("InvalidParameterValue", "Address %s is in subnet's reserved address range", a)
	}
	row := first[address](l.t.Txn, tableAddress, indexID, addressKey(l.vni, a))
	switch {
	case row == nil:
		return nil
	case row.Interface == "":
		return ec2.Errorf("InvalidIPAddress.InUse", "Address %s is in use. It was released a moment ago and is in quarantine.", a)
	}
	return ec2.Errorf("InvalidIPAddress.InUse", "Address %s is in use.", a)
}

// interfaceGroups returns the groups that a request names by id, sorted, or the default group of
// the VPC if ids is empty. It returns EC2's error for a group that an interface in the VPC cannot
// have.
func (t *tx) interfaceGroups(account ec2.AccountID, region ec2.Region, vpc ec2.VPCID, ids []ec2.GroupID) ([]ec2.GroupID, error) {
	selectors := make([]GroupSelector, len(ids))
	for n, id := range ids {
		selectors[n].ID = id
	}
	return t.vpcGroups(account, region, vpc, selectors)
}

// mapPublic leases an interface a public address of the region, unless it has one. The lease ends
// when the interface leaves its node.
func (t *tx) mapPublic(eni *ec2.Interface, public *allocator) error {
	if eni.Public.IsValid() {
		return nil
	}
	a, ok := public.next()
	if !ok {
		return ec2.Errorf("InsufficientAddressCapacity", "There is no free public address in region %s", eni.Region)
	}
	eni.Public = a
	t.assign(publicVNI, a, eni.ID)
	return nil
}

func (t *tx) newPublicAllocator(region ec2.Region) *allocator {
	return &allocator{t: t, vni: publicVNI, pools: t.publicPools(region)}
}

// activate makes an interface Active at a node, with a new Epoch. The caller must put the row of
// the interface.
func (t *tx) activate(eni *ec2.Interface, node ec2.NodeID) {
	eni.Node, eni.State, eni.Epoch = node, ec2.Active, t.serial()
}

// madeIdle returns a copy of an interface that is Idle, at no node. Its public address goes into
// quarantine, unless it is an elastic address. The caller must put the row of the copy.
func (t *tx) madeIdle(was *ec2.Interface) *ec2.Interface {
	eni := *was
	eni.State, eni.Node = ec2.Idle, ""
	if eni.Public.IsValid() && t.elasticAt(eni.Public) == nil {
		t.quarantine(publicVNI, eni.Public)
		eni.Public = netip.Addr{}
	}
	return &eni
}

// deleteOrDetach ends an attachment because the instance, or the external device, is gone: the
// interface is deleted if DeleteOnTermination says so, else detached.
func (t *tx) deleteOrDetach(was *ec2.Interface) {
	if was.Attachment.DeleteOnTermination {
		t.deleteInterface(was)
		return
	}
	t.detach(was)
}

// detach ends an attachment and keeps the interface, which becomes Idle.
func (t *tx) detach(was *ec2.Interface) {
	eni := t.madeIdle(was)
	eni.Instance, eni.Attachment, eni.External, eni.AutoPublic = "", nil, nil, false
	t.put(tableInterface, eni)
}

// deleteInterface deletes an interface in a VPC. Its addresses go into quarantine; its elastic
// addresses become unassociated.
func (t *tx) deleteInterface(eni *ec2.Interface) {
	for _, pair := range eni.Addresses() {
		t.quarantine(eni.VNI, pair.Private)
		t.releasePublic(pair.Public)
	}
	t.untag(string(eni.ID))
	t.del(tableInterface, eni)
}

// releasePublic takes a public address away from its interface: an elastic one becomes
// unassociated, an automatic one goes into quarantine. It ignores the zero address.
func (t *tx) releasePublic(public netip.Addr) {
	if !public.IsValid() {
		return
	}
	if e := t.elasticAt(public); e != nil {
		t.disassociate(e)
		return
	}
	t.quarantine(publicVNI, public)
}

// pairAt returns the AddressPair of one of the interface's private addresses, and false if the
// interface does not have the address.
func pairAt(i *ec2.Interface, private netip.Addr) (ec2.AddressPair, bool) {
	at := slices.IndexFunc(i.Addresses(), func(p ec2.AddressPair) bool { return p.Private == private })
	if at < 0 {
		return ec2.AddressPair{}, false
	}
	return i.Addresses()[at], true
}
