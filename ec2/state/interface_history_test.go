package state

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"palisade/ec2"
)

// An interfaceHistory makes a random history of interfaces and instances in VPCs, of valid and invalid
// requests. The next request depends on the current View.
type interfaceHistory struct {
	rng *rand.Rand
	v   *View
}

// interfaceHistoryStart returns requests for two nodes in zone a, one in zone b, the account dev, and a
// VPC for dev and for albert.
func interfaceHistoryStart() []Request {
	start := append(firstRequests(),
		&PutNode{ec2.Node{ID: "node2", Zone: "us-east-1b"}},
		&PutNode{ec2.Node{ID: "node3", Zone: "us-east-1a"}},
		&CreateAccount{ID: dev, Name: "dev", Platform: ec2.VPCOnly, AccessKey: "AKIDDEV", Secret: "d"},
		&putSettings{ec2.Settings{InterfacesPerInstance: 3, AddressesPerInterface: 4, Quarantine: time.Minute, TerminatedFor: 10 * time.Minute}},
	)
	return append(start, &CreateVPC{Account: dev, Region: east, CIDR: cidr("10.0.0.0/16")}, &CreateVPC{Account: albert, Region: east, CIDR: cidr("10.0.0.0/16")})
}

// furnish returns requests that put two small subnets, a group and a gateway into each VPC of v.
func furnish(v *View) (list []Request) {
	for _, account := range []ec2.AccountID{dev, albert} {
		for vpc := range v.VPCsOf(account, east) {
			if vpc.Default {
				continue
			}
			list = append(list,
				&CreateSubnet{Account: account, Region: east, VPC: vpc.ID, CIDR: cidr("10.0.1.0/28"), Zone: "us-east-1a"},
				&CreateSubnet{Account: account, Region: east, VPC: vpc.ID, CIDR: cidr("10.0.2.0/28"), Zone: "us-east-1b"},
				&CreateSecurityGroup{Account: account, Region: east, Name: "web", Description: "x", VPC: vpc.ID},
				&CreateInternetGateway{Account: account, Region: east})
		}
	}
	return list
}

func (s *interfaceHistory) account() ec2.AccountID {
	return []ec2.AccountID{dev, dev, dev, albert}[s.rng.IntN(4)]
}

// often returns true in n of 10 calls.
func (s *interfaceHistory) often(n int) bool { return s.rng.IntN(10) < n }

func (s *interfaceHistory) subnet(a ec2.AccountID) *ec2.Subnet {
	return pickOne(s.rng, slices.Collect(s.v.SubnetsOf(a, east)))
}

// groups returns some groups of a VPC, and rarely one of another VPC.
func (s *interfaceHistory) groups(a ec2.AccountID, vpc ec2.VPCID) (ids []ec2.GroupID) {
	for g := range s.v.GroupsOf(a, east) {
		if (g.VPC == vpc || s.rng.IntN(40) == 0) && s.often(4) {
			ids = append(ids, g.ID)
		}
	}
	return ids
}

// address returns an address in or near the subnet. It may be a reserved one.
func (s *interfaceHistory) address(in *ec2.Subnet) netip.Addr {
	a := in.CIDR.Addr().As4()
	a[3] += byte(s.rng.IntN(18))
	return netip.AddrFrom4(a)
}

func (s *interfaceHistory) spec(a ec2.AccountID) (spec InterfaceSpec) {
	in := s.subnet(a)
	spec = InterfaceSpec{Subnet: in.ID, Groups: s.groups(a, in.VPC), SecondaryCount: s.rng.IntN(8) / 5}
	if s.often(3) {
		spec.Private = s.address(in)
	}
	if s.often(1) {
		spec.SecondaryCount, spec.Secondary = 0, []netip.Addr{s.address(in), s.address(in)}
	}
	return spec
}

func (s *interfaceHistory) launch(a ec2.AccountID) Request {
	run := &RunInstances{Account: a, Region: east, Image: "ami-eca54085", Type: "m1.small", MinCount: 1, MaxCount: 1 + s.rng.IntN(3)}
	in := s.subnet(a)
	switch s.rng.IntN(5) {
	case 0: // into the default of the account's platform
	case 1, 2:
		run.Subnet = in.ID
		for _, id := range s.groups(a, in.VPC) {
			run.Groups = append(run.Groups, GroupSelector{ID: id})
		}
	case 3:
		run.Subnet, run.Private, run.MaxCount = in.ID, s.address(in), 1
	case 4:
		run.MaxCount = 1
		run.Interfaces = []LaunchInterface{{Spec: s.spec(a), Public: []*bool{nil, new(true), new(false)}[s.rng.IntN(3)]}}
		if s.often(5) {
			run.Interfaces[0] = LaunchInterface{Interface: s.eni(a).ID}
		}
		if s.often(5) {
			run.Interfaces = append(run.Interfaces, LaunchInterface{DeviceIndex: 1, Spec: s.spec(a), DeleteOnTermination: new(s.often(5))})
		}
	}
	if s.often(2) {
		run.Tags, run.InterfaceTags = map[string]string{"Name": "x"}, map[string]string{"Name": "y"}
	}
	return run
}

// eni returns an interface of the account, or one that does not exist.
func (s *interfaceHistory) eni(a ec2.AccountID) *ec2.Interface {
	list := slices.Collect(s.v.InterfacesOf(a, east))
	if len(list) == 0 || s.rng.IntN(20) == 0 {
		return &ec2.Interface{ID: "eni-0a1b2c3d", Private: addr("10.0.1.4")}
	}
	return pickOne(s.rng, list)
}

func (s *interfaceHistory) instance(a ec2.AccountID) *ec2.Instance {
	list := slices.Collect(s.v.InstancesOf(a, east))
	if len(list) == 0 || s.rng.IntN(20) == 0 {
		return &ec2.Instance{ID: "i-0a1b2c3d"}
	}
	return pickOne(s.rng, list)
}

// eniLike tries a few times to find an interface for which is returns true.
func (s *interfaceHistory) eniLike(a ec2.AccountID, is func(*ec2.Interface) bool) *ec2.Interface {
	for range 8 {
		if eni := s.eni(a); is(eni) {
			return eni
		}
	}
	return s.eni(a)
}

func (s *interfaceHistory) instanceLike(a ec2.AccountID, is func(*ec2.Instance) bool) *ec2.Instance {
	for range 8 {
		if i := s.instance(a); is(i) {
			return i
		}
	}
	return s.instance(a)
}

func (s *interfaceHistory) next() Request {
	a := s.account()
	eni, i := s.eni(a), s.instance(a)
	one := []ec2.InstanceID{i.ID}
	attachment := ec2.AttachmentID("eni-attach-0a1b2c3d")
	if eni.Attachment != nil {
		attachment = eni.Attachment.ID
	}
	switch s.rng.IntN(32) {
	case 0, 1:
		return s.launch(a)
	case 2, 3:
		return &CreateNetworkInterface{Account: a, Region: east, Spec: s.spec(a), ClientToken: []string{"", "", "token"}[s.rng.IntN(3)]}
	case 4:
		return &DeleteNetworkInterface{a, east, eni.ID}
	case 5, 6:
		if eni = s.eniLike(a, func(e *ec2.Interface) bool { return e.Attachment == nil }); s.often(7) {
			i = s.instanceLike(a, func(i *ec2.Instance) bool { return i.VPC == eni.VPC })
		}
		return &AttachNetworkInterface{a, east, eni.ID, i.ID, 1 + s.rng.IntN(3)}
	case 7, 8:
		if second := s.eniLike(a, func(e *ec2.Interface) bool { return deviceIndex(e) > 0 }); second.Attachment != nil && s.often(8) {
			attachment = second.Attachment.ID
		}
		return &DetachNetworkInterface{a, east, attachment, s.often(3)}
	case 9, 10, 11:
		eni = s.eniLike(a, func(e *ec2.Interface) bool { return e.State == ec2.Draining })
		return &ReportInterface{eni.ID, eni.Epoch - uint64(s.rng.IntN(8)/7)}
	case 12, 13, 14, 15, 16:
		return s.report(i)
	case 17:
		return &StopInstances{a, east, one}
	case 18, 19:
		return &StartInstances{a, east, one}
	case 20:
		return &TerminateInstances{a, east, one}
	case 21:
		i = s.instanceLike(a, func(i *ec2.Instance) bool { return i.State == ec2.Running })
		one = []ec2.InstanceID{i.ID}
		return []Request{&RebootInstances{a, east, one}, &ModifyInstance{Account: a, Region: east, Instance: i.ID, Groups: s.groups(a, i.VPC), TerminateOnShutdown: new(s.often(5))}}[s.rng.IntN(2)]
	case 22:
		return &ModifyNetworkInterface{Account: a, Region: east, Interface: eni.ID, Groups: s.groups(a, eni.VPC), Attachment: attachment, DeleteOnTermination: []*bool{nil, new(s.often(5))}[s.rng.IntN(2)]}
	case 23, 24:
		return s.assign(a, eni)
	case 25:
		return &UnassignPrivateAddresses{a, east, eni.ID, []netip.Addr{eni.Addresses()[len(eni.Addresses())-1].Private}}
	case 26, 27:
		return s.external(a, eni)
	case 28, 29:
		return s.public(a, eni, i)
	case 30:
		return &Sweep{Confirmed: randomConfirmed(s.rng, s.v)}
	}
	return s.place(a)
}

func (s *interfaceHistory) report(i *ec2.Instance) Request {
	lease, ok := s.v.Interface(i.Interface)
	if !ok {
		lease = &ec2.Interface{}
	}
	state := []ec2.InstanceState{ec2.Running, ec2.Running, ec2.Stopped, ec2.Terminated}[s.rng.IntN(4)]
	return &ReportInstance{Instance: i.ID, InterfaceEpoch: lease.Epoch - uint64(s.rng.IntN(8)/7), State: state, Reason: []string{"", reasonInstance + " x"}[s.rng.IntN(2)]}
}

func (s *interfaceHistory) assign(a ec2.AccountID, eni *ec2.Interface) Request {
	r := &AssignPrivateAddresses{Account: a, Region: east, Interface: eni.ID, Reassign: s.often(5)}
	in, ok := s.v.Subnet(eni.Subnet)
	if !ok || s.often(4) {
		r.Count = 1 + s.rng.IntN(2)
		return r
	}
	r.Addresses = []netip.Addr{s.address(in)}
	if other := s.eni(a); len(other.Secondary) > 0 && s.often(6) {
		r.Addresses[0] = other.Secondary[0].Private
	}
	return r
}

func (s *interfaceHistory) external(a ec2.AccountID, eni *ec2.Interface) Request {
	if s.often(4) {
		eni = s.eniLike(a, func(e *ec2.Interface) bool { return e.External != nil })
		return &UnregisterInterface{a, east, eni.ID, s.often(3)}
	}
	node := pickOne(s.rng, slices.Collect(s.v.Nodes())).ID
	r := &RegisterInterface{Account: a, Region: east, Node: node, External: ec2.ExternalDevice{Device: "tap" + string(rune('0'+s.rng.IntN(4)))}}
	if s.often(4) {
		r.Interface = eni.ID
	} else {
		r.Spec = s.spec(a)
	}
	return r
}

// public returns a request for an elastic address or a gateway.
func (s *interfaceHistory) public(a ec2.AccountID, eni *ec2.Interface, i *ec2.Instance) Request {
	gateways := slices.Collect(s.v.InternetGatewaysOf(a, east))
	for _, g := range gateways {
		if g.VPC == "" && s.often(3) {
			return &AttachInternetGateway{a, east, g.ID, s.subnet(a).VPC}
		}
	}
	elastics := slices.Collect(s.v.ElasticAddressesOf(a, east))
	if len(elastics) < 3 {
		return &AllocateAddress{Account: a, Region: east}
	}
	e := pickOne(s.rng, elastics)
	switch s.rng.IntN(8) {
	case 0:
		return &ReleaseAddress{a, east, e.ID}
	case 1, 2:
		return &DisassociateAddress{a, east, e.Association}
	case 3:
		return &AssociateAddress{Account: a, Region: east, Allocation: e.ID, Instance: i.ID}
	}
	return &AssociateAddress{Account: a, Region: east, Allocation: e.ID, Interface: eni.ID, Private: pickOne(s.rng, eni.Addresses()).Private}
}

// place returns a request for a subnet, a group or a node.
func (s *interfaceHistory) place(a ec2.AccountID) Request {
	in := s.subnet(a)
	switch s.rng.IntN(6) {
	case 0:
		return &ModifySubnet{a, east, in.ID, new(s.often(5))}
	case 1:
		return &DeleteSecurityGroup{a, east, GroupSelector{ID: append(s.groups(a, in.VPC), "sg-0a1b2c3d")[0]}}
	case 2:
		if s.often(3) {
			return &DeleteSubnet{a, east, in.ID}
		}
	case 3:
		return &FenceNode{Node: pickOne(s.rng, slices.Collect(s.v.Nodes())).ID}
	}
	return randomNodeRequest(s.rng, s.v)
}

func pickOne[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }
