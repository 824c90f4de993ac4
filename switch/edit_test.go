package vswitch

import (
	"net/netip"
	"testing"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// TestEditChangesNothingBeforeItIsPublished: neither a network, an interface, a route, an uplink nor a
// tunnel, and afterwards all of them.
func TestEditChangesNothingBeforeItIsPublished(t *testing.T) {
	b := newVPCBed(t)
	b.tunnel(1500)
	pool := netip.MustParsePrefix("198.19.0.0/16")
	next := Endpoint{Epoch: 77, Address: addr("10.0.1.77"), Public: addr("198.19.0.77"), MAC: macOf("next"), Unchecked: true}
	nat := b.owners["3nat"]
	state := func(s *Snapshot) [14]bool {
		n, ok := s.Network(ours)
		_, third := s.Network(9)
		return [14]bool{ok && n.MTU == 9000, third, n.Find(next.Address) != nil, s.Public(next.Public) != nil, n.unchecked[next.MAC] != nil,
			n.Find(nat.Address) == nil, s.Public(nat.Public) == nil, n.unchecked[nat.MAC] == nil, s.Attachment(b.ports["web"]) == nil, s.Attachment(b.ports["2app"]).Network.MTU == 9000,
			s.inPublicPool(next.Public), s.UplinkPort() == nil, s.TunnelPort() == nil, s.Generation == 1000}
	}
	e := b.sw.Edit(1000)
	n := vpcNetwork(ours)
	n.MTU = 9000
	e.Network(n)
	e.Network(vpcNetwork(9))
	e.AddEndpoint(ours, &next)
	e.RemoveEndpoint(ours, nat)
	e.Detach(b.ports["web"])
	pools := []netip.Prefix{pool}
	e.PublicPools(pools)
	pools[0] = netip.Prefix{} // the Edit has its own
	e.Uplink(nil)
	e.Tunnel(nil)
	if got := state(b.sw.Snapshot()); got != [14]bool{} {
		t.Errorf("before Publish the changes %v are in force, want none", got)
	}
	b.sw.Publish(e)
	want := [14]bool{true, true, true, true, true, true, true, true, true, true, true, true, true, true}
	if got := state(b.sw.Snapshot()); got != want {
		t.Errorf("after Publish the changes %v are in force, want all", got)
	}
}

// TestPortsThatWereNeverAttachedAreDetached: also those with an index that no attached port has reached.
func TestPortsThatWereNeverAttachedAreDetached(t *testing.T) {
	b := newTestbed(t)
	b.add("next", InstancePort)
	b.add("last", InstancePort)
	before := *b.sw.Snapshot().Attachment(b.ports["lone"])
	e := b.sw.Edit(b.generation)
	for _, name := range []string{"uplink", "next", "last"} {
		e.Detach(b.ports[name])
	}
	b.sw.Publish(e)
	s := b.sw.Snapshot()
	for _, name := range []string{"uplink", "next", "last"} {
		if s.Attachment(b.ports[name]) != nil {
			t.Errorf("port %s is attached", name)
		}
	}
	if got := s.Attachment(b.ports["lone"]); got == nil || *got != before {
		t.Errorf("another port's attachment is %+v, want %+v", got, before)
	}
	// The last port may be attached before those between.
	e = b.sw.Edit(b.generation)
	e.Attach(b.ports["last"], 1, Attachment{Endpoint: b.owners["lone"], Zone: b.zones["lone"], Rules: b.sets["lone"]})
	b.sw.Publish(e)
	if s := b.sw.Snapshot(); s.Attachment(b.ports["last"]) == nil || s.Attachment(b.ports["next"]) != nil || s.Attachment(b.ports["uplink"]) != nil {
		t.Error("the last port alone is not attached")
	}
}

// TestInterfaceIsRemovedOnce: to remove it again, or one that has no public address, changes nothing.
func TestInterfaceIsRemovedOnce(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	e := b.sw.Edit(b.generation)
	for _, name := range []string{"3nat", "3nat", "6app", "6app"} {
		e.RemoveEndpoint(b.owners[name].network, b.owners[name])
	}
	b.sw.Publish(e)
	b.expect("1web", to("1web", macOf("3nat"), template(17, addr("10.0.1.10"), addr("10.0.1.30"), 1, 53)), "1web", verdict.NoRoute)
	b.expect("1web", b.of("1web", template(17, addr("10.0.1.10"), addr("10.0.1.20"), 1, 53)), "2app", verdict.Forward)
	b.expect("uplink", outside(template(17, laptop, addr("198.18.1.20"), 1, 53)), "2app", verdict.Forward)
	b.expect("uplink", outside(template(17, laptop, addr("198.18.1.30"), 1, 53)), "uplink", verdict.NoRoute)
}

// TestChangedNetworkAppliesToItsInterfaces: their subnet, gateway and MTU, and to those of no other network.
func TestChangedNetworkAppliesToItsInterfaces(t *testing.T) {
	b := newVPCBed(t)
	asks := func(name, gateway string) []byte {
		return packettest.ARP(1, macOf(name), b.owners[name].Address, addr(gateway))
	}
	change := func(v VNI, gateway string, mtu int) {
		e := b.sw.Edit(b.generation)
		n := vpcNetwork(v)
		n.Subnets[0].Gateway, n.MTU = addr(gateway), mtu
		e.Network(n)
		b.sw.Publish(e)
	}
	change(ours, "10.0.1.2", 500)
	for name, want := range map[string][2]verdict.Verdict{"1web": {verdict.ARPIgnored, verdict.Answered}, "5web": {verdict.Answered, verdict.ARPIgnored}} {
		b.expect(name, asks(name, "10.0.1.1"), name, want[0])
		b.expect(name, asks(name, "10.0.1.2"), name, want[1])
	}
	large := template(17, addr("10.0.1.10"), addr("10.0.1.20"), 1, 53)
	large.Payload = make([]byte, 600)
	b.open()
	large.DontFragment = true
	b.expect("1web", b.of("1web", large), "2app", verdict.TooBig)
	b.expect("5web", b.of("5web", large), "6app", verdict.Forward)
	b.expect("1web", b.of("1web", template(17, addr("10.0.1.10"), addr("10.0.1.20"), 1, 53)), "2app", verdict.Forward)
}

// TestNetworkThatBecomesStrictRemembersItsOpenPorts: a rule that is revoked after the change opened its
// port, so an answer without an entry is dropped.
func TestNetworkThatBecomesStrictRemembersItsOpenPorts(t *testing.T) {
	for _, strict := range []bool{false, true} {
		b := newTestbed(t)
		b.rules("web", permit(ec2.TCP, 80, 80, "203.0.113.0/24"))
		e := b.sw.Edit(b.generation + 1)
		e.Network(Network{VNI: 1, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Gateway: addr("10.0.0.1"), MTU: 1500, Strict: strict, Reset: b.generation + 1})
		b.sw.Publish(e)
		b.generation++
		b.rules("web")
		answer := template(6, addr("10.10.0.4"), laptop, 80, 40000)
		answer.TCPFlags = packet.ACK
		b.frame.now = monotonic()
		at, want := "uplink", verdict.Forward
		if strict {
			at, want = "web", verdict.Revoked
		}
		b.expect("web", b.of("web", answer), at, want)
	}
}

// TestRevisionIsThatOfTheNewestChange: of the rules, of the interface's groups and of the network; in a
// strict network also of addresses that left a group.
func TestRevisionIsThatOfTheNewestChange(t *testing.T) {
	b := newTestbed(t)
	rules := *b.sets["web"]
	in, out := new(firewall.Table), new(firewall.Table)
	rules.Ingress, rules.Egress = in, out
	for i, tt := range []struct {
		in, inShrunk, out, outShrunk, regrouped, reset, lost uint64
		strict                                               bool
		want                                                 conntrack.Revision
	}{
		{in: 9, inShrunk: 3, out: 8, outShrunk: 2, want: conntrack.Revision{Generation: 9, Shrunk: 3}},
		{in: 8, inShrunk: 2, out: 9, outShrunk: 3, want: conntrack.Revision{Generation: 9, Shrunk: 3}},
		{in: 8, inShrunk: 2, out: 8, outShrunk: 3, regrouped: 9, want: conntrack.Revision{Generation: 9, Shrunk: 9}},
		{in: 8, inShrunk: 2, out: 8, outShrunk: 3, reset: 9, want: conntrack.Revision{Generation: 9, Shrunk: 3, Reset: 9}},
		{in: 8, inShrunk: 2, out: 8, outShrunk: 3, lost: 9, want: conntrack.Revision{Generation: 8, Shrunk: 3}},
		{in: 8, inShrunk: 2, out: 8, outShrunk: 3, lost: 9, strict: true, want: conntrack.Revision{Generation: 9, Shrunk: 9, Strict: true}},
		{in: 8, inShrunk: 2, out: 8, outShrunk: 3, lost: 1, strict: true, want: conntrack.Revision{Generation: 8, Shrunk: 3, Strict: true}},
	} {
		in.Generation, in.Shrunk, out.Generation, out.Shrunk = tt.in, tt.inShrunk, tt.out, tt.outShrunk
		a := Attachment{Network: &Network{Reset: tt.reset, Strict: tt.strict}, Rules: &rules, Lost: tt.lost, regrouped: tt.regrouped}
		if a.setRevision(); a.revision != tt.want {
			t.Errorf("case %d: the revision is %+v, want %+v", i, a.revision, tt.want)
		}
	}
}

// TestTunnelCarriesAtLeastTheSmallestPacket: an MTU below that of every link is refused.
func TestTunnelCarriesAtLeastTheSmallestPacket(t *testing.T) {
	b := newTestbed(t)
	for mtu, want := range map[int]bool{0: false, minMTU - 1: false, minMTU: true, 1500: true} {
		func() {
			defer func() {
				if got := recover() == nil; got != want {
					t.Errorf("a tunnel with an MTU of %d is accepted: %v, want %v", mtu, got, want)
				}
			}()
			b.sw.Edit(b.generation).Tunnel(&Tunnel{MTU: mtu})
		}()
	}
}

// TestAddressIsFoundOnlyInItsNetwork: in an empty Snapshot nothing is, and a packet has no MTU of its own.
func TestAddressIsFoundOnlyInItsNetwork(t *testing.T) {
	b := newVPCBed(t)
	var empty Snapshot
	if empty.Owner(1, addr("10.10.0.4")) != nil || empty.Public(addr("198.18.0.4")) != nil || empty.Attachment(b.ports["web"]) != nil {
		t.Error("an empty Snapshot has an interface")
	}
	if _, ok := empty.Network(0); ok || (&Network{}).Find(addr("10.10.0.4")) != nil || (&Network{}).SubnetOf(addr("10.10.0.4")) != noSubnet {
		t.Error("an empty Snapshot has a network")
	}
	n, _ := b.sw.Snapshot().Network(ours)
	for address, gateway := range map[string]string{"10.0.1.99": "10.0.1.1", "10.0.2.1": "10.0.2.1", "10.0.3.1": "", "192.0.2.1": ""} {
		s := n.SubnetOf(addr(address))
		if want, _ := netip.ParseAddr(gateway); s.Gateway != want || s.contains(addr(address)) != (gateway != "") {
			t.Errorf("%s is in subnet %v, want the one of %s", address, s.Prefix, gateway)
		}
		if want := gateway == "10.0.1.1"; (s.TargetOf(laptop).Kind == Internet) != want || s.TargetOf(stranger).Kind != Nowhere {
			t.Errorf("the routes of %s lead to %v and %v", s.Prefix, s.TargetOf(laptop), s.TargetOf(stranger))
		}
	}
	e := &Endpoint{Address: addr("10.0.1.10"), Public: addr("198.18.1.10"), Further: vpcHosts[0].further}
	for private, public := range map[string]string{"10.0.1.10": "198.18.1.10", "10.0.1.11": "198.18.1.11", "10.0.1.12": "", "10.0.1.13": "none"} {
		want, err := netip.ParseAddr(public)
		if owns := e.Owns(addr(private)); owns != (public != "none") || e.PublicOf(addr(private)) != want || err == nil && e.PrivateOf(want) != addr(private) {
			t.Errorf("the interface owns %s: %v, with public address %v", private, owns, e.PublicOf(addr(private)))
		}
	}
	if e.PrivateOf(addr("198.18.1.12")).IsValid() {
		t.Error("a public address of nobody leads to the interface")
	}
}
