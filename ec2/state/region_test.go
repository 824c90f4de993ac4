package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/region"
)

const ireland = ec2.Region("eu-west-1")

// regionSamples returns one request of each type of regionRequests, with all fields set.
func regionSamples() []Request {
	return []Request{
		&SetRegions{Every: new(true), Remove: "eu-west-2", Set: &region.Region{Name: ireland, Nodes: []ec2.NodeID{"node2"},
			Zones: []region.Zone{{Name: "eu-west-1a", Nodes: []ec2.NodeID{"node1"}}, {Name: "eu-west-1b"}}}},
		&OpenRegion{dev, ireland},
	}
}

// setRegion returns a request for a region with zones, "a=node1 b", on nodes.
func setRegion(name ec2.Region, zones string, nodes ...ec2.NodeID) *SetRegions {
	r := &region.Region{Name: name, Nodes: nodes}
	for _, z := range strings.Fields(zones) {
		letter, node, given := strings.Cut(z, "=")
		zone := region.Zone{Name: string(name) + letter}
		if given {
			zone.Nodes = []ec2.NodeID{ec2.NodeID(node)}
		}
		r.Zones = append(r.Zones, zone)
	}
	return &SetRegions{Set: r}
}

// randomRegionRequest returns a request about the regions, or one of an account in another region than
// the first.
func randomRegionRequest(rng *rand.Rand) Request {
	account := []ec2.AccountID{albert, dev, dev}[rng.IntN(3)]
	other := []ec2.Region{ireland, "us-west-1"}[rng.IntN(2)]
	switch rng.IntN(12) {
	case 0, 1:
		return &SetRegions{Every: new(rng.IntN(3) > 0)}
	case 2, 3:
		return setRegion(ireland, []string{"a b", "a=node1 b c", "c", "b a"}[rng.IntN(4)], []ec2.NodeID{"node1"}[rng.IntN(2):]...)
	case 4:
		return setRegion(east, []string{"a", "a b", "a=node1 c"}[rng.IntN(3)])
	case 5:
		return &SetRegions{Remove: []ec2.Region{ireland, east}[rng.IntN(2)]}
	case 6, 7:
		return &CreateVPC{Account: account, Region: other, CIDR: cidr("10.1.0.0/16")}
	case 8:
		return &RunInstances{Account: account, Region: other, Image: "ami-eca54085", MinCount: 1, MaxCount: 2}
	}
	return &OpenRegion{account, other}
}

// defaultZones returns the zones of the default subnets that dev has in a region.
func (r *replay) defaultZones(name ec2.Region) string {
	view := r.state.View()
	vpc, ok := view.DefaultVPC(dev, name)
	if !ok {
		return "no default VPC"
	}
	var zones []string
	for s := range view.SubnetsIn(vpc.ID) {
		zones = append(zones, strings.TrimPrefix(s.Zone, string(name)))
	}
	slices.Sort(zones)
	return strings.Join(zones, "")
}

func TestEveryRegionIsOpenedByItsFirstUse(t *testing.T) {
	r := newVPCReplay(t)
	if err := r.state.View().ServesRegion(ireland); err == nil {
		t.Error("eu-west-1 is served before it is set")
	}
	r.refused(&OpenRegion{dev, ireland}, "AuthFailure")
	r.must(&SetRegions{Every: new(true)})
	if got := r.defaultZones(east); got != "abcdef" {
		t.Errorf("the default VPC in us-east-1 has subnets in zones %s, want those that were new too", got)
	}
	if got := r.defaultZones(ireland); got != "no default VPC" {
		t.Errorf("eu-west-1 has default subnets %s before its first use", got)
	}
	r.refused(&OpenRegion{dev, "moon-1"}, "AuthFailure")
	r.refused(&OpenRegion{"000000000000", ireland}, "AuthFailure")
	r.must(&OpenRegion{dev, ireland})
	view := r.state.View()
	if got := r.defaultZones(ireland); got != "abc" || !view.RegionOpened(dev, ireland) || view.RegionOpened(albert, ireland) {
		t.Errorf("after dev used eu-west-1 its default subnets are in %s; opened for dev %t, for albert %t", got, view.RegionOpened(dev, ireland), view.RegionOpened(albert, ireland))
	}
	home, _ := view.ClassicNetwork(east)
	n, ok := view.ClassicNetwork(ireland)
	if !ok || n.VNI == home.VNI || n.Prefix != home.Prefix || !slices.Equal(n.Pools, home.Pools) || len(n.PublicPools) != 0 {
		t.Errorf("the EC2-Classic network of eu-west-1 is %+v, want one like %+v with another VNI, without public pools of its own", n, home)
	}
	before := r.snapshot()
	r.must(&OpenRegion{dev, ireland})
	if string(withoutIndex(before)) != string(withoutIndex(r.snapshot())) {
		t.Error("a second OpenRegion changed the state")
	}
	vpc, _ := view.DefaultVPC(dev, ireland)
	for s := range view.SubnetsIn(vpc.ID) {
		r.must(&DeleteSubnet{dev, ireland, s.ID})
	}
	r.must(&OpenRegion{dev, ireland})
	if got := r.defaultZones(ireland); got != "" {
		t.Errorf("default subnets that dev deleted are back in %s", got)
	}
	r.must(&OpenRegion{albert, ireland})
	if g, ok := r.state.View().GroupNamed(albert, ireland, "", defaultGroup); !ok || g.Region != ireland {
		t.Errorf("albert has the default group %+v in eu-west-1", g)
	}
	// An account that is new opens only the first region at once.
	r.must(&CreateAccount{ID: "111111111111", Name: "new", Platform: ec2.VPCOnly, AccessKey: "AKIDNEW", Secret: "n"})
	if v := r.state.View(); v.RegionOpened("111111111111", ireland) || !v.RegionOpened("111111111111", east) {
		t.Error("a new account has opened eu-west-1, or not us-east-1")
	}
	r.survivesSnapshot()
}

// survivesSnapshot checks that the State is the same after it was restored from a snapshot.
func (r *replay) survivesSnapshot() {
	r.t.Helper()
	before := r.snapshot()
	again, err := Restore(strings.NewReader(string(before)))
	if err != nil {
		r.t.Fatal(err)
	}
	r.state = again
	if string(r.snapshot()) != string(before) {
		r.t.Error("the restored state differs")
	}
}

func TestPublicAddressIsUniqueInAllRegions(t *testing.T) {
	r := newVPCReplay(t)
	r.must(&SetRegions{Every: new(true)})
	taken := map[netip.Addr]ec2.Region{}
	for _, name := range []ec2.Region{east, ireland, "ap-southeast-2"} {
		r.must(&OpenRegion{dev, name})
		r.must(&OpenRegion{albert, name})
		var addresses []netip.Addr
		for range 3 {
			addresses = append(addresses, r.must(&AllocateAddress{Account: dev, Region: name}).Elastic.Public)
		}
		for _, account := range []ec2.AccountID{dev, albert} {
			for _, c := range r.must(&RunInstances{Account: account, Region: name, Image: "ami-eca54085", MinCount: 2, MaxCount: 2}).Instances {
				eni, _ := r.state.View().Interface(c.After.Interface)
				addresses = append(addresses, eni.Public)
			}
		}
		for _, a := range addresses {
			if other, twice := taken[a]; twice || !netip.MustParsePrefix("198.18.0.0/16").Contains(a) {
				t.Errorf("%s in %s was leased in %q already, or is not of the public pool", a, name, other)
			}
			taken[a] = name
		}
	}
}

func TestInstanceStartsInItsZoneOnAnotherNode(t *testing.T) {
	for _, account := range []ec2.AccountID{dev, albert} {
		r := newVPCReplay(t)
		r.must(&SetRegions{Every: new(true)})
		r.must(&OpenRegion{account, ireland})
		for _, zone := range []string{"eu-west-1a", "eu-west-1b", "eu-west-1c"} {
			i := r.must(&RunInstances{Account: account, Region: ireland, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Zone: zone}).Instances[0].After
			want := r.state.View().ZoneNodes(ireland, zone)
			if got := r.state.View().ZoneOf(i); got != zone || !slices.Contains(want, i.Node) {
				t.Errorf("%s: an instance launched in %s is in %s on %s, want one of %v", account, zone, got, i.Node, want)
			}
		}
		r.must(&FenceNode{Node: "node2"})
		for i := range r.state.View().InstancesOf(account, ireland) {
			zone := r.state.View().ZoneOf(i)
			if i.State == ec2.Stopped {
				i = r.must(&StartInstances{account, ireland, []ec2.InstanceID{i.ID}}).Instances[0].After
			}
			if got := r.state.View().ZoneOf(i); got != zone || i.Node != "node1" {
				t.Errorf("%s: after node2 is lost the instance of %s is in %s on %s, want node1", account, zone, got, i.Node)
			}
		}
		_, err := r.do(&RunInstances{Account: account, Region: ireland, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Zone: "us-east-1a"})
		if e, ok := errors.AsType[*ec2.Error](err); !ok || e.Code != "InvalidParameterValue" || !strings.Contains(e.Message, "eu-west-1a, eu-west-1b, eu-west-1c") {
			t.Errorf("%s: a launch in a zone of another region: %v, want InvalidParameterValue with the zones of eu-west-1", account, err)
		}
	}
}

func TestRegionsAreSetLive(t *testing.T) {
	r := newVPCReplay(t)
	r.refused(&SetRegions{}, "InvalidParameterCombination")
	r.refused(&SetRegions{Every: new(true), Remove: ireland}, "InvalidParameterCombination")
	r.refused(&SetRegions{Remove: ireland}, "InvalidParameterValue")
	r.refused(setRegion(ireland, "a=node9"), "InvalidNode.NotFound")
	r.refused(setRegion(ireland, "a", "node9"), "InvalidNode.NotFound")
	r.refused(setRegion(ireland, "b a"), "InvalidParameterValue")

	r.must(setRegion(ireland, "a=node1 b", "node2"))
	if got := r.state.View().Regions(); !slices.Equal(got, []ec2.Region{ireland, east}) {
		t.Errorf("the regions are %v", got)
	}
	r.must(&OpenRegion{dev, ireland})
	r.must(setRegion(ireland, "a=node1 b c"))
	if got := r.defaultZones(ireland); got != "abc" {
		t.Errorf("after zone c is set the default subnets are in %s", got)
	}
	run := &RunInstances{Account: dev, Region: ireland, Image: "ami-eca54085", MinCount: 1, MaxCount: 1, Zone: "eu-west-1c"}
	i := r.must(run).Instances[0].After
	r.refused(setRegion(ireland, "a b"), "DependencyViolation")
	r.refused(&SetRegions{Remove: ireland}, "DependencyViolation")
	r.must(&ReportInstance{Instance: i.ID, InterfaceEpoch: epochOf(r, i), State: ec2.Running})
	r.must(&TerminateInstances{dev, ireland, []ec2.InstanceID{i.ID}})
	r.must(&ReportInstance{Instance: i.ID, InterfaceEpoch: epochOf(r, i), State: ec2.Terminated})
	r.must(setRegion(ireland, "a b"))
	r.refused(run, "InvalidParameterValue")

	for what, undo := range r.usesOf(ireland) {
		if _, err := r.do(&SetRegions{Remove: ireland}); err == nil {
			t.Errorf("eu-west-1 was removed although it has a %s", what)
		}
		r.must(undo)
	}
	r.must(&SetRegions{Remove: ireland})
	r.refused(&OpenRegion{dev, ireland}, "AuthFailure")
	r.survivesSnapshot()
	r.must(setRegion(ireland, "a b"))
	if got := r.defaultZones(ireland); !strings.HasPrefix(got, "ab") {
		t.Errorf("after eu-west-1 is served again, the default subnets are in %s, want those from before", got)
	}
}

func epochOf(r *replay, i *ec2.Instance) uint64 {
	eni, ok := r.state.View().Interface(i.Interface)
	if !ok {
		return 0
	}
	return eni.Epoch
}

// usesOf makes one resource of each kind that dev can have in a region, one after the other, with the
// request that deletes it.
func (r *replay) usesOf(name ec2.Region) func(yield func(string, Request) bool) {
	return func(yield func(string, Request) bool) {
		vpc := r.must(&CreateVPC{Account: dev, Region: name, CIDR: cidr("10.0.0.0/16")}).VPC
		if !yield("VPC", &DeleteVPC{dev, name, vpc.ID}) {
			return
		}
		g := r.must(&CreateInternetGateway{Account: dev, Region: name}).Gateway
		if !yield("gateway", &DeleteInternetGateway{dev, name, g.ID}) {
			return
		}
		e := r.must(&AllocateAddress{Account: dev, Region: name}).Elastic
		if !yield("elastic address", &ReleaseAddress{dev, name, e.ID}) {
			return
		}
		r.must(&CreateKeyPair{KeyPair: ec2.KeyPair{Account: dev, Region: name, Name: "k", Fingerprint: "aa", PublicKey: "ssh-rsa AAAA"}})
		if !yield("key pair", &DeleteKeyPair{dev, name, "k"}) {
			return
		}
		sg := r.must(&CreateSecurityGroup{Account: dev, Region: name, Name: "web", Description: "web"}).Group
		if !yield("group", &DeleteSecurityGroup{dev, name, GroupSelector{ID: sg.ID}}) {
			return
		}
		home, _ := r.state.View().DefaultVPC(dev, name)
		rt := r.must(&CreateRouteTable{Account: dev, Region: name, VPC: home.ID}).RouteTable
		if !yield("route table", &DeleteRouteTable{dev, name, rt.ID}) {
			return
		}
		s := r.must(&CreateSubnet{Account: dev, Region: name, VPC: home.ID, CIDR: cidr("172.31.240.0/24"), Zone: fmt.Sprint(name, "a")}).Subnet
		yield("subnet", &DeleteSubnet{dev, name, s.ID})
	}
}

// Every kind of row that has a region counts as use of the region, or is listed here with the reason.
func TestEveryKindOfResourceKeepsItsRegion(t *testing.T) {
	exempt := map[string]string{
		tableNetwork: "made with its VPC, or by OpenRegion",
		tableACL:     "belongs to its VPC",
		tableAudit:   "tells what was",
		tableTag:     "belongs to another resource",
	}
	r := newVPCReplay(t)
	x := newTx(r.state.db, 1<<40)
	defer x.Abort()
	for _, table := range snapshotTables {
		row := reflect.ValueOf(table.row())
		field := row.Elem().FieldByName("Region")
		if !field.IsValid() || exempt[table.name] != "" {
			continue
		}
		field.SetString(string(ireland))
		if name := row.Elem().FieldByName("Name"); name.IsValid() {
			name.SetString("web")
		}
		if id := row.Elem().FieldByName("ID"); id.IsValid() {
			id.SetString("id")
		}
		if subnet, ok := row.Interface().(*ec2.Interface); ok {
			for s := range r.state.View().SubnetsOf(dev, east) {
				subnet.Subnet = s.ID
			}
		}
		if in, id, _ := x.madeByUser(row.Interface()); in != ireland || id == "" {
			t.Errorf("a row of %s with a region does not keep the region: add it to madeByUser, or to the exceptions of this test", table.name)
		}
	}
}
