package state

import (
	"slices"

	"palisade/ec2"
)

// A nic describes one interface that every instance of a launch gets.
type nic struct {
	LaunchInterface
	existing *ec2.Interface // nil: leaser makes a new one
	leaser   *subnetLeaser
	public   bool // the interface gets a public address of the region
}

// launchVPC carries out a launch into a VPC: the VPC of the subnets that the request names, or the
// default VPC of the account.
func (r *RunInstances) launchVPC(t *tx, shape string) (Result, error) {
	nics, err := r.nics()
	if err != nil {
		return Result{}, err
	}
	if err := t.checkDevices(r.Type, len(nics), indices(nics)...); err != nil {
		return Result{}, err
	}
	if err := r.chooseSubnets(t, nics); err != nil {
		return Result{}, err
	}
	if err := r.resolveGroups(t, nics); err != nil {
		return Result{}, err
	}
	if err := r.choosePublic(t, nics); err != nil {
		return Result{}, err
	}
	if err := t.checkLaunchKey(r); err != nil {
		return Result{}, err
	}
	count, err := t.launchCount(r)
	if err != nil {
		return Result{}, err
	}
	if count, err = r.countThatFits(t, nics, count); err != nil {
		return Result{}, err
	}
	subnet := nics[0].leaser.subnet
	spread, err := t.newSpread(r.Region, subnet.Zone)
	if err != nil {
		return Result{}, err
	}

	system, err := t.fromTemplate(r)
	if err != nil {
		return Result{}, err
	}

	reservation := t.meta.longID("r", t.serial())
	public := t.newPublicAllocator(r.Region)
	var result Result
	for n := range count {
		i := r.newInstance(t, ec2.InstanceID(t.meta.longID("i", t.serial())), shape)
		i.Reservation, i.LaunchIndex, i.Node = reservation, n, spread.next()
		i.VPC, i.Subnet, i.Zone = subnet.VPC, subnet.ID, subnet.Zone
		for _, x := range nics {
			if err := r.addInterface(t, i, x, public); err != nil {
				return Result{}, err
			}
		}
		t.put(tableInstance, i)
		if err := r.addVolumes(t, i); err != nil {
			return Result{}, err
		}
		if err := r.tagInstance(t, i, system); err != nil {
			return Result{}, err
		}
		result.Instances = append(result.Instances, Change[ec2.Instance]{After: i})
	}
	return result, nil
}

// nics returns the interfaces of the request, sorted by device index: those in Interfaces, or the
// one that the fields Subnet to SecondaryCount describe.
func (r *RunInstances) nics() ([]*nic, error) {
	if len(r.Interfaces) == 0 {
		return []*nic{{LaunchInterface: LaunchInterface{Spec: InterfaceSpec{
			Subnet: r.Subnet, Private: r.Private, Secondary: r.Secondary, SecondaryCount: r.SecondaryCount,
		}}}}, nil
	}
	together := func(what string) error {
		return ec2.Errorf("InvalidParameterCombination", "Network interfaces and an instance-level %s may not be specified on the same request", what)
	}
	switch {
	case r.Subnet != "":
		return nil, together("subnet ID")
	case len(r.Groups) > 0:
		return nil, together("security groups")
	case r.Private.IsValid():
		return nil, together("private address")
	case len(r.Secondary) > 0 || r.SecondaryCount != 0:
		return nil, together("secondary private address")
	}
	var nics []*nic
	for _, x := range r.Interfaces {
		nics = append(nics, &nic{LaunchInterface: x})
	}
	slices.SortStableFunc(nics, func(a, b *nic) int { return a.DeviceIndex - b.DeviceIndex })
	if nics[0].DeviceIndex != 0 {
		return nil, ec2.Errorf("InvalidParameterValue", "An instance needs a network interface at device index 0")
	}
	for n, x := range nics {
		if n > 0 && nics[n-1].DeviceIndex == x.DeviceIndex {
			return nil, ec2.Errorf("InvalidParameterValue", "Each network interface requires a unique device index.")
		}
		if x.Interface != "" && slices.ContainsFunc(nics[:n], func(o *nic) bool { return o.Interface == x.Interface }) {
			return nil, interfaceInUse(x.Interface) // at another device index of the same instance
		}
		if err := x.check(r.MaxCount); err != nil {
			return nil, err
		}
	}
	return nics, nil
}

// check returns an error for attributes that cannot be combined with an existing interface.
func (x *nic) check(count int) error {
	if x.Interface == "" {
		return nil
	}
	if count > 1 {
		return ec2.Errorf("InvalidParameterCombination", "A network interface ID may not be specified when launching more than one instance")
	}
	s := x.Spec
	for _, with := range []struct {
		given bool
		what  string
	}{
		{s.Subnet != "", "a subnet"},
		{len(s.Groups) > 0, "security groups"},
		{s.Description != "", "a description"},
		{s.Private.IsValid() || len(s.Secondary) > 0 || s.SecondaryCount != 0, "private addresses"},
		{x.Public != nil, "associatePublicIPAddress"},
		{x.DeleteOnTermination != nil && *x.DeleteOnTermination, "delete on termination"},
	} {
		if with.given {
			return ec2.Errorf("InvalidParameterCombination", "A network interface may not specify both a network interface ID and %s", with.what)
		}
	}
	return nil
}

func indices(nics []*nic) []int {
	var list []int
	for _, x := range nics {
		list = append(list, x.DeviceIndex)
	}
	return list
}

// chooseSubnets sets the subnet of each interface. All subnets must be in one zone of one VPC.
func (r *RunInstances) chooseSubnets(t *tx, nics []*nic) error {
	leasers := make(map[ec2.SubnetID]*subnetLeaser)
	zone := r.Zone
	var subnets []*ec2.Subnet
	for _, x := range nics {
		s, err := r.subnet(t, x, zone)
		if err != nil {
			return err
		}
		if zone != "" && s.Zone != zone && len(subnets) == 0 {
			return ec2.Errorf("InvalidParameterValue", "The subnet '%s' is in availability zone %s, not in %s", s.ID, s.Zone, ec2.Clip(zone))
		}
		if len(subnets) > 0 && s.VPC != subnets[0].VPC {
			return ec2.Errorf("InvalidParameterCombination", "All network interfaces of an instance must be in the same VPC")
		}
		if len(subnets) > 0 && s.Zone != zone {
			return ec2.Errorf("InvalidParameterCombination", "All network interfaces of an instance must be in the same availability zone")
		}
		zone = s.Zone
		if leasers[s.ID] == nil {
			leasers[s.ID] = t.newSubnetLeaser(s)
		}
		x.leaser = leasers[s.ID]
		subnets = append(subnets, s)
	}
	return nil
}

func (r *RunInstances) subnet(t *tx, x *nic, zone string) (*ec2.Subnet, error) {
	switch {
	case x.Interface != "":
		eni, err := t.interfaceOf(r.Account, r.Region, x.Interface)
		if err != nil {
			return nil, err
		}
		if eni.Attachment != nil {
			return nil, interfaceInUse(eni.ID)
		}
		x.existing = eni
		return first[ec2.Subnet](t.Txn, tableSubnet, indexID, key(eni.Subnet)), nil
	case x.Spec.Subnet != "":
		return t.subnetOf(r.Account, r.Region, x.Spec.Subnet)
	}
	return t.defaultSubnet(r.Account, r.Region, zone)
}

// resolveGroups sets the groups of the only interface to those that r.Groups names. A group name
// means a group of the default VPC (EC2 API Reference, "RunInstances").
func (r *RunInstances) resolveGroups(t *tx, nics []*nic) error {
	if len(r.Interfaces) > 0 || len(r.Groups) == 0 {
		return nil
	}
	for _, sel := range r.Groups {
		if sel.Name != "" && r.Subnet != "" {
			return ec2.Errorf("InvalidParameterCombination", "The parameter groupName cannot be used with the parameter subnet")
		}
	}
	groups, err := t.vpcGroups(r.Account, r.Region, nics[0].leaser.subnet.VPC, r.Groups)
	nics[0].Spec.Groups = groups
	return asInstanceError(err)
}

// asInstanceError returns err, for a request that names an instance. It replaces EC2's error for
// too many groups of an interface by the error for too many groups of an instance.
func asInstanceError(err error) error {
	if e, ok := err.(*ec2.Error); ok && e.Code == "SecurityGroupsPerInterfaceLimitExceeded" {
		return ec2.Errorf("SecurityGroupsPerInstanceLimitExceeded", "The maximum number of security groups per instance has been reached.")
	}
	return err
}

// choosePublic decides whether the primary interface gets a public address. Only a new interface
// that is the only one of its instance can (Amazon VPC User Guide, "Public IPv4 addresses").
func (r *RunInstances) choosePublic(t *tx, nics []*nic) error {
	for n, x := range nics {
		asked := x.Public != nil && *x.Public
		switch {
		case asked && len(nics) > 1:
			return ec2.Errorf("InvalidParameterCombination", "The associatePublicIPAddress parameter cannot be specified when launching with multiple network interfaces.")
		case asked && len(t.publicPools(r.Region)) == 0:
			return ec2.Errorf("InsufficientAddressCapacity", "Region %s has no public addresses", r.Region)
		case x.Public != nil:
			x.public = asked
		case n == 0 && len(nics) == 1 && x.existing == nil:
			x.public = x.leaser.subnet.MapPublic && len(t.publicPools(r.Region)) > 0
		}
	}
	return nil
}

// countThatFits returns the number of instances, at most count, for which there are enough
// interfaces and addresses, or EC2's error if it is below MinCount.
func (r *RunInstances) countThatFits(t *tx, nics []*nic, count int) (int, error) {
	public := t.newPublicAllocator(r.Region)
	private := make(map[ec2.SubnetID]*allocator)
	made := 0
	for _, x := range nics {
		if x.existing == nil {
			made++
		}
		if s := x.leaser.subnet; private[s.ID] == nil {
			private[s.ID] = t.newSubnetLeaser(s).private
		}
		if r.MaxCount > 1 && (x.Spec.Private.IsValid() || len(x.Spec.Secondary) > 0) {
			return 0, ec2.Errorf("InvalidParameterCombination", "Private addresses may not be chosen when launching more than one instance")
		}
	}
	for _, x := range nics {
		if err := t.checkSecondary(0, x.Spec.Secondary, x.Spec.SecondaryCount); err != nil {
			return 0, err
		}
	}
	if made > 0 {
		count = min(count, t.freeInterfaces(r.Account, r.Region)/made)
	}
	if count < r.MinCount {
		return 0, t.roomForInterfaces(r.Account, r.Region, made*r.MinCount)
	}
	for n := range count {
		for _, x := range nics {
			if x.existing != nil {
				continue
			}
			err := x.reserve(private[x.leaser.subnet.ID], public)
			if err != nil && n >= r.MinCount {
				return n, nil
			}
			if err != nil {
				return 0, err
			}
		}
	}
	return count, nil
}

// reserve takes the addresses of one interface from the allocators. It returns an error if too few
// addresses are free.
func (x *nic) reserve(private, public *allocator) error {
	need := 1 + x.Spec.SecondaryCount
	if x.Spec.Private.IsValid() {
		need--
	}
	for range need {
		if _, ok := private.next(); !ok {
			return ec2.Errorf("InsufficientFreeAddressesInSubnet", "There are not enough free addresses in subnet '%s' to satisfy the requested number of instances.", x.leaser.subnet.ID)
		}
	}
	if !x.public {
		return nil
	}
	if _, ok := public.next(); !ok {
		return ec2.Errorf("InsufficientAddressCapacity", "There are not enough free public addresses in region %s to satisfy the requested number of instances.", x.leaser.subnet.Region)
	}
	return nil
}

// addInterface attaches the interface that x describes to an instance of the launch. It makes the
// interface if it does not exist.
func (r *RunInstances) addInterface(t *tx, i *ec2.Instance, x *nic, public *allocator) error {
	eni, onTermination := x.existing, ec2.KeepInterface
	if eni == nil {
		made, err := x.leaser.make(x.Spec)
		if err != nil {
			return err
		}
		eni, onTermination = made, ec2.DeleteInterface
		if x.DeleteOnTermination != nil {
			onTermination = ec2.OnTermination(!*x.DeleteOnTermination)
		}
		if err := t.tag(string(eni.ID), r.Account, r.Region, r.InterfaceTags); err != nil {
			return err
		}
	} else {
		attached := *eni
		eni = &attached
	}
	eni.AutoPublic = x.public
	if x.public {
		if err := t.mapPublic(eni, public); err != nil {
			return err
		}
	}
	t.attach(eni, i, x.DeviceIndex, onTermination)
	t.put(tableInterface, eni)
	if x.DeviceIndex == 0 {
		i.Interface, i.Groups = eni.ID, slices.Clone(eni.Groups)
	}
	return nil
}

// reconnect activates the interfaces of an instance that starts. Only an instance with one
// interface gets a public address again (EC2 User Guide, "Instance IP addressing").
func (t *tx) reconnect(i *ec2.Instance) error {
	interfaces := t.attached(i.ID)
	public := t.newPublicAllocator(i.Region)
	for _, was := range interfaces {
		eni := *was
		t.activate(&eni, i.Node)
		if eni.AutoPublic && len(interfaces) == 1 && len(t.publicPools(i.Region)) > 0 {
			if err := t.mapPublic(&eni, public); err != nil {
				return err
			}
		}
		t.put(tableInterface, &eni)
	}
	return nil
}
