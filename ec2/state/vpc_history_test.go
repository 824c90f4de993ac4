package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

// vpcHistory returns a random history of n valid and invalid requests for networks.
func vpcHistory(seed uint64, n int) []Request {
	rng := rand.New(rand.NewPCG(seed, 2))
	model := NewState()
	var list []Request
	add := func(r Request) { list = applyNext(model, list, r) }
	for _, r := range firstRequests() {
		add(r)
	}
	add(&CreateAccount{ID: dev, Name: "dev", Platform: ec2.VPCOnly, AccessKey: "AKIDDEV", Secret: "d"})
	for len(list) < n {
		if rng.IntN(25) == 0 {
			add(randomRegionRequest(rng))
			continue
		}
		add(randomVPCRequest(rng, model.View()))
	}
	return list
}

// pick returns the id of one of the rows, or an id that does not exist.
func pick[T any, ID ~string](rng *rand.Rand, rows []*T, id func(*T) ID) ID {
	if len(rows) == 0 || rng.IntN(12) == 0 {
		return "vpc-0a1b2c3d"
	}
	return id(rows[rng.IntN(len(rows))])
}

func randomVPCRequest(rng *rand.Rand, v *View) Request {
	account := []ec2.AccountID{albert, dev, dev, dev}[rng.IntN(4)]
	vpc := pick(rng, slices.Collect(v.VPCsOf(account, east)), func(x *ec2.VPC) ec2.VPCID { return x.ID })
	subnet := pick(rng, slices.Collect(v.SubnetsOf(account, east)), func(x *ec2.Subnet) ec2.SubnetID { return x.ID })
	gateway := pick(rng, slices.Collect(v.InternetGatewaysOf(account, east)), func(x *ec2.InternetGateway) ec2.GatewayID { return x.ID })
	tables := slices.Collect(v.RouteTablesOf(account, east))
	table := pick(rng, tables, func(x *ec2.RouteTable) ec2.RouteTableID { return x.ID })
	association := pick(rng, tables, func(x *ec2.RouteTable) ec2.AssociationID {
		if len(x.Associations) > 0 {
			return x.Associations[0].ID
		}
		return x.Main
	})
	elastic := pick(rng, slices.Collect(v.ElasticAddressesOf(account, east)), func(x *ec2.ElasticAddress) ec2.AllocationID { return x.ID })
	block := netip.PrefixFrom(netip.AddrFrom4([4]byte{[]byte{10, 172}[rng.IntN(2)], []byte{0, 31}[rng.IntN(2)], byte(rng.IntN(2) * 128), 0}), 15+rng.IntN(6)).Masked()
	part := block
	if x, ok := v.VPC(vpc); ok {
		four := x.Blocks()[rng.IntN(1+len(x.Secondary))].CIDR.Addr().As4()
		four[2] += byte(rng.IntN(8))
		part = netip.PrefixFrom(netip.AddrFrom4(four), 24+rng.IntN(2))
	}
	destination := []netip.Prefix{allIPv4, cidr("203.0.113.0/24"), cidr("10.0.0.0/16")}[rng.IntN(3)]
	var tags map[string]string
	if rng.IntN(3) == 0 {
		tags = map[string]string{[]string{"Name", "aws:Name"}[rng.IntN(2)]: "x", "stage": "test"}
	}
	switch rng.IntN(46) {
	case 0:
		return &CreateVPC{account, east, block, tags}
	case 1:
		return &DeleteVPC{account, east, vpc}
	case 2:
		return &ModifyVPC{Account: account, Region: east, VPC: vpc, DNSHostnames: new(rng.IntN(2) == 0)}
	case 3:
		return &CreateDefaultVPC{account, east}
	case 4, 5, 6:
		return &CreateSubnet{account, east, vpc, []netip.Prefix{part, block}[rng.IntN(2)], []string{"", "us-east-1a", "us-east-1b"}[rng.IntN(3)], tags}
	case 7:
		return &DeleteSubnet{account, east, subnet}
	case 8:
		return &ModifySubnet{account, east, subnet, new(rng.IntN(2) == 0)}
	case 9:
		return &CreateInternetGateway{account, east, tags}
	case 10:
		return &DeleteInternetGateway{account, east, gateway}
	case 11, 12:
		return &AttachInternetGateway{account, east, gateway, vpc}
	case 13:
		return &DetachInternetGateway{account, east, gateway, vpc}
	case 14:
		return &CreateRouteTable{account, east, vpc, tags, []string{"", "token"}[rng.IntN(2)]}
	case 15:
		return &DeleteRouteTable{account, east, table}
	case 16, 17:
		return &CreateRoute{Account: account, Region: east, RouteTable: table, Destination: destination, Gateway: gateway}
	case 18:
		return &ReplaceRoute{Account: account, Region: east, RouteTable: table, Destination: destination, Gateway: gateway}
	case 19:
		return &DeleteRoute{Account: account, Region: east, RouteTable: table, Destination: destination}
	case 20:
		return &AssociateRouteTable{account, east, table, subnet}
	case 21:
		return []Request{&DisassociateRouteTable{account, east, association}, &ReplaceRouteTableAssociation{account, east, association, table}}[rng.IntN(2)]
	case 22:
		return &AllocateAddress{account, east, tags}
	case 23:
		return &ReleaseAddress{account, east, elastic}
	case 24:
		return []Request{&CreateTags{account, east, []string{string(vpc), string(subnet)}, tags}, &DeleteTags{account, east, []string{string(vpc)}, nil}}[rng.IntN(2)]
	}
	if r := randomInterfaceRequest(rng, v, account, subnet, elastic); r != nil {
		return r
	}
	return []Request{
		&Sweep{},
		&PutNode{ec2.Node{ID: "node2", Zone: []string{"us-east-1a", "us-east-1b", "us-east-1c"}[rng.IntN(3)]}},
		&CreateDefaultSubnet{account, east, "us-east-1b"},
		randomBlockRequest(rng, v, account, vpc, block), randomACLRequest(rng, v, account, vpc, subnet),
	}[min(rng.IntN(6), 4)]
}

// randomBlockRequest returns a request to add a block to a VPC, or to remove its last one.
func randomBlockRequest(rng *rand.Rand, v *View, account ec2.AccountID, vpc ec2.VPCID, block netip.Prefix) Request {
	x, ok := v.VPC(vpc)
	if !ok || rng.IntN(3) > 0 {
		return &AssociateVPCBlock{account, east, vpc, []netip.Prefix{block, cidr("10.1.0.0/20"), cidr("100.64.0.0/24")}[rng.IntN(3)]}
	}
	return &DisassociateVPCBlock{account, east, x.Blocks()[len(x.Secondary)].Association}
}

// randomInterfaceRequest returns a request for an instance, an interface or an elastic address, or
// nil.
func randomInterfaceRequest(rng *rand.Rand, v *View, account ec2.AccountID, subnet ec2.SubnetID, elastic ec2.AllocationID) Request {
	interfaces := slices.Collect(v.InterfacesOf(account, east))
	eni := pick(rng, interfaces, func(x *ec2.Interface) ec2.InterfaceID { return x.ID })
	instances := slices.Collect(v.InstancesOf(account, east))
	instance := pick(rng, instances, func(x *ec2.Instance) ec2.InstanceID { return x.ID })
	association := pick(rng, slices.Collect(v.ElasticAddressesOf(account, east)), func(x *ec2.ElasticAddress) ec2.AssociationID { return x.Association })
	switch rng.IntN(13) {
	case 0:
		return &RunInstances{Account: account, Region: east, Image: "ami-eca54085", Subnet: subnet, MinCount: 1, MaxCount: 1}
	case 1:
		return &CreateNetworkInterface{Account: account, Region: east, Spec: InterfaceSpec{Subnet: subnet, SecondaryCount: rng.IntN(2)}}
	case 2:
		return &DeleteNetworkInterface{account, east, eni}
	case 3, 4, 5:
		r := &AssociateAddress{Account: account, Region: east, Allocation: elastic, Interface: eni}
		if lease, ok := v.Interface(eni); ok && len(lease.Secondary) > 0 && rng.IntN(2) == 0 {
			r.Private = lease.Secondary[0].Private
		}
		if rng.IntN(3) == 0 {
			r.Interface, r.Private, r.Instance = "", netip.Addr{}, instance
		}
		return r
	case 6:
		return &DisassociateAddress{account, east, association}
	case 7:
		ids := []ec2.InstanceID{instance}
		return []Request{&StopInstances{account, east, ids}, &StartInstances{account, east, ids}, &TerminateInstances{account, east, ids}}[rng.IntN(3)]
	case 8, 9, 10, 11, 12:
		if lease, ok := v.Interface(eni); ok && lease.Instance != "" {
			return &ReportInstance{Instance: lease.Instance, InterfaceEpoch: lease.Epoch, State: []ec2.InstanceState{ec2.Running, ec2.Running, ec2.Stopped, ec2.Terminated}[rng.IntN(4)]}
		}
	}
	return nil
}

// A State and a copy, which is restored from a snapshot now and then, stay equal. A refused request
// changes nothing, and networks keep their invariants after each command.
func TestSameLogMakesSameStateOfNetworks(t *testing.T) {
	for seed := range uint64(8) {
		a, b := NewState(), NewState()
		refused := 0
		for n, req := range vpcHistory(seed, 400) {
			index := uint64(n + 1)
			cmd := Command{Time: epoch0.Add(time.Duration(index) * 7 * time.Second), Request: req}
			data, err := EncodeCommand(cmd)
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := DecodeCommand(data)
			if err != nil {
				t.Fatal(err)
			}
			before := snapshotOf(t, a)
			_, errA := a.Apply(index, cmd)
			_, errB := b.Apply(index, decoded)
			if fmt.Sprint(errA) != fmt.Sprint(errB) {
				t.Fatalf("seed %d, %T: the state returned %v, its copy %v\n%v", seed, req, errA, errB, a.View())
			}
			if errA != nil {
				refused++
				if after := snapshotOf(t, a); !bytes.Equal(withoutIndex(before), withoutIndex(after)) {
					t.Fatalf("seed %d: %T was refused but changed the state:\n%s", seed, req, cmp.Diff(string(before), string(after)))
				}
			}
			if n%50 == 49 {
				if b, err = Restore(bytes.NewReader(snapshotOf(t, b))); err != nil {
					t.Fatalf("seed %d: restore a snapshot: %v", seed, err)
				}
			}
			checkNetworks(t, a.View())
			if t.Failed() {
				t.Fatalf("seed %d: the errors above came after %T %+v\n%v", seed, req, req, a.View())
			}
		}
		if x, y := snapshotOf(t, a), snapshotOf(t, b); !bytes.Equal(x, y) {
			t.Fatalf("seed %d: the state and its copy differ:\n%s", seed, cmp.Diff(string(x), string(y)))
		}
		if refused < 80 || refused > 320 {
			t.Errorf("seed %d: %d of 400 requests were refused, want 80 to 320", seed, refused)
		}
	}
}

// checkNetworks checks the invariants of networks, VPCs, tags and public addresses.
func checkNetworks(t *testing.T, v *View) {
	t.Helper()
	numbers := make(map[ec2.VNI]bool)
	for n := range v.Networks() {
		if vpc, ok := v.VPC(n.VPC); n.VPC != "" && (!ok || vpc.VNI != n.VNI || vpc.CIDR != n.Prefix || len(vpc.Secondary) != len(n.Blocks)) {
			t.Errorf("network %+v belongs to VPC %+v, want one with the same VNI and range", n, vpc)
		}
		numbers[n.VNI] = true
	}
	owned := func(id string) bool {
		tx := newTx(v.v.db.Snapshot(), v.Index()+1)
		defer tx.Abort()
		return tx.canTag(albert, east, id) || tx.canTag(dev, east, id)
	}
	for _, account := range []ec2.AccountID{albert, dev} {
		defaults := 0
		for vpc := range v.VPCsOf(account, east) {
			if vpc.Default {
				defaults++
			}
			if g, ok := v.Group(vpc.Group); !ok || g.Name != defaultGroup || g.VPC != vpc.ID || !numbers[vpc.VNI] {
				t.Errorf("VPC %+v has default group %+v, want a group named default in that VPC; the network of the VPC exists: %v, want true", vpc, g, numbers[vpc.VNI])
			}
			checkSubnets(t, v, vpc)
		}
		if defaults > 1 {
			t.Errorf("account %s has %d default VPCs, want at most 1", account, defaults)
		}
		for tag := range v.TagsOf(account, east) {
			if !owned(tag.Resource) {
				t.Errorf("tag %+v is on a resource that does not exist", tag)
			}
		}
		for e := range v.ElasticAddressesOf(account, east) {
			checkElastic(t, v, e)
		}
		for eni := range v.InterfacesOf(account, east) {
			checkPublic(t, v, eni)
		}
	}
}

func checkSubnets(t *testing.T, v *View, vpc *ec2.VPC) {
	t.Helper()
	subnets := slices.Collect(v.SubnetsIn(vpc.ID))
	for n, s := range subnets {
		if !vpc.Contains(s.CIDR) || slices.ContainsFunc(subnets[:n], func(o *ec2.Subnet) bool { return o.CIDR.Overlaps(s.CIDR) }) {
			t.Errorf("subnet %s is outside of %v, or overlaps with another one", s.CIDR, vpc.Blocks())
		}
		if acl := v.NetworkACLOf(vpc, s); acl.VPC != vpc.ID || s.ACL != "" && first[ec2.NetworkACL](v.txn(), tableACL, indexID, key(s.ACL)) == nil {
			t.Errorf("subnet %s uses network ACL %+v, want one of VPC %s that exists", s.ID, acl, vpc.ID)
		}
	}
	mains, associated := 0, make(map[ec2.SubnetID]bool)
	for rt := range v.RouteTablesOf(vpc.Account, vpc.Region) {
		if rt.VPC != vpc.ID {
			continue
		}
		if rt.Main != "" {
			mains++
			if vpc.RouteTable != rt.ID {
				t.Errorf("table %s has the main association of VPC %s, whose main table is %s", rt.ID, vpc.ID, vpc.RouteTable)
			}
		}
		for _, a := range rt.Associations {
			if s, ok := v.Subnet(a.Subnet); !ok || s.VPC != vpc.ID || associated[a.Subnet] {
				t.Errorf("table %s is associated with subnet %s, which is %+v; want a subnet of the same VPC with one association", rt.ID, a.Subnet, s)
			}
			associated[a.Subnet] = true
		}
		if !slices.IsSortedFunc(rt.Routes, byDestination) {
			t.Errorf("the routes of table %s are not sorted: %v", rt.ID, rt.Routes)
		}
	}
	if mains != 1 {
		t.Errorf("VPC %s has %d main tables, want 1", vpc.ID, mains)
	}
}

// checkElastic checks that an elastic address and its interface name each other, and that the address
// is not in quarantine.
func checkElastic(t *testing.T, v *View, e *ec2.ElasticAddress) {
	t.Helper()
	row := first[address](v.txn(), tableAddress, indexID, addressKey(publicVNI, e.Public))
	if row == nil || row.Allocation != e.ID || row.inQuarantine() {
		t.Errorf("elastic address %+v has the address row %+v, want its own, not in quarantine", e, row)
	}
	if e.Association == "" {
		return
	}
	eni, ok := v.Interface(e.Interface)
	if !ok || !slices.Contains(eni.Addresses(), ec2.AddressPair{Private: e.Private, Public: e.Public}) {
		t.Errorf("elastic address %+v is associated with interface %+v, which does not have it", e, eni)
	}
}

// checkPublic checks that each public address of an interface is leased to the interface, or is an
// elastic address that is associated with the interface.
func checkPublic(t *testing.T, v *View, eni *ec2.Interface) {
	t.Helper()
	for _, p := range eni.Addresses() {
		if !p.Public.IsValid() {
			continue
		}
		row := first[address](v.txn(), tableAddress, indexID, addressKey(publicVNI, p.Public))
		if row == nil || row.inQuarantine() {
			t.Errorf("interface %+v has public address %s with the address row %+v, want one that is not in quarantine", eni, p.Public, row)
			continue
		}
		if e, ok := v.ElasticAddress(row.Allocation); row.Interface != eni.ID && (!ok || e.Interface != eni.ID || e.Private != p.Private) {
			t.Errorf("interface %+v has public address %s with the address row %+v and elastic address %+v, want one of them to name the interface", eni, p.Public, row, e)
		}
	}
}
