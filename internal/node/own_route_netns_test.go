package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/netns"
	"palisade/internal/node/control"
)

// A containerTest attaches interfaces to a namespace that has networks of its own, like that of a container:
//
//	palisade-nt-own-host 192.168.77.1 ----- dk0 192.168.77.2, default route: palisade-nt-own-guest
type containerTest struct {
	*world
	guest        string // the namespace
	near, far    ec2.InstanceID
	routes, rule string // before the first attach
}

// TestNamespaceWithRoutesOfItsOwnReachesItsVPC: it reaches its subnet and its VPC by the interface, as an instance
// with a second interface does. Its own networks and its default route stay, and after a detach nothing is left.
func TestNamespaceWithRoutesOfItsOwnReachesItsVPC(t *testing.T) {
	w := newWorld(t, "own")
	c := &containerTest{world: w, guest: w.name + "-guest"}
	c.newGuest(c.guest)
	c.newGuest(w.name + "-host")
	c.sh("ip", "link", "add", "dk0", "type", "veth", "peer", "name", "dk1", "netns", w.name+"-host")
	c.sh("ip", "link", "set", "dk0", "up")
	c.sh("ip", "addr", "add", "192.168.77.2/24", "dev", "dk0")
	for _, argv := range [][]string{{"ip", "link", "set", "dk1", "up"}, {"ip", "addr", "add", "192.168.77.1/24", "dev", "dk1"}} {
		if out, err := w.in(w.name+"-host", argv...); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	c.sh("ip", "route", "add", "default", "via", "192.168.77.1")
	w.until("the link is up", func() bool { return !strings.Contains(c.sh("ip", "route"), "linkdown") })
	c.routes, c.rule = c.sh("ip", "-4", "route", "show", "table", "all"), c.sh("ip", "rule")
	c.near, c.far = w.launch(w.Public, w.all), w.launch(w.Private, w.all)

	t.Run("one interface", func(*testing.T) { c.oneInterface() })
	t.Run("two interfaces", func(*testing.T) { c.twoInterfaces() })
	t.Run("two VPCs with equal addresses", func(*testing.T) { c.twoVPCs() })
	t.Run("a further block of the VPC", func(*testing.T) { c.furtherBlock() })
	t.Run("routes that overlap", func(*testing.T) { c.overlaps() })
	t.Run("no default route", func(*testing.T) { c.withoutDefault() })
}

// sh runs a command in the namespace.
func (c *containerTest) sh(argv ...string) string {
	c.t.Helper()
	out, err := c.in(c.guest, argv...)
	if err != nil {
		c.t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return out
}

func (c *containerTest) join(device string, subnet ec2.SubnetID, group ec2.GroupID) control.AttachmentStatus {
	c.t.Helper()
	return c.attach(control.AttachRequest{Namespace: c.guest, Device: device, Subnet: subnet, Groups: []string{string(group)}})
}

// leaves checks which device the namespace sends packets to an address by.
func (c *containerTest) leaves(address, want string) {
	c.t.Helper()
	if out := c.sh("ip", "route", "get", address); !strings.Contains(out+" ", " "+want+" ") {
		c.t.Errorf("the route to %s is %q, want %s", address, out, want)
	}
}

// isAsBefore checks that the detaches left nothing behind.
func (c *containerTest) isAsBefore() {
	c.t.Helper()
	if routes, rules := c.sh("ip", "-4", "route", "show", "table", "all"), c.sh("ip", "rule"); routes != c.routes || rules != c.rule {
		c.t.Errorf("after the detach the namespace has the routes\n%s\nand rules\n%s\nwant\n%s\nand\n%s", routes, rules, c.routes, c.rule)
	}
}

func (c *containerTest) address(id ec2.InstanceID) string { return c.primary(id).Private.String() }

func (c *containerTest) oneInterface() {
	a := c.join("", c.Public.ID, c.all)
	self := origin{namespace: c.guest}
	for range 2 {
		c.reaches(self, c.address(c.near), true, "its subnet")
		c.reaches(self, c.address(c.far), true, "another subnet of its VPC")
		c.reaches(c.of(c.near), a.Addresses[0].Addr().String(), true, "from its subnet")
		c.reaches(c.of(c.far), a.Addresses[0].Addr().String(), true, "from its VPC")
		c.reaches(self, "192.168.77.1", true, "its own network")
		c.leaves("8.8.8.8", "via 192.168.77.1")
		if len(a.Conflicts) > 0 {
			c.t.Errorf("the attach reports conflicts %q, want none", a.Conflicts)
		}
		c.restart()
	}
	c.refusedAttach(control.AttachRequest{Namespace: c.guest, Subnet: c.Private.ID}, "is attached to namespace "+c.guest+" already, as eth0")
	c.detach(control.DetachRequest{Namespace: c.guest})
	c.isAsBefore()
}

// twoInterfaces: the first leads to the VPC, and each to its own subnet. Answers leave by the interface that was asked.
func (c *containerTest) twoInterfaces() {
	first, second := c.join("eth0", c.Public.ID, c.all), c.join("eth1", c.Private.ID, c.all)
	c.leaves(c.address(c.near), "dev eth0")
	c.leaves(c.address(c.far), "dev eth1")
	c.leaves("10.0.77.7", "dev eth0")
	for _, a := range []control.AttachmentStatus{first, second} {
		c.reaches(c.of(c.near), a.Addresses[0].Addr().String(), true, "from the first subnet, "+a.Device)
		c.reaches(c.of(c.far), a.Addresses[0].Addr().String(), true, "from the second subnet, "+a.Device)
	}
	c.reaches(origin{namespace: c.guest}, c.address(c.near), true, "the first subnet")
	c.reaches(origin{namespace: c.guest}, c.address(c.far), true, "the second subnet")
	c.detach(control.DetachRequest{Interface: first.Interface})
	c.until("the second interface leads to the VPC", func() bool {
		return strings.Contains(c.sh("ip", "route", "get", c.address(c.near)), "dev eth1")
	})
	c.reaches(origin{namespace: c.guest}, c.address(c.near), true, "the VPC, without the first interface")
	c.detach(control.DetachRequest{Interface: second.Interface})
	c.isAsBefore()
}

func (c *containerTest) twoVPCs() {
	other := c.do(&state.CreateVPC{Account: dev, Region: region, CIDR: netip.MustParsePrefix("10.0.0.0/16")})
	subnet := c.do(&state.CreateSubnet{Account: dev, Region: region, VPC: other.VPC.ID, CIDR: c.Public.CIDR, Zone: c.Public.Zone}).Subnet
	first, second := c.join("eth0", c.Public.ID, c.all), c.join("eth1", subnet.ID, other.VPC.Group)
	want := []string{
		c.Public.CIDR.String() + " is not reached by eth1: eth0 leads to another VPC with these addresses",
		"10.0.0.0/16 is not reached by eth1: eth0 leads to another VPC with these addresses",
	}
	if !slices.Equal(second.Conflicts, want) {
		c.t.Errorf("the second attach reports conflicts %q, want %q", second.Conflicts, want)
	}
	c.reaches(origin{namespace: c.guest}, c.address(c.near), true, "the subnet of the first VPC")
	c.reaches(origin{namespace: c.guest}, c.address(c.far), true, "the first VPC")
	c.detach(control.DetachRequest{Interface: first.Interface})
	c.detach(control.DetachRequest{Interface: second.Interface})
	c.isAsBefore()
}

// furtherBlock: a namespace that is attached already reaches a block that its VPC gets, as long as the VPC has it.
func (c *containerTest) furtherBlock() {
	a := c.join("", c.Public.ID, c.all)
	c.leaves("100.64.9.9", "via 192.168.77.1")
	block := c.do(&state.AssociateVPCBlock{Account: dev, Region: region, VPC: c.Public.VPC, CIDR: netip.MustParsePrefix("100.64.0.0/16")}).Block
	c.until("the interface leads to the block", func() bool { return strings.Contains(c.sh("ip", "route", "get", "100.64.9.9"), "dev eth0") })
	subnet := c.do(&state.CreateSubnet{Account: dev, Region: region, VPC: c.Public.VPC, CIDR: netip.MustParsePrefix("100.64.1.0/24"), Zone: c.Public.Zone}).Subnet
	inside := c.launch(subnet, c.all)
	c.reaches(origin{namespace: c.guest}, c.address(inside), true, "a subnet of the block")
	c.reaches(c.of(inside), a.Addresses[0].Addr().String(), true, "from a subnet of the block")
	c.reaches(c.of(inside), c.address(c.far), true, "from a subnet of the block to one of the VPC's first range")
	c.do(&state.TerminateInstances{Account: dev, Region: region, Instances: []ec2.InstanceID{inside}})
	c.await(inside, ec2.Terminated)
	c.do(&state.DeleteSubnet{Account: dev, Region: region, Subnet: subnet.ID})
	c.do(&state.DisassociateVPCBlock{Account: dev, Region: region, Association: block.Association})
	c.until("the interface does not lead to the block", func() bool {
		return strings.Contains(c.sh("ip", "route", "get", "100.64.9.9"), "via 192.168.77.1")
	})
	c.detach(control.DetachRequest{Namespace: c.guest})
	c.isAsBefore()
}

// overlaps: addresses of the VPC that the namespace has a route to stay with that route.
func (c *containerTest) overlaps() {
	subnet := c.Public.CIDR.String()
	for _, tc := range []struct {
		own, leaves, address string // a route of the namespace, and by which device an address is reached
		conflicts            []string
	}{
		{subnet, "dk0", c.address(c.near), []string{
			subnet + " is not reached by eth0: the namespace has a route of its own to " + subnet,
			"10.0.0.0/16 is reached by eth0 without " + subnet + ", to which the namespace has a route of its own",
		}},
		{"10.0.0.0/8", "dk0", c.address(c.far), []string{
			subnet + " is not reached by eth0: the namespace has a route of its own to 10.0.0.0/8",
			"10.0.0.0/16 is not reached by eth0: the namespace has a route of its own to 10.0.0.0/8",
		}},
		{"10.0.1.250/32", "eth0", c.address(c.near), []string{
			subnet + " is reached by eth0 without 10.0.1.250/32, to which the namespace has a route of its own",
			"10.0.0.0/16 is reached by eth0 without 10.0.1.250/32, to which the namespace has a route of its own",
		}},
		{"0.0.0.0/1", "eth0", c.address(c.near), nil}, // half a default route, as VPN clients have it
	} {
		c.sh("ip", "route", "add", tc.own, "via", "192.168.77.1")
		a := c.join("", c.Public.ID, c.all)
		if !slices.Equal(a.Conflicts, tc.conflicts) {
			c.t.Errorf("with a route to %s, the attach reports conflicts %q, want %q", tc.own, a.Conflicts, tc.conflicts)
		}
		c.leaves(tc.address, "dev "+tc.leaves)
		c.reaches(c.of(c.near), a.Addresses[0].Addr().String(), true, "with a route of its own to "+tc.own)
		c.detach(control.DetachRequest{Namespace: c.guest})
		c.sh("ip", "route", "del", tc.own)
		c.isAsBefore()
	}
}

// withoutDefault: of two interfaces in a namespace without a default route, the first has it, and answers of the first to
// the subnet of the second leave by the first.
func (c *containerTest) withoutDefault() {
	c.sh("ip", "route", "del", "default")
	first, second := c.join("eth0", c.Public.ID, c.all), c.join("eth1", c.Private.ID, c.all)
	c.leaves("8.8.8.8", "dev eth0")
	c.leaves(c.address(c.far), "dev eth1")
	for _, a := range []control.AttachmentStatus{first, second} {
		c.reaches(c.of(c.near), a.Addresses[0].Addr().String(), true, "from the first subnet, "+a.Device)
		c.reaches(c.of(c.far), a.Addresses[0].Addr().String(), true, "from the second subnet, "+a.Device)
	}
	c.detach(control.DetachRequest{Interface: second.Interface})
	c.until("one interface needs no rules", func() bool { return c.sh("ip", "rule") == c.rule })
	c.reaches(c.of(c.far), first.Addresses[0].Addr().String(), true, "with one interface again")
	c.detach(control.DetachRequest{Interface: first.Interface})
	c.sh("ip", "route", "add", "default", "via", "192.168.77.1")
	c.isAsBefore()
	if err := netns.Delete(c.guest); err != nil {
		c.t.Error(err)
	}
}
