package plane_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane"
	"palisade/internal/node/plane/planetest"
	vswitch "palisade/switch"
)

// subnets returns what the switch knows of a VPC's subnets.
func (w *world) subnets() map[string][]vswitch.Route {
	all := map[string][]vswitch.Route{}
	for _, s := range w.network(w.VPC.VNI).Subnets {
		all[s.Prefix.String()] = s.Routes
	}
	return all
}

// leads returns where the default route of the public subnet leads.
func (w *world) leads() (to vswitch.Kind, ok bool) {
	for _, r := range w.subnets()["10.0.1.0/24"] {
		if r.Prefix == planetest.Everywhere {
			return r.Target.Kind, true
		}
	}
	return 0, false
}

func TestSwitchHasNetworksSubnetsAndRoutesOfTheState(t *testing.T) {
	w := newWorld(t)
	n := w.network(w.VPC.VNI)
	if n.Prefix != w.VPC.CIDR || n.MTU != 1500 || n.Strict || len(n.Subnets) != 2 {
		t.Errorf("the network of the VPC is %+v, want prefix %s, MTU 1500, two subnets, not strict", n, w.VPC.CIDR)
	}
	for _, s := range n.Subnets {
		if want := s.Prefix.Addr().Next(); s.Gateway != want {
			t.Errorf("subnet %s has gateway %s, want %s", s.Prefix, s.Gateway, want)
		}
	}
	classic := w.network(1)
	if classic.Prefix != netip.MustParsePrefix("10.0.0.0/8") || classic.Gateway != netip.MustParseAddr("10.0.0.1") || len(classic.Subnets) != 0 || classic.MTU != 1500 {
		t.Errorf("the network of EC2-Classic is %+v, want 10.0.0.0/8 without subnets", classic)
	}
	leads := func(when string, want vswitch.Kind, exists bool) {
		t.Helper()
		if got, ok := w.leads(); ok != exists || got != want {
			t.Errorf("%s the default route exists: %v, and leads to %d; want %v and %d", when, ok, got, exists, want)
		}
	}
	leads("at first", vswitch.Internet, true)
	if routes := w.subnets()["10.0.2.0/24"]; slices.ContainsFunc(routes, func(r vswitch.Route) bool { return r.Target.Kind == vswitch.Internet }) {
		t.Errorf("the private subnet has routes %v, want none to the internet", routes)
	}

	// The route leads to a gateway of this VPC alone.
	w.Do(&state.DetachInternetGateway{Account: planetest.Dev, Region: planetest.Region, Gateway: w.Gateway.ID, VPC: w.VPC.ID})
	leads("without its gateway", vswitch.Nowhere, true)
	other := w.Do(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.1.0.0/16")}).VPC
	attach := func(to ec2.VPCID) {
		t.Helper()
		w.Do(&state.AttachInternetGateway{Account: planetest.Dev, Region: planetest.Region, Gateway: w.Gateway.ID, VPC: to})
	}
	attach(other.ID)
	w.Do(&state.CreateSubnet{Account: planetest.Dev, Region: planetest.Region, VPC: w.VPC.ID, CIDR: netip.MustParsePrefix("10.0.4.0/24")}) // its routes are made anew
	leads("with its gateway at another VPC", vswitch.Nowhere, true)
	w.Do(&state.DetachInternetGateway{Account: planetest.Dev, Region: planetest.Region, Gateway: w.Gateway.ID, VPC: other.ID})
	attach(w.VPC.ID)
	leads("with its gateway back", vswitch.Internet, true)
	if n := len(w.network(w.VPC.VNI).Subnets); n != 3 {
		t.Errorf("the VPC has %d subnets, want 3", n)
	}

	w.Do(&state.DeleteRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: w.Table.ID, Destination: planetest.Everywhere})
	leads("deleted", 0, false)
	w.Do(&state.CreateRoute{Account: planetest.Dev, Region: planetest.Region, RouteTable: w.Table.ID, Destination: planetest.Everywhere, Gateway: w.Gateway.ID})
	leads("created again", vswitch.Internet, true)

	w.Do(&state.DetachInternetGateway{Account: planetest.Dev, Region: planetest.Region, Gateway: w.Gateway.ID, VPC: w.VPC.ID})
	w.Do(&state.DeleteInternetGateway{Account: planetest.Dev, Region: planetest.Region, Gateway: w.Gateway.ID})
	leads("with its gateway deleted", vswitch.Nowhere, true)

	third := w.Do(&state.CreateSubnet{Account: planetest.Dev, Region: planetest.Region, VPC: w.VPC.ID, CIDR: netip.MustParsePrefix("10.0.3.0/24")}).Subnet
	if _, ok := w.subnets()["10.0.3.0/24"]; !ok {
		t.Error("the switch does not have a new subnet")
	}
	w.Do(&state.DeleteSubnet{Account: planetest.Dev, Region: planetest.Region, Subnet: third.ID})
	if _, ok := w.subnets()["10.0.3.0/24"]; ok {
		t.Error("the switch still has a deleted subnet")
	}
	for _, egress := range []bool{false, true} {
		w.Do(&state.DeleteACLEntry{Account: planetest.Dev, Region: planetest.Region, ACL: w.VPC.ACL, Number: 100, Egress: egress})
		for _, s := range w.network(w.VPC.VNI).Subnets {
			in := s.ACL.Decide(ec2.Ingress, 17, 53, planetest.Everywhere.Addr()).Entry.Allow
			out := s.ACL.Decide(ec2.Egress, 17, 53, planetest.Everywhere.Addr()).Entry.Allow
			if in || out == egress {
				t.Errorf("the ACL of subnet %s admits packets in: %v, out: %v; want %v and %v", s.Prefix, in, out, false, !egress)
			}
		}
	}
	w.strict()
	if !w.network(w.VPC.VNI).Strict {
		t.Error("the network of the VPC is not strict")
	}
}

// One View may have several changes of networks, and each of its networks is right.
func TestOneViewChangesSeveralNetworks(t *testing.T) {
	w := newWorld(t)
	var made []*ec2.VPC
	for _, cidr := range []string{"10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"} {
		made = append(made, w.Decide(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix(cidr)}).VPC)
	}
	w.Decide(&state.DeleteVPC{Account: planetest.Dev, Region: planetest.Region, VPC: made[1].ID})
	w.CatchUp()
	for i, v := range made {
		n, ok := w.Switch.Snapshot().Network(vswitch.VNI(v.VNI))
		if ok != (i != 1) || ok && n.Prefix != v.CIDR {
			t.Errorf("network %d is %+v, exists: %v; want %s, and the second deleted", i, n, ok, v.CIDR)
		}
	}
}

func TestUplinkAndPublicPoolsAreInForce(t *testing.T) {
	w := newWorld(t)
	up := w.Switch.Snapshot().UplinkPort()
	if up == nil || up.NextHop != (ec2.MAC{2, 0, 0, 0, 0, 1}) || up.MTU != 1500 || up.MAC[0] != 2 || up.MAC == up.NextHop {
		t.Fatalf("the uplink is %+v, want MTU 1500, the gateway's MAC and one of its own", up)
	}
	wide := w.Group("wide", state.RuleSpec{Protocol: ec2.UDP, From: 53, To: 53, Prefix: planetest.Everywhere})
	web := w.register("web", w.Public, wide)
	public := w.Elastic(web.Interface, web.Private)
	laptop := netip.MustParseAddr(planetest.Laptop)
	if !w.passes(web, udp(web.Private, laptop, 443), w.Uplink) {
		t.Error("a packet to the laptop did not leave by the uplink")
	}
	if !w.fromOutside(udp(laptop, public, 53), web.device) {
		t.Error("a packet of the laptop did not arrive at the public address")
	}
	if w.fromOutside(udp(laptop, public, 54), web.device) {
		t.Error("a packet that no rule admits arrived")
	}
	// A public address without an interface belongs to the cluster, so packets to it do not leave.
	if w.passes(web, udp(web.Private, netip.MustParseAddr("198.18.200.200"), 443), w.Uplink) {
		t.Error("a packet to a public address of the cluster left by the uplink")
	}
	private := w.register("private", w.Private, wide)
	if w.passes(private, udp(private.Private, laptop, 443), w.Uplink) {
		t.Error("a packet left a subnet without a route to the internet")
	}
	if w.Switch.Snapshot().TunnelPort() != nil {
		t.Error("a cluster of one has a tunnel port")
	}
	if err := w.Plane.OpenTunnel(); err != nil {
		t.Errorf("OpenTunnel in a cluster of one: %v", err)
	}
	if !w.passes(web, udp(web.Private, private.Private, 53), private.device) {
		t.Error("a packet to the other subnet was dropped")
	}
}

// The addresses of a pool belong to the cluster from the View on that has it, also if nothing else
// changes.
func TestNewPublicPoolIsInForce(t *testing.T) {
	w := newWorld(t)
	web := w.register("web", w.Public, w.Group("none"))
	w.Elastic(web.Interface, web.Private)
	pool := netip.MustParsePrefix("192.0.2.0/24")
	leaves := func(port uint16) bool {
		w.Helper()
		return w.passes(web, udpFrom(port, web.Private, pool.Addr().Next(), 443), w.Uplink)
	}
	if !leaves(40000) {
		t.Error("a packet to an address outside of the cluster did not leave by the uplink")
	}
	classic, _ := w.View.Network(1)
	changed := *classic
	changed.PublicPools = append(slices.Clone(classic.PublicPools), pool)
	w.Do(&state.PutNetwork{Network: changed})
	if leaves(40001) {
		t.Error("a packet to a public address of the cluster left by the uplink")
	}
}

// A device that cannot be opened becomes neither the uplink nor the port of an interface.
func TestDeviceThatCannotBeOpenedIsAnError(t *testing.T) {
	w := newWorld(t)
	ports := len(w.Switch.Ports())
	if err := w.Plane.OpenUplink(plane.UplinkConfig{}); err != nil || len(w.Switch.Ports()) != ports {
		t.Errorf("OpenUplink without a device: error %v, %d ports; want %d", err, len(w.Switch.Ports()), ports)
	}
	if err := w.Plane.OpenUplink(plane.UplinkConfig{Device: "up0", Namespace: "no-such-namespace"}); err == nil || !strings.Contains(err.Error(), "uplink: ") {
		t.Errorf("OpenUplink in a namespace that does not exist: error %v", err)
	}
	gone := w.Device()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Plane.AddUplink(gone, ec2.MAC{2, 0, 0, 0, 0, 9}); err == nil || !strings.Contains(err.Error(), "uplink: ") {
		t.Errorf("AddUplink of a device that is gone: error %v", err)
	}
	eni := w.Do(&state.RegisterInterface{Account: planetest.Dev, Region: planetest.Region, Node: planetest.Node, External: ec2.ExternalDevice{Device: "vm0"}, Spec: state.InterfaceSpec{Subnet: w.Public.ID}}).Interface
	if err := w.Plane.Attach(eni.Epoch, gone); err == nil || !strings.Contains(err.Error(), string(eni.ID)) {
		t.Errorf("Attach of a device that is gone: error %v", err)
	}
	w.Attach(eni) // the lease can still get a port
	if up := w.Switch.Snapshot().UplinkPort(); up.NextHop != (ec2.MAC{2, 0, 0, 0, 0, 1}) {
		t.Errorf("the uplink is %+v, want the first", up)
	}
}

func TestFailedAnnouncementIsLogged(t *testing.T) {
	w := newWorld(t)
	web := w.register("web", w.Public, w.Group("none"))
	if err := w.Uplink.Close(); err != nil {
		t.Fatal(err)
	}
	public := w.Elastic(web.Interface, web.Private)
	if text := w.Log.String(); !strings.Contains(text, "public address not announced") || !strings.Contains(text, public.String()) {
		t.Errorf("the log does not say that %s was not announced:\n%s", public, text)
	}
}
