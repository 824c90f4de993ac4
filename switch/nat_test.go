package vswitch

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	"palisade/nat"
)

var (
	natAddress = addr("10.0.1.99")
	natPublic  = addr("198.18.1.99")
	otherHost  = addr("203.0.113.26")
)

// newNATBed returns a VPC testbed in which the private subnet's default route leads to a NAT gateway, which has
// 10.0.1.99 and 198.18.1.99. 4db there has no public address.
func newNATBed(t *testing.T) (*testbed, *nat.Table) {
	t.Helper()
	table, err := nat.Open(nat.Config{Capacity: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() }) // after the testbed has reported a failure
	b := newVPCBed(t)
	b.open()
	b.change("4db", func(o *Endpoint) { o.Public = netip.Addr{} })
	b.generation++
	e := b.sw.Edit(b.generation)
	n := vpcNetwork(ours)
	n.Subnets[1].Routes = []Route{{everywhere, Target{Kind: NAT, Via: natAddress}}}
	e.Network(n)
	gw := &Endpoint{Epoch: 900, Address: natAddress, Public: natPublic, MAC: macOf("gateway"), Unchecked: true, IsNAT: true}
	gw.NAT = &NATGateway{Gateway: table.Gateway(900), Zone: b.tracker.AddZone(900, conntrack.Timeouts{})}
	e.AddEndpoint(ours, gw)
	b.owners["gateway"] = gw
	b.sw.Publish(e)
	return b, table
}

var db = addr("10.0.2.10")

// out sends a packet from 4db to the outside, and returns what left.
func (b *testbed) out(f packettest.Frame) packet.Packet {
	b.t.Helper()
	b.expect("4db", to("4db", GatewayMAC, f), "uplink", verdict.Forward)
	return b.lastAt("uplink")
}

// lastAt decodes the last frame written to a port, and checks its checksums.
func (b *testbed) lastAt(name string) packet.Packet {
	b.t.Helper()
	var p packet.Packet
	frame := bytes.Clone(b.devices[name].last[offloadLen:])
	if v, ok := packet.NewDecoder().Decode(frame, &p); !ok {
		b.t.Fatalf("%s got a frame that is %v", name, v)
	}
	if !p.HasL4 {
		return p
	}
	pseudo := slices.Concat(frame[p.L3+12:p.L3+20], []byte{0, p.Flow.Protocol, byte((p.Len - p.L4) >> 8), byte(p.Len - p.L4)})
	if p.Flow.Protocol == packet.ProtocolICMP {
		pseudo = nil
	}
	if !p.Fragment && packettest.OnesSum(append(pseudo, frame[p.L4:p.Len]...)) != 0xffff {
		b.t.Errorf("the frame to %s has a wrong transport checksum: % x", name, frame)
	}
	return p
}

func fromOutside(f packettest.Frame) []byte {
	f.SrcMAC, f.DstMAC = routerMAC, upMAC
	return packettest.Build(f)
}

func TestPrivateSubnetReachesTheOutsideThroughANATGateway(t *testing.T) {
	b, _ := newNATBed(t)
	for _, protocol := range []uint8{packet.ProtocolTCP, packet.ProtocolUDP, packet.ProtocolICMP} {
		f := template(protocol, db, laptop, 4000, 443)
		if protocol == packet.ProtocolICMP {
			f.Flow.DstPort = 4000
		}
		left := b.out(f)
		if left.Flow.Src != natPublic || left.Flow.Dst != laptop || left.Flow.SrcPort < 1024 || protocol != packet.ProtocolICMP && left.Flow.DstPort != 443 {
			t.Fatalf("protocol %d left as %v, want from %s", protocol, left.Flow, natPublic)
		}
		if again := b.out(f); again.Flow != left.Flow {
			t.Errorf("the second packet left as %v, the first as %v", again.Flow, left.Flow)
		}
		answer := packettest.Frame{Flow: packettest.Reverse(left.Flow), TCPFlags: packet.SYN | packet.ACK, ICMPType: packet.ICMPEchoReply}
		b.expect("uplink", fromOutside(answer), "4db", verdict.Forward)
		if got := b.lastAt("4db"); got.Flow != packettest.Reverse(f.Flow) || got.SrcMAC != GatewayMAC {
			t.Errorf("the answer came as %v, want %v", got.Flow, packettest.Reverse(f.Flow))
		}
		for name, change := range map[string]func(*packettest.Frame){
			"another host":                func(f *packettest.Frame) { f.Flow.Src = otherHost },
			"another port of the host":    func(f *packettest.Frame) { f.Flow.SrcPort++ },
			"another port of the gateway": func(f *packettest.Frame) { f.Flow.DstPort ^= 1 },
			"another protocol":            func(f *packettest.Frame) { f.Flow.Protocol ^= packet.ProtocolTCP ^ packet.ProtocolUDP },
		} {
			probe := answer
			change(&probe)
			if protocol == packet.ProtocolICMP && name != "another host" {
				continue
			}
			if _, v := b.send("uplink", fromOutside(probe)); v != verdict.NATUnknown {
				t.Errorf("a packet of protocol %d from %s is %v, want nat-unknown", protocol, name, v)
			}
		}
	}
	ping := packettest.Frame{Flow: packet.Flow{Src: laptop, Dst: natPublic, SrcPort: 9, DstPort: 9, Protocol: packet.ProtocolICMP}, ICMPType: packet.ICMPEcho}
	b.expect("uplink", fromOutside(ping), "uplink", verdict.NATProtocol)
}

func TestOnlyRoutesOfItsNetworkLeadToANATGateway(t *testing.T) {
	b, _ := newNATBed(t)
	syn := template(packet.ProtocolTCP, addr("10.0.1.20"), laptop, 4000, 443)
	b.expect("2app", to("2app", b.owners["gateway"].MAC, syn), "2app", verdict.WrongMAC) // past its routes
	b.expect("2app", to("2app", GatewayMAC, template(packet.ProtocolTCP, addr("10.0.1.20"), natAddress, 4000, 443)), "2app", verdict.NATUnknown)
	syn.Flow.Src = addr("203.0.113.77")
	b.expect("3nat", to("3nat", b.owners["gateway"].MAC, syn), "3nat", verdict.WrongMAC)
	b.generation++
	e := b.sw.Edit(b.generation)
	n := vpcNetwork(theirs)
	n.Subnets[0].Routes = []Route{{everywhere, Target{Kind: NAT, Via: natAddress}}}
	e.Network(n)
	b.sw.Publish(e)
	b.expect("6app", to("6app", GatewayMAC, template(packet.ProtocolTCP, addr("10.0.1.20"), laptop, 4000, 443)), "6app", verdict.NotRouted)
}

func TestNATGatewayReachesPublicAddressesOfInstances(t *testing.T) {
	b, _ := newNATBed(t)
	b.rules("theirs", permit(ec2.TCP, 443, 443, "198.18.1.99/32"), anyOut())
	syn := template(packet.ProtocolTCP, db, addr("198.18.1.50"), 4000, 443)
	b.expect("4db", to("4db", GatewayMAC, syn), "5web", verdict.Forward)
	got := b.lastAt("5web")
	if got.Flow.Src != natPublic || got.Flow.Dst != addr("10.0.1.10") {
		t.Fatalf("5web got %v, want it from %s", got.Flow, natPublic)
	}
	answer := packettest.Frame{Flow: packettest.Reverse(got.Flow), TCPFlags: packet.SYN | packet.ACK}
	b.expect("5web", to("5web", GatewayMAC, answer), "4db", verdict.Forward)
	if back := b.lastAt("4db"); back.Flow != packettest.Reverse(syn.Flow) {
		t.Errorf("4db got %v, want %v", back.Flow, packettest.Reverse(syn.Flow))
	}
	probe := template(packet.ProtocolTCP, addr("10.0.1.10"), natPublic, 4000, 22)
	b.expect("5web", to("5web", GatewayMAC, probe), "5web", verdict.NATUnknown)
}

func TestNATGatewayTranslatesICMPErrorsBothWays(t *testing.T) {
	b, _ := newNATBed(t)
	udp := template(packet.ProtocolUDP, db, laptop, 4000, 53)
	left := b.out(udp)
	quoted := packettest.Build(packettest.Frame{Flow: left.Flow, Payload: make([]byte, 8)})
	b.expect("uplink", packettest.ICMPError(3, 1, otherHost, natPublic, quoted, routerMAC, upMAC), "4db", verdict.Forward)
	if got := b.lastAt("4db"); got.Quoted != udp.Flow || got.Flow.Src != otherHost || got.Flow.Dst != db {
		t.Errorf("4db got an error about %v from %s, want about %v", got.Quoted, got.Flow.Src, udp.Flow)
	}
	forged := left.Flow
	forged.DstPort++
	quoted = packettest.Build(packettest.Frame{Flow: forged, Payload: make([]byte, 8)})
	b.expect("uplink", packettest.ICMPError(3, 1, otherHost, natPublic, quoted, routerMAC, upMAC), "uplink", verdict.NATUnknown)

	answer := packettest.Build(packettest.Frame{Flow: packettest.Reverse(udp.Flow), Payload: make([]byte, 8)})
	b.expect("4db", packettest.ICMPError(3, 3, db, laptop, answer, macOf("4db"), GatewayMAC), "uplink", verdict.Forward)
	if got := b.lastAt("uplink"); got.Quoted != packettest.Reverse(left.Flow) || got.Flow.Src != natPublic {
		t.Errorf("an error about %v left from %s, want about %v from %s", got.Quoted, got.Flow.Src, packettest.Reverse(left.Flow), natPublic)
	}
}

func TestNATGatewayCarriesFragmentsOfUDPAlone(t *testing.T) {
	b, _ := newNATBed(t)
	udp := template(packet.ProtocolUDP, db, laptop, 4000, 53)
	udp.Payload, udp.FragID = make([]byte, 1600), 77
	pieces := packettest.Fragments(to("4db", GatewayMAC, udp), 800)
	b.expect("4db", pieces[0], "uplink", verdict.Forward)
	first := b.lastAt("uplink")
	b.expect("4db", pieces[1], "uplink", verdict.Forward)
	if later := b.lastAt("uplink"); later.Flow.Src != natPublic || later.FragOffset != 800 {
		t.Errorf("the later fragment left as %v", later.Flow)
	}
	back := udp
	back.Flow = packettest.Reverse(first.Flow)
	pieces = packettest.Fragments(fromOutside(back), 800)
	b.expect("uplink", pieces[1], "uplink", verdict.NATFragment) // before its first
	b.expect("uplink", pieces[0], "4db", verdict.Forward)
	b.expect("uplink", pieces[1], "4db", verdict.Forward)
	tcp := template(packet.ProtocolTCP, db, laptop, 4000, 443)
	tcp.Payload = make([]byte, 1600)
	b.expect("4db", packettest.Fragments(to("4db", GatewayMAC, tcp), 800)[0], "4db", verdict.NATFragment)
}

func TestNATGatewayResetsConnectionsThatItDoesNotKnow(t *testing.T) {
	b, table := newNATBed(t)
	f := template(packet.ProtocolTCP, db, laptop, 4000, 443)
	b.out(f)
	f.TCPFlags, f.TCPSeq, f.TCPAck = packet.ACK, 1001, 5000
	b.out(f)
	table.Sweep(b.frame.now + nat.Idle - time.Second)
	b.out(f)
	table.Sweep(b.frame.now + nat.Idle)
	b.expect("4db", to("4db", GatewayMAC, f), "4db", verdict.NATUnknown)
	if got := b.lastAt("4db"); got.TCPFlags != packet.RST || got.TCPSeq != 5000 || got.Flow != packettest.Reverse(f.Flow) {
		t.Errorf("4db got %v with flags %#x and sequence %d, want a reset with 5000", got.Flow, got.TCPFlags, got.TCPSeq)
	}
}

func TestNATGatewayWithoutPortsCountsAndDrops(t *testing.T) {
	b, table := newNATBed(t)
	for port := range uint16(16) { // a quarter of the table: the bound of one source
		b.out(template(packet.ProtocolUDP, db, laptop, 4000+port, 53))
	}
	b.expect("4db", to("4db", GatewayMAC, template(packet.ProtocolUDP, db, laptop, 5000, 53)), "4db", verdict.NATExhausted)
	gw := b.owners["gateway"].NAT.Gateway
	if u := gw.Usage(); u.Translations != 16 || u.Exhausted != 1 {
		t.Errorf("the gateway has %+v, want 16 translations and one packet without a port", u)
	}
	table.Remove(gw)
	b.expect("4db", to("4db", GatewayMAC, template(packet.ProtocolUDP, db, laptop, 4000, 53)), "4db", verdict.NATUnknown)
}

func TestPacketCrossesOneNATGatewayOnly(t *testing.T) {
	b, _ := newNATBed(t)
	b.expect("4db", to("4db", GatewayMAC, template(packet.ProtocolTCP, db, natPublic, 4000, 443)), "4db", verdict.NoRoute)
}

func TestNetworkACLsOfBothSubnetsJudgePacketsThroughANATGateway(t *testing.T) {
	b, _ := newNATBed(t)
	syn := template(packet.ProtocolTCP, db, laptop, 4000, 443)
	for _, tt := range []struct {
		name   string
		subnet int
		entry  ec2.ACLEntry
		want   verdict.Verdict
	}{
		{"nothing denied", 0, ec2.ACLEntry{Number: 1, Allow: true, CIDR: everywhere}, verdict.Forward},
		{"out of the private subnet", 1, ec2.ACLEntry{Number: 1, Egress: true, CIDR: everywhere}, verdict.ACLDenied},
		{"into the gateway's subnet", 0, ec2.ACLEntry{Number: 1, CIDR: netip.MustParsePrefix("10.0.2.0/24")}, verdict.ACLDenied},
		{"out of the gateway's subnet", 0, ec2.ACLEntry{Number: 1, Egress: true, CIDR: netip.MustParsePrefix("203.0.113.0/24")}, verdict.ACLDenied},
	} {
		b.generation++
		e := b.sw.Edit(b.generation)
		n := vpcNetwork(ours)
		n.Subnets[1].Routes = []Route{{everywhere, Target{Kind: NAT, Via: natAddress}}}
		all := []ec2.ACLEntry{tt.entry}
		for _, egress := range []bool{false, true} {
			all = append(all, ec2.ACLEntry{Number: 2, Egress: egress, Allow: true, CIDR: everywhere})
		}
		n.Subnets[tt.subnet].ACL = firewall.CompileACL(&ec2.NetworkACL{ID: "acl-1", Entries: all})
		e.Network(n)
		b.sw.Publish(e)
		if _, v := b.send("4db", to("4db", GatewayMAC, syn)); v != tt.want {
			t.Errorf("%s: a packet through the gateway is %v, want %v", tt.name, v, tt.want)
		}
	}
}

func TestNATGatewayServesItsOwnNetworkAlone(t *testing.T) {
	b, _ := newNATBed(t)
	gw := b.owners["gateway"]
	f := b.frame
	f.snapshot, f.in = b.sw.Snapshot(), b.ports["6app"]
	for name, sender := range map[string]string{"of another network": "6app", "of its network": "4db"} {
		f.sender, f.crossed.gateway = b.owners[sender], nil
		n := copy(f.buffer[offloadLen:], to("6app", GatewayMAC, template(packet.ProtocolTCP, db, laptop, 4000, 443)))
		f.decode(f.buffer[:offloadLen+n])
		if _, v := f.translate(gw); (v == verdict.Forward) != (sender == "4db") {
			t.Errorf("a packet of an interface %s is %v", name, v)
		}
	}
}

func TestNATGatewayReachesAPeeredNetworkByItsPrivateAddress(t *testing.T) {
	b, _ := newNATBed(t)
	peer := netip.MustParsePrefix("10.9.0.0/16")
	b.generation++
	e := b.sw.Edit(b.generation)
	n := vpcNetwork(ours)
	n.Subnets[0].Routes = append(n.Subnets[0].Routes, Route{peer, Target{Kind: Peer, Peer: 4}})
	n.Subnets[1].Routes = []Route{{everywhere, Target{Kind: NAT, Via: natAddress}}}
	n.Peers = []PeerNetwork{{VNI: 4, Blocks: []netip.Prefix{peer}, Groups: true}}
	e.Network(n)
	e.Network(Network{VNI: 4, Prefix: peer, MTU: 1500, Peers: []PeerNetwork{{VNI: ours, Blocks: []netip.Prefix{n.Prefix}, Groups: true}},
		Subnets: []Subnet{{Prefix: peer, Gateway: addr("10.9.0.1"), Routes: []Route{{n.Prefix, Target{Kind: Peer, Peer: ours}}}}}})
	b.place(e, 4, "7far", Endpoint{Epoch: 950, Address: addr("10.9.0.9")}, "theirs")
	b.sw.Publish(e)
	b.rules("theirs", permit(ec2.TCP, 443, 443, "10.0.1.99/32"), anyOut())
	syn := template(packet.ProtocolTCP, db, addr("10.9.0.9"), 4000, 443)
	b.expect("4db", to("4db", GatewayMAC, syn), "7far", verdict.Forward)
	got := b.lastAt("7far")
	if got.Flow.Src != natAddress {
		t.Fatalf("7far got %v, want it from %s", got.Flow, natAddress)
	}
	answer := packettest.Frame{Flow: packettest.Reverse(got.Flow), TCPFlags: packet.SYN | packet.ACK}
	b.expect("7far", to("7far", GatewayMAC, answer), "4db", verdict.Forward)
	if back := b.lastAt("4db"); back.Flow != packettest.Reverse(syn.Flow) {
		t.Errorf("4db got %v, want %v", back.Flow, packettest.Reverse(syn.Flow))
	}
	b.expect("7far", to("7far", GatewayMAC, template(packet.ProtocolTCP, addr("10.9.0.9"), natAddress, 4000, 443)), "7far", verdict.NATUnknown)
}

func TestNodeOfANATGatewayAnswersForItsPublicAddress(t *testing.T) {
	b, _ := newNATBed(t)
	b.expect("uplink", packettest.ARP(1, routerMAC, laptop, natPublic), "uplink", verdict.Answered)
	was := b.owners["gateway"]
	moved := *was
	moved.NAT, moved.Node = nil, 2
	b.generation++
	e := b.sw.Edit(b.generation)
	e.RemoveEndpoint(ours, was)
	e.AddEndpoint(ours, &moved)
	b.sw.Publish(e)
	b.expect("uplink", packettest.ARP(1, routerMAC, laptop, natPublic), "uplink", verdict.ARPIgnored)
}
