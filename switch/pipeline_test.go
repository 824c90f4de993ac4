package vswitch

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

func TestUnattachedPortPassesNothing(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.TCP, 22, 22, "0.0.0.0/0"))
	e := b.sw.Edit(9)
	e.Detach(b.ports["web"])
	b.sw.Publish(e)
	syn := template(6, addr("10.10.0.4"), addr("10.10.0.5"), 1, 22)
	b.expect("web", b.of("web", syn), "web", verdict.NotReady)
	b.expect("uplink", outside(template(6, laptop, addr("198.18.0.4"), 1, 22)), "web", verdict.NotReady)
}

func TestGroupRuleAdmitsMembersOnly(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.TCP, 8000, 8000, "web"))
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr("10.10.0.5"), 1, 8000)), "app", verdict.Forward)
	b.expect("lone", b.of("lone", template(6, addr("10.10.0.6"), addr("10.10.0.5"), 1, 8000)), "app", verdict.NoRule)
	// A packet to a public address has its sender's public address as source, so no rule for a
	// group admits it, as at AWS.
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr("198.18.0.5"), 1, 8000)), "app", verdict.NoRule)
	b.rules("app", permit(ec2.TCP, 8000, 8000, "198.18.0.4/32"))
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr("198.18.0.5"), 2, 8000)), "app", verdict.Forward)
	if p := b.delivered("app"); p.Flow.Src != addr("198.18.0.4") || p.Flow.Dst != addr("10.10.0.5") {
		t.Errorf("a packet to 198.18.0.5 was delivered as %v, want 198.18.0.4 > 10.10.0.5", p.Flow)
	}
	// A frame from the uplink with a member's address is dropped.
	b.expect("uplink", outside(template(6, addr("10.10.0.4"), addr("198.18.0.5"), 1, 8000)), "uplink", verdict.BadSource)
}

func TestSpoofedFramesAreDroppedWhereTheyAreSent(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.AnyProtocol, -1, -1, "0.0.0.0/0"))
	web, app := addr("10.10.0.4"), addr("10.10.0.5")
	mac := func(f packettest.Frame, src, dst ec2.MAC) []byte {
		f.SrcMAC, f.DstMAC = src, dst
		return packettest.Build(f)
	}
	syn := template(6, web, app, 1, 22)
	forged := func(src string) []byte { return b.of("web", template(6, addr(src), app, 1, 22)) }
	tests := []struct {
		name  string
		frame []byte
		want  verdict.Verdict
	}{
		{"another's MAC", mac(syn, macOf("app"), GatewayMAC), verdict.SpoofedMAC},
		{"group MAC as source", mac(syn, ec2.MAC{1, 0, 0x5e}, GatewayMAC), verdict.SpoofedMAC},
		{"another's address", forged("10.10.0.6"), verdict.SpoofedIP},
		{"the gateway's address", forged("10.0.0.1"), verdict.SpoofedIP},
		{"its own public address", forged("198.18.0.4"), verdict.SpoofedIP},
		{"LAND", forged("10.10.0.5"), verdict.SpoofedIP},
		{"loopback", forged("127.0.0.1"), verdict.SpoofedIP},
		{"broadcast MAC", mac(syn, macOf("web"), ec2.MAC{255, 255, 255, 255, 255, 255}), verdict.NotUnicast},
		{"multicast address", b.of("web", template(17, web, addr("224.0.0.1"), 1, 2)), verdict.NotUnicast},
		{"limited broadcast", b.of("web", template(17, web, addr("255.255.255.255"), 68, 67)), verdict.NotUnicast},
		{"DHCP server", b.of("web", template(17, web, app, 67, 68)), verdict.DHCPServer},
		{"an unknown MAC, an address outside", mac(template(6, web, laptop, 1, 22), macOf("web"), macOf("lone")), verdict.WrongMAC},
		{"unknown unicast", b.of("web", template(6, web, addr("10.10.9.9"), 1, 22)), verdict.NoRoute},
		{"the gateway itself", b.of("web", template(6, web, addr("10.0.0.1"), 1, 22)), verdict.GatewayLocal},
		{"unleased public address", b.of("web", template(6, web, addr("198.18.9.9"), 1, 22)), verdict.NoRoute},
		{"ARP reply for the gateway", packettest.ARP(2, macOf("web"), addr("10.0.0.1"), app), verdict.SpoofedARP},
		{"ARP request with another's address", packettest.ARP(1, macOf("web"), app, addr("10.0.0.1")), verdict.SpoofedARP},
		{"ARP with inner MAC of another", arpInner(macOf("web"), macOf("app"), web), verdict.SpoofedARP},
		{"gratuitous ARP", packettest.ARP(1, macOf("web"), web, web), verdict.ARPIgnored},
		{"duplicate address probe", packettest.ARP(1, macOf("web"), addr("0.0.0.0"), web), verdict.ARPIgnored},
		{"ARP for an unused address", packettest.ARP(1, macOf("web"), web, addr("10.10.9.9")), verdict.ARPIgnored},
	}
	for _, tt := range tests {
		if at, v := b.send("web", tt.frame); at != "web" || v != tt.want {
			t.Errorf("%s: %v at %s, want %v at web", tt.name, v, at, tt.want)
		}
	}
	if b.devices["app"].count+b.devices["lone"].count+b.devices["uplink"].count != 0 {
		t.Error("a spoofed frame was written to app, lone or the uplink")
	}
	b.expect("lone", b.of("lone", template(6, addr("10.10.0.6"), laptop, 1, 80)), "lone", verdict.NoRoute) // no public address: no internet
}

func arpInner(outer, inner ec2.MAC, ip netip.Addr) []byte {
	b := packettest.ARP(1, inner, ip, addr("10.0.0.1"))
	copy(b[6:12], outer[:])
	return b
}

func TestUplinkRefusesInternalSources(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.AnyProtocol, -1, -1, "0.0.0.0/0"))
	for _, src := range []string{"10.10.0.6", "10.0.0.1", "198.18.7.7", "198.18.0.5", "127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0"} {
		b.expect("uplink", outside(template(6, addr(src), addr("198.18.0.4"), 1, 80)), "uplink", verdict.BadSource)
	}
	f := template(6, laptop, addr("198.18.0.4"), 1, 80)
	f.SrcMAC, f.DstMAC = routerMAC, ec2.MAC{2, 9, 9, 9, 9, 9}
	b.expect("uplink", packettest.Build(f), "uplink", verdict.WrongMAC)
	b.expect("uplink", outside(template(6, laptop, addr("198.18.0.99"), 1, 80)), "uplink", verdict.NoRoute)
	b.expect("uplink", outside(template(6, laptop, addr("10.10.0.4"), 1, 80)), "uplink", verdict.NoRoute) // a private address
}

func TestSwitchAnswersARP(t *testing.T) {
	b := newTestbed(t)
	for target, want := range map[string]ec2.MAC{"10.0.0.1": GatewayMAC, "10.10.0.5": macOf("app")} {
		b.expect("web", packettest.ARP(1, macOf("web"), addr("10.10.0.4"), addr(target)), "web", verdict.Answered)
		p := b.delivered("web")
		if p.ARPOperation != 2 || p.ARPSender != want || p.ARPSenderIP != addr(target) || p.DstMAC != macOf("web") {
			t.Errorf("answer for %s: operation %d, %v is at %v, sent to %v; want operation 2, %v, sent to the web", target, p.ARPOperation, p.ARPSenderIP, p.ARPSender, p.DstMAC, want)
		}
	}
	b.expect("uplink", packettest.ARP(1, routerMAC, addr("198.18.0.1"), addr("198.18.0.4")), "uplink", verdict.Answered)
	b.expect("uplink", packettest.ARP(1, routerMAC, addr("198.18.0.1"), addr("198.18.0.99")), "uplink", verdict.ARPIgnored)
}

func TestNATIsOneToOne(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.TCP, 80, 80, "203.0.113.25/32"))
	in := template(6, laptop, addr("198.18.0.4"), 40000, 80)
	b.expect("uplink", outside(in), "web", verdict.Forward)
	if p := b.delivered("web"); p.Flow.Dst != addr("10.10.0.4") || p.DstMAC != macOf("web") || p.SrcMAC != GatewayMAC {
		t.Errorf("delivered %v from MAC %v to %v, want a packet to 10.10.0.4 from the gateway to the web", p.Flow, p.SrcMAC, p.DstMAC)
	}
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), laptop, 80, 40000)), "uplink", verdict.Forward)
	if p := b.delivered("uplink"); p.Flow.Src != addr("198.18.0.4") || p.DstMAC != routerMAC || p.SrcMAC != upMAC {
		t.Errorf("the uplink sent %v from MAC %v to %v, want a packet from 198.18.0.4 from this node to the router", p.Flow, p.SrcMAC, p.DstMAC)
	}
	b.expect("uplink", outside(template(6, stranger, addr("198.18.0.4"), 40000, 80)), "web", verdict.NoRule)
}

// TestUplinkRefusesAddressesOfTheNetwork: a source within the network cannot come from outside,
// leased or not. If it could, a rule for the network's CIDR would admit a stranger.
func TestUplinkRefusesAddressesOfTheNetwork(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.UDP, 53, 53, "10.10.0.0/16"))
	b.expect("uplink", outside(template(17, addr("10.10.0.77"), addr("198.18.0.4"), 1, 53)), "uplink", verdict.BadSource)
	b.expect("uplink", outside(template(17, addr("10.255.255.255"), addr("198.18.0.4"), 1, 53)), "uplink", verdict.BadSource)
}

// TestFramesAreCutForDevicesWithoutOffloads: a frame of three packets is written as one frame if
// the device has the offload for its protocol, and as three finished packets if not.
func TestFramesAreCutForDevicesWithoutOffloads(t *testing.T) {
	const tcp, udp = packet.ProtocolTCP, packet.ProtocolUDP
	for _, tt := range []struct {
		protocol       uint8
		gso, checksum  byte
		headers        int
		offloads       packet.Offloads
		frames, length int // written frames; length of the last one
	}{
		{tcp, 1, 16, 54, packet.NoOffloads, 3, 54 + 1080},
		{tcp, 1, 16, 54, packet.StreamOffloads, 1, 54 + 4000},
		{tcp, 1, 16, 54, packet.DatagramOffloads, 1, 54 + 4000},
		{udp, 5, 6, 42, packet.NoOffloads, 3, 42 + 1080},
		{udp, 5, 6, 42, packet.StreamOffloads, 3, 42 + 1080},
		{udp, 5, 6, 42, packet.DatagramOffloads, 1, 42 + 4000},
	} {
		b := newTestbed(t)
		b.rules("app", permit(ec2.TCP, 80, 80, "web"), permit(ec2.UDP, 80, 80, "web"))
		b.ports["app"].offloads = tt.offloads
		f := template(tt.protocol, addr("10.10.0.4"), addr("10.10.0.5"), 4000, 80)
		f.Payload = make([]byte, 4000)
		offload := make([]byte, offloadLen)
		offload[0], offload[1] = 1, tt.gso
		binary.NativeEndian.PutUint16(offload[4:], 1460)
		binary.NativeEndian.PutUint16(offload[6:], 34)
		binary.NativeEndian.PutUint16(offload[8:], uint16(tt.checksum))
		if at, v := b.sendOffload("web", offload, b.of("web", f)); at != "app" || v != verdict.Forward {
			t.Fatalf("%v at %s", v, at)
		}
		d := b.devices["app"]
		finished := [offloadLen]byte(d.last[:offloadLen]) == [offloadLen]byte{}
		if d.count != tt.frames || finished != (tt.frames == 3) || len(d.last) != offloadLen+tt.length {
			t.Errorf("protocol %d, offloads %d: %d frames, the last of %d bytes behind virtio header % x; want %d, the last of %d bytes",
				tt.protocol, tt.offloads, d.count, len(d.last)-offloadLen, d.last[:offloadLen], tt.frames, tt.length)
		}
	}
}

func TestTraceStoresNothing(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.TCP, 22, 22, "203.0.113.25/32"))
	tr := b.sw.Trace(b.ports["uplink"], outside(template(6, laptop, addr("198.18.0.4"), 1, 22)))
	if tr.Verdict != verdict.Forward || len(tr.Steps) != 1 || !tr.Steps[0].Asked {
		t.Errorf("the trace of an admitted packet is %+v, want %v after one step that checked the rules", tr, verdict.Forward)
	}
	tr = b.sw.Trace(b.ports["uplink"], outside(template(6, stranger, addr("198.18.0.4"), 1, 22)))
	if tr.Verdict != verdict.NoRule {
		t.Errorf("the trace of a refused packet is %+v, want %v", tr, verdict.NoRule)
	}
	if u := b.tracker.Usage(); u.Tracked != 0 || b.devices["web"].count != 0 {
		t.Errorf("the traces left usage %+v and wrote %d frames, want no connection and 0", u, b.devices["web"].count)
	}
}

func TestNoAllocs(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.TCP, 80, 80, "web"), permit(ec2.UDP, 53, 53, "0.0.0.0/0"), permit(ec2.ICMP, -1, -1, "0.0.0.0/0"))
	b.rules("web", permit(ec2.TCP, 22, 22, "203.0.113.25/32"))
	web, app := addr("10.10.0.4"), addr("10.10.0.5")
	syn := b.of("web", template(6, web, app, 1, 80))
	b.expect("web", syn, "app", verdict.Forward)
	known := template(6, web, app, 1, 80)
	known.TCPFlags = packet.ACK
	cases := []struct {
		name, from string
		frame      []byte
	}{
		{"known flow", "web", b.of("web", known)},
		{"SYN again", "web", syn},
		{"no rule", "web", b.of("web", template(6, web, app, 1, 81))},
		{"untracked", "web", b.of("web", template(17, web, app, 1, 53))},
		{"echo", "web", b.of("web", template(1, web, app, 5, 5))},
		{"arp", "web", packettest.ARP(1, macOf("web"), web, addr("10.0.0.1"))},
		{"spoofed", "web", b.of("web", template(6, app, web, 1, 80))},
		{"inbound", "uplink", outside(template(6, laptop, addr("198.18.0.4"), 1, 22))},
		{"outbound", "web", b.of("web", template(17, web, laptop, 1, 53))},
		{"hairpin", "web", b.of("web", template(17, web, addr("198.18.0.5"), 9, 53))},
		{"hostile", "web", []byte{1, 2, 3}},
	}
	for _, c := range cases {
		if n := testing.AllocsPerRun(200, func() {
			copy(b.frame.buffer[offloadLen:], c.frame)
			clear(b.frame.buffer[:offloadLen])
			b.frame.snapshot = b.sw.Snapshot()
			b.frame.receive(b.ports[c.from], offloadLen+len(c.frame))
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", c.name, n)
		}
	}
	port := uint16(0)
	if n := testing.AllocsPerRun(200, func() {
		port++
		binary.BigEndian.PutUint16(syn[34:], port)
		copy(b.frame.buffer[offloadLen:], syn)
		b.frame.receive(b.ports["web"], offloadLen+len(syn))
	}); n != 0 {
		t.Errorf("new flow: %v allocations, want 0", n)
	}
}
