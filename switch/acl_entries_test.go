package vswitch

import (
	"net/netip"
	"slices"
	"testing"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// entry returns an entry for the ports from to to of a protocol, or for everything if the protocol is
// AnyProtocol.
func entry(number int, d ec2.Direction, action string, protocol ec2.Protocol, from, to int, block string) ec2.ACLEntry {
	e := ec2.ACLEntry{Number: number, Egress: d == ec2.Egress, Allow: action == "allow", CIDR: netip.MustParsePrefix(block)}
	if protocol != ec2.AnyProtocol {
		e.Traffic = ec2.ACLTraffic{One: true, Protocol: protocol, From: from, To: to}
	}
	return e
}

// entries publishes our network with a network ACL of 10.0.1.0/24 that has these entries.
func (b *testbed) entries(all ...ec2.ACLEntry) {
	n := vpcNetwork(ours)
	n.Subnets[0].ACL = firewall.CompileACL(&ec2.NetworkACL{ID: "acl-1", Entries: all})
	b.generation++
	e := b.sw.Edit(b.generation)
	e.Network(n)
	b.sw.Publish(e)
}

// Each packet is judged by itself, with its own destination port and the address of its other end: also a
// reply in a connection that is tracked, and in one that is not.
func TestEntriesDecideByPortAndAddress(t *testing.T) {
	all := entry(100, ec2.Egress, "allow", ec2.AnyProtocol, 0, 0, "0.0.0.0/0")
	web := entry(100, ec2.Ingress, "allow", ec2.TCP, 80, 80, "203.0.113.0/24")
	request := func(src netip.Addr, port uint16) []byte {
		return outside(template(6, src, addr("198.18.1.10"), 40000, port))
	}
	reply := template(6, addr("10.0.1.10"), laptop, 80, 40000)
	reply.TCPFlags = packet.SYN | packet.ACK
	for name, rules := range map[string][]ec2.Rule{
		"tracked":   {permit(6, 80, 90, "203.0.113.0/24"), permit(6, 80, 90, "198.51.0.0/16"), anyOut()},
		"untracked": {anyIn(), anyOut()},
	} {
		t.Run(name, func(t *testing.T) {
			b := newVPCBed(t)
			b.open()
			b.rules("vpc", rules...)
			b.entries(web, all)
			b.expect("uplink", request(laptop, 80), "1web", verdict.Forward)
			b.expect("uplink", request(laptop, 81), "1web", verdict.ACLDenied)
			b.expect("uplink", request(addr("203.0.114.1"), 80), "1web", verdict.ACLDenied)
			b.expect("1web", b.of("1web", reply), "uplink", verdict.Forward)
			b.entries(web, entry(90, ec2.Egress, "deny", ec2.TCP, 32768, 65535, "0.0.0.0/0"), all)
			b.expect("1web", b.of("1web", reply), "1web", verdict.ACLDenied)
			b.entries(web, entry(90, ec2.Egress, "deny", ec2.TCP, 32768, 65535, "203.0.112.0/24"), all)
			b.expect("1web", b.of("1web", reply), "uplink", verdict.Forward)
			b.entries(entry(90, ec2.Ingress, "deny", ec2.AnyProtocol, 0, 0, "203.0.113.25/32"), web, all)
			b.expect("uplink", request(laptop, 80), "1web", verdict.ACLDenied)
		})
	}
}

// The destination of an egress entry is the one that the sender wrote, also if that is a public address of
// another instance. The source of an ingress entry is the one that the receiver sees. ICMP is judged by
// type and code, and the gateway of the subnet answers whatever the ACL is.
func TestEntriesSeeTheAddressesOfTheirSubnet(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	in := entry(100, ec2.Ingress, "allow", ec2.AnyProtocol, 0, 0, "0.0.0.0/0")
	out := func(block string) { b.entries(in, entry(100, ec2.Egress, "allow", ec2.UDP, 53, 53, block)) }
	hairpin := b.of("1web", template(17, addr("10.0.1.10"), addr("198.18.1.50"), 9, 53))
	out("198.18.1.50/32")
	b.expect("1web", hairpin, "5web", verdict.Forward)
	out("10.0.0.0/8") // the address of 5web in its own network
	b.expect("1web", hairpin, "1web", verdict.ACLDenied)
	neighbour := b.of("1web", template(17, addr("10.0.1.10"), addr("10.0.2.10"), 9, 53))
	b.expect("1web", neighbour, "4db", verdict.Forward)
	out("10.0.2.10/32")
	b.expect("1web", neighbour, "4db", verdict.Forward)
	out("10.0.2.11/32")
	b.expect("1web", neighbour, "1web", verdict.ACLDenied)
	b.expect("1web", b.of("1web", template(17, addr("10.0.1.10"), addr("10.0.1.1"), 9, 53)), "1web", verdict.GatewayLocal)

	open := entry(100, ec2.Egress, "allow", ec2.AnyProtocol, 0, 0, "0.0.0.0/0")
	from5 := to("5web", GatewayMAC, template(17, addr("10.0.1.10"), addr("198.18.1.10"), 9, 53))
	b.entries(open, entry(100, ec2.Ingress, "allow", ec2.UDP, 53, 53, "198.18.1.50/32"))
	b.expect("5web", from5, "1web", verdict.Forward)
	b.entries(open, entry(100, ec2.Ingress, "allow", ec2.UDP, 53, 53, "10.0.0.0/8"))
	b.expect("5web", from5, "1web", verdict.ACLDenied)

	echo := outside(template(1, laptop, addr("198.18.1.10"), 1, 1))
	b.entries(open, entry(100, ec2.Ingress, "allow", ec2.ICMP, 8, 0, "0.0.0.0/0"))
	b.expect("uplink", echo, "1web", verdict.Forward)
	b.entries(open, entry(100, ec2.Ingress, "allow", ec2.ICMP, 8, 1, "0.0.0.0/0"))
	b.expect("uplink", echo, "1web", verdict.ACLDenied)
	b.entries(open, entry(100, ec2.Ingress, "allow", ec2.ICMP, 8, -1, "0.0.0.0/0"))
	b.expect("uplink", echo, "1web", verdict.Forward)
	b.entries(open, entry(100, ec2.Ingress, "allow", ec2.ICMP, 0, -1, "0.0.0.0/0"))
	b.expect("uplink", echo, "1web", verdict.ACLDenied)
}

// fragmentsOf returns the two fragments of a UDP datagram between these addresses.
func fragmentsOf(f packettest.Frame, src, dst netip.Addr, port uint16, id uint16) [][]byte {
	t := template(17, src, dst, 9, port)
	t.SrcMAC, t.DstMAC, t.FragID, t.Payload = f.SrcMAC, f.DstMAC, id, make([]byte, 100)
	return packettest.Fragments(packettest.Build(t), 64)
}

// A fragment that is not the first passes an ACL if the ACL has admitted the first: not if the ACL denied
// the first, and not if the first went to a neighbour in the subnet, where no ACL judged it.
func TestFragmentsPassTheACLAfterTheirFirst(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	b.entries(entry(100, ec2.Egress, "allow", ec2.UDP, 53, 53, "0.0.0.0/0"), entry(100, ec2.Ingress, "allow", ec2.UDP, 53, 53, "0.0.0.0/0"))
	web := addr("10.0.1.10")
	via := func(mac ec2.MAC) packettest.Frame { return packettest.Frame{SrcMAC: macOf("1web"), DstMAC: mac} }
	out := fragmentsOf(via(GatewayMAC), web, laptop, 53, 1)
	b.expect("1web", out[1], "1web", verdict.OrphanFragment)
	b.expect("1web", out[0], "uplink", verdict.Forward)
	b.expect("1web", out[1], "uplink", verdict.Forward)
	denied := fragmentsOf(via(GatewayMAC), web, laptop, 54, 2)
	b.expect("1web", denied[0], "1web", verdict.ACLDenied)
	b.expect("1web", denied[1], "1web", verdict.OrphanFragment)
	around := fragmentsOf(via(macOf("3nat")), web, laptop, 54, 3)
	b.expect("1web", around[0], "3nat", verdict.Forward)
	b.expect("1web", fragmentsOf(via(GatewayMAC), web, laptop, 54, 3)[1], "1web", verdict.OrphanFragment)

	router := packettest.Frame{SrcMAC: routerMAC, DstMAC: upMAC}
	in := fragmentsOf(router, laptop, addr("198.18.1.10"), 53, 4)
	b.expect("uplink", in[0], "1web", verdict.Forward)
	b.expect("uplink", in[1], "1web", verdict.Forward)
	denied = fragmentsOf(router, laptop, addr("198.18.1.10"), 54, 5)
	b.expect("uplink", denied[0], "1web", verdict.ACLDenied)
	b.expect("uplink", denied[1], "1web", verdict.OrphanFragment)
	// 3nat forwards within the subnet, in the name of the laptop.
	within := fragmentsOf(packettest.Frame{SrcMAC: macOf("3nat"), DstMAC: macOf("1web")}, laptop, web, 54, 6)
	b.expect("3nat", within[0], "1web", verdict.Forward)
	b.expect("uplink", fragmentsOf(router, laptop, addr("198.18.1.10"), 54, 6)[1], "1web", verdict.OrphanFragment)
}

// The same holds for fragments that come from another node.
func TestFragmentsOfAnotherNodePassTheACLAfterTheirFirst(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	b.tunnel(1406)
	e := b.sw.Edit(b.generation)
	e.AddEndpoint(ours, &Endpoint{Epoch: 200, Address: addr("10.0.1.70"), MAC: macOf("7fwd"), Groups: b.sets["1web"].Numbers, Node: 2, Unchecked: true})
	e.AddEndpoint(ours, &Endpoint{Epoch: 201, Address: addr("10.0.2.80"), MAC: macOf("8far"), Groups: b.sets["1web"].Numbers, Node: 2, Unchecked: true})
	b.sw.Publish(e)
	b.entries(entry(100, ec2.Ingress, "allow", ec2.UDP, 53, 53, "0.0.0.0/0"))
	neighbour, far := packet.Origin{Node: 2, VNI: uint32(ours), Epoch: 200}, packet.Origin{Node: 2, VNI: uint32(ours), Epoch: 201}
	within := packettest.Frame{SrcMAC: macOf("7fwd"), DstMAC: macOf("1web")}
	across := packettest.Frame{SrcMAC: macOf("8far"), DstMAC: GatewayMAC}
	for i, tt := range []struct {
		of    packet.Origin
		from  packettest.Frame
		port  uint16
		piece int
		id    uint16
		want  verdict.Verdict
	}{
		{far, across, 53, 1, 1, verdict.OrphanFragment},
		{far, across, 53, 0, 1, verdict.Forward},
		{far, across, 53, 1, 1, verdict.Forward},
		{far, across, 54, 0, 2, verdict.ACLDenied},
		{far, across, 54, 1, 2, verdict.OrphanFragment},
		{neighbour, within, 54, 0, 3, verdict.Forward},
		{far, across, 54, 1, 3, verdict.OrphanFragment},
		{neighbour, within, 54, 1, 3, verdict.Forward},
	} {
		if at, v := b.come(tt.of, fragmentsOf(tt.from, laptop, addr("10.0.1.10"), tt.port, tt.id)[tt.piece]); at != "1web" || v != tt.want {
			t.Errorf("fragment %d is %v at %s, want %v at 1web", i, v, at, tt.want)
		}
	}
}

func TestEntriesAreNamed(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	b.entries(entry(90, ec2.Egress, "deny", ec2.TCP, 25, 25, "0.0.0.0/0"), entry(100, ec2.Egress, "allow", ec2.AnyProtocol, 0, 0, "0.0.0.0/0"),
		entry(110, ec2.Ingress, "allow", ec2.TCP, 80, 80, "0.0.0.0/0"))
	mail := b.of("1web", template(6, addr("10.0.1.10"), addr("10.0.2.10"), 40000, 25))
	web := b.of("1web", template(6, addr("10.0.1.10"), addr("10.0.2.10"), 40000, 80))
	number := func(s Step) int {
		if s.ACL == nil {
			return 0
		}
		return s.ACL.Entry.Number
	}
	for _, tt := range []struct {
		from  string
		frame []byte
		want  []int // of each step
	}{
		{"1web", mail, []int{0, 90}},
		{"1web", web, []int{100, 0}}, // the other subnet has no ACL
		{"4db", to("4db", GatewayMAC, template(6, addr("10.0.2.10"), addr("10.0.1.10"), 9, 80)), []int{0, 110}},
		{"4db", to("4db", GatewayMAC, template(6, addr("10.0.2.10"), addr("10.0.1.10"), 9, 81)), []int{0, 32767}},
		{"2app", to("2app", macOf("1web"), template(6, addr("10.0.1.20"), addr("10.0.1.10"), 9, 81)), []int{0, 0}},
	} {
		tr := b.sw.Trace(b.ports[tt.from], slices.Clone(tt.frame))
		var got []int
		for _, s := range tr.Steps {
			got = append(got, number(s))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("the steps of a trace from %s name the entries %v, want %v\n%v", tt.from, got, tt.want, tr)
		}
	}
	for range 3 {
		b.pass(b.ports["1web"], mail, 0)
	}
	b.pass(b.ports["1web"], web, 0)
	b.entries(entry(90, ec2.Egress, "deny", ec2.TCP, 20, 25, "0.0.0.0/0"))
	b.pass(b.ports["1web"], mail, 0)
	b.pass(b.ports["1web"], web, 0)
	got := b.ports["1web"].Denials()
	if len(got) != 2 || got[0].Packets != 4 || got[0].Entry.Number != 90 || got[0].Entry.Traffic.From != 20 || got[1].Packets != 1 || got[1].Entry.Number != 32767 || got[1].ACL != "acl-1" {
		t.Errorf("the port counts the denials %+v, want 4 by entry 90 as it is now, and 1 by entry 32767", got)
	}
	if all := b.ports["1web"].Counters().Verdicts[verdict.ACLDenied]; all != 5 {
		t.Errorf("the port counts %d packets that ACLs denied, want 5", all)
	}
}

// A port counts the packets of as many entries as it has room for, and all of them by the verdict.
func TestDenialsAreBounded(t *testing.T) {
	p := new(Port)
	for n := range 2 * maxDenials {
		p.countDenial(&firewall.ACLDecision{ACL: "acl-1", Entry: ec2.ACLEntry{Number: 1 + n}}, 2)
	}
	p.countDenial(&firewall.ACLDecision{ACL: "acl-1", Entry: ec2.ACLEntry{Number: 1}}, 1)
	if got := p.Denials(); len(got) != maxDenials || got[0].Packets != 3 || got[maxDenials-1].Packets != 2 {
		t.Errorf("the port counts %+v, want %d entries", got, maxDenials)
	}
}

func TestACLsAllocateNothing(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	var all []ec2.ACLEntry
	for n := range 39 {
		all = append(all, entry(1+n, ec2.Egress, "deny", ec2.TCP, n, n, "10.0.0.0/8"), entry(1+n, ec2.Ingress, "deny", ec2.TCP, n, n, "203.0.113.0/24"))
	}
	b.entries(append(all, entry(50, ec2.Egress, "allow", ec2.AnyProtocol, 0, 0, "0.0.0.0/0"), entry(50, ec2.Ingress, "allow", ec2.AnyProtocol, 0, 0, "0.0.0.0/0"))...)
	for name, c := range map[string]struct {
		from  string
		frame []byte
	}{
		"admitted out": {"1web", b.of("1web", template(6, addr("10.0.1.10"), addr("10.0.2.10"), 1, 80))},
		"denied out":   {"1web", b.of("1web", template(6, addr("10.0.1.10"), addr("10.0.2.10"), 1, 25))},
		"admitted in":  {"uplink", outside(template(6, laptop, addr("198.18.1.10"), 1, 80))},
		"denied in":    {"uplink", outside(template(6, laptop, addr("198.18.1.10"), 1, 25))},
	} {
		if n := testing.AllocsPerRun(200, func() { b.pass(b.ports[c.from], c.frame, 0) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
	if conntrack.In.AtEdge() == conntrack.Out || conntrack.In.AtEdge() == conntrack.Out.AtEdge() {
		t.Error("the edge of a subnet has no directions of its own")
	}
}
