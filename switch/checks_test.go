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

// TestForgedOffloadHeaderIsRefused: the switch checks the virtio header before the rules, so a rule
// that admits the packet does not help.
func TestForgedOffloadHeaderIsRefused(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.TCP, 22, 22, "web"))
	syn := b.of("web", template(6, addr("10.10.0.4"), addr("10.10.0.5"), 1, 22))
	header := func(start, place uint16) []byte {
		h := make([]byte, offloadLen)
		h[0] = 1
		binary.NativeEndian.PutUint16(h[6:], start)
		binary.NativeEndian.PutUint16(h[8:], place)
		return h
	}
	for name, h := range map[string][]byte{
		"over the destination port": header(34, 2), "over the flags": header(34, 12), "from the IP header on": header(14, 36), "past the end": header(9000, 16),
	} {
		if at, v := b.sendOffload("web", h, syn); at != "web" || v != verdict.BadOffload {
			t.Errorf("a header that asks for a checksum %s: %v at %s, want %v at web", name, v, at, verdict.BadOffload)
		}
	}
	if at, v := b.sendOffload("web", header(34, 16), syn); at != "app" || v != verdict.Forward || b.devices["app"].count != 1 {
		t.Errorf("an honest header: %v at %s, %d frames delivered; want %v at app, 1", v, at, b.devices["app"].count, verdict.Forward)
	}
}

// TestARPProbesAndRepliesGetNoAnswer: requests for the sender's own addresses, and for addresses
// that are not in its subnet, get no answer either.
func TestARPProbesAndRepliesGetNoAnswer(t *testing.T) {
	b := newVPCBed(t)
	web, second, none := addr("10.0.1.10"), addr("10.0.1.11"), netip.IPv4Unspecified()
	for name, frame := range map[string][]byte{
		"a reply":                             packettest.ARP(2, macOf("1web"), web, addr("10.0.1.20")),
		"a reply to the gateway":              packettest.ARP(2, macOf("1web"), web, addr("10.0.1.1")),
		"a probe for its own address":         packettest.ARP(1, macOf("1web"), none, web),
		"a probe for another's":               packettest.ARP(1, macOf("1web"), none, addr("10.0.1.20")),
		"a probe for the gateway's":           packettest.ARP(1, macOf("1web"), none, addr("10.0.1.1")),
		"its own address":                     packettest.ARP(1, macOf("1web"), web, web),
		"its own other address":               packettest.ARP(1, macOf("1web"), web, second),
		"its own, asked by the other":         packettest.ARP(1, macOf("1web"), second, web),
		"an address of another subnet":        packettest.ARP(1, macOf("1web"), web, addr("10.0.2.10")),
		"the gateway of another subnet":       packettest.ARP(1, macOf("1web"), web, addr("10.0.2.1")),
		"an address that no interface has":    packettest.ARP(1, macOf("1web"), web, addr("10.0.1.99")),
		"an address of another network":       packettest.ARP(1, macOf("1web"), web, addr("10.10.0.4")),
		"an address of the world":             packettest.ARP(1, macOf("1web"), web, laptop),
		"a public address of an interface":    packettest.ARP(1, macOf("1web"), web, addr("198.18.1.20")),
		"the broadcast address of its subnet": packettest.ARP(1, macOf("1web"), web, addr("10.0.1.255")),
	} {
		if at, v := b.send("1web", frame); at != "1web" || v != verdict.ARPIgnored {
			t.Errorf("%s: %v at %s, want %v", name, v, at, verdict.ARPIgnored)
		}
	}
	if n := b.devices["1web"].count; n != 0 {
		t.Errorf("the switch sent %d ARP answers, want 0", n)
	}
}

// TestPacketsToUnusedAddressesDoNotLeave: a packet to an unused address of the network, to a public
// address that is not leased or to a link-local address never leaves by the uplink.
func TestPacketsToUnusedAddressesDoNotLeave(t *testing.T) {
	b := newTestbed(t)
	for _, dst := range []string{"10.10.9.9", "10.255.255.254", "198.18.9.9", "169.254.169.254", "169.254.1.1"} {
		b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr(dst), 1, 80)), "web", verdict.NoRoute)
	}
	if n := b.devices["uplink"].count; n != 0 {
		t.Errorf("%d frames left by the uplink, want 0", n)
	}
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), laptop, 1, 80)), "uplink", verdict.Forward)
}

// TestFormerUplinkPassesNothing: of two uplink ports only the one that the Snapshot names passes
// frames.
func TestFormerUplinkPassesNothing(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.TCP, 80, 80, "0.0.0.0/0"))
	in := outside(template(6, laptop, addr("198.18.0.4"), 1, 80))
	b.expect("uplink", in, "web", verdict.Forward)
	b.add("other", UplinkPort)
	b.expect("other", in, "other", verdict.NotReady)
	e := b.sw.Edit(b.generation)
	e.Uplink(&Uplink{Port: b.ports["other"], MAC: upMAC, NextHop: routerMAC, MTU: 1500})
	b.sw.Publish(e)
	b.expect("uplink", in, "uplink", verdict.NotReady)
	b.expect("other", in, "web", verdict.Forward)
	e = b.sw.Edit(b.generation)
	e.Uplink(nil)
	b.sw.Publish(e)
	b.expect("other", in, "other", verdict.NotReady)
}

// TestUplinkAcceptsItsOwnMACOnly: the uplink drops frames to multicast addresses and to other hosts
// of the segment.
func TestUplinkAcceptsItsOwnMACOnly(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", anyIn())
	by := func(mac ec2.MAC, dst string) []byte {
		f := template(17, laptop, addr(dst), 1, 53)
		f.SrcMAC, f.DstMAC = routerMAC, mac
		return packettest.Build(f)
	}
	for _, mac := range []ec2.MAC{{255, 255, 255, 255, 255, 255}, {1, 0, 0x5e, 0, 0, 1}} {
		b.expect("uplink", by(mac, "198.18.0.4"), "uplink", verdict.NotUnicast)
	}
	for _, mac := range []ec2.MAC{routerMAC, GatewayMAC, macOf("web"), {2, 9, 9, 9, 9, 9}} {
		b.expect("uplink", by(mac, "198.18.0.4"), "uplink", verdict.WrongMAC)
	}
	for _, dst := range []string{"224.0.0.1", "255.255.255.255", "127.0.0.1", "0.0.0.0"} {
		b.expect("uplink", by(upMAC, dst), "uplink", verdict.NotUnicast)
	}
	b.expect("uplink", by(upMAC, "198.18.0.4"), "web", verdict.Forward)
}

// TestUplinkAnswersARPForLocalInstancesOnly: the uplink answers ARP requests only for public
// addresses of interfaces that are attached on this node.
func TestUplinkAnswersARPForLocalInstancesOnly(t *testing.T) {
	b := newTestbed(t)
	b.tunnel(1406) // 198.18.0.7 is at another node
	asks := func(operation uint16, target string) []byte {
		return packettest.ARP(operation, routerMAC, addr("198.18.0.1"), addr(target))
	}
	b.expect("uplink", asks(1, "198.18.0.4"), "uplink", verdict.Answered)
	b.expect("uplink", asks(2, "198.18.0.4"), "uplink", verdict.ARPIgnored)
	for _, target := range []string{"198.18.0.7", "198.18.0.99", "10.10.0.4", "10.10.0.6", "203.0.113.25"} {
		b.expect("uplink", asks(1, target), "uplink", verdict.ARPIgnored)
	}
	e := b.sw.Edit(b.generation)
	e.Detach(b.ports["web"])
	b.sw.Publish(e)
	b.expect("uplink", asks(1, "198.18.0.4"), "uplink", verdict.ARPIgnored)
	if n := b.devices["uplink"].count; n != 1 {
		t.Errorf("the uplink sent %d ARP answers, want 1", n)
	}
}

// TestCutConnectionStaysCut: both ends keep sending, and other rules change. Whichever end sends
// first, nothing passes and each packet is counted as revoked.
func TestCutConnectionStaysCut(t *testing.T) {
	for _, protocol := range []ec2.Protocol{ec2.TCP, ec2.UDP} {
		b := newVPCBed(t)
		b.rules("db", anyIn(), anyOut())
		b.rules("vpc", permit(protocol, 80, 80, "0.0.0.0/0"), anyOut())
		k := b.talk(uint8(protocol), "4db", "2app", 1000, 80)
		k.open()
		b.rules("vpc", permit(protocol, 81, 81, "0.0.0.0/0"), anyOut())
		k.isCut("its rule is gone")
		for range 3 {
			b.expect("2app", to("2app", GatewayMAC, k.back), "2app", verdict.Revoked)
			b.expect("4db", to("4db", GatewayMAC, k.there), "2app", verdict.Revoked)
		}
		b.rules("vpc", permit(protocol, 82, 82, "0.0.0.0/0"), anyOut())
		k.isCut("another rule has come")
	}
}

// TestOnlyFirstPacketsCreateConnections: a segment in the middle of a connection, an answer, and an
// ICMP message that is no query pass if a rule admits them. They create no connection, so they
// admit no other packet, and do not pass themselves once the rule is revoked.
func TestOnlyFirstPacketsCreateConnections(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.AnyProtocol, -1, -1, "203.0.113.25/32"))
	tcp := template(6, laptop, addr("198.18.0.4"), 40000, 22)
	for _, flags := range []uint8{packet.ACK, packet.SYN | packet.ACK, packet.FIN | packet.ACK, packet.RST, packet.ACK | packet.PSH} {
		tcp.TCPFlags = flags
		b.expect("uplink", outside(tcp), "web", verdict.Forward)
	}
	icmp := template(1, laptop, addr("198.18.0.4"), 7, 7)
	for _, kind := range []uint8{0, 14, 17, 40} {
		icmp.ICMPType = kind
		b.expect("uplink", outside(icmp), "web", verdict.Forward)
	}
	if u := b.tracker.Usage(); u.Tracked+u.Untracked != 0 {
		t.Errorf("packets that are no first packets created connections: usage %+v, want none", u)
	}
	b.rules("web")
	tcp.TCPFlags = packet.ACK
	b.expect("uplink", outside(tcp), "web", verdict.NoRule)
	b.expect("uplink", outside(icmp), "web", verdict.NoRule)
	// An outgoing SYN or query creates a connection, an outgoing ACK does not.
	out := template(6, addr("10.10.0.4"), laptop, 1, 80)
	out.TCPFlags = packet.ACK
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	if u := b.tracker.Usage(); u.Tracked+u.Untracked != 0 {
		t.Errorf("an outgoing segment without a SYN created connections: usage %+v, want none", u)
	}
	out.TCPFlags = packet.SYN
	b.expect("web", b.of("web", out), "uplink", verdict.Forward)
	b.expect("web", b.of("web", template(17, addr("10.10.0.4"), laptop, 1, 53)), "uplink", verdict.Forward)
	if u := b.tracker.Usage(); u.Tracked != 2 || u.Untracked != 0 {
		t.Errorf("after an outgoing SYN and query the usage is %+v, want 2 tracked connections", u)
	}
}

// TestForgedICMPErrorsAreDropped: redirects and source quenches are dropped whatever rule admits
// them. Errors about packets that their receiver did not send are dropped too, even if a rule
// admits errors or the port is open to all addresses.
func TestForgedICMPErrorsAreDropped(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.ICMP, -1, -1, "0.0.0.0/0"), permit(ec2.TCP, 80, 80, "0.0.0.0/0"))
	web, public := addr("10.10.0.4"), addr("198.18.0.4")
	b.expect("web", b.of("web", template(17, web, laptop, 5000, 53)), "uplink", verdict.Forward)
	own := packettest.Build(template(17, public, laptop, 5000, 53))
	others := packettest.Build(template(17, addr("198.18.0.5"), laptop, 5000, 53))
	answer := packettest.Build(template(6, public, laptop, 80, 40000))
	foreign := packettest.Build(template(6, addr("198.18.0.5"), laptop, 80, 40000))
	about := func(kind, code uint8, quoted []byte) []byte {
		return packettest.ICMPError(kind, code, stranger, public, quoted, routerMAC, upMAC)
	}
	for code := range uint8(4) {
		b.expect("uplink", about(packet.ICMPRedirect, code, own), "web", verdict.NoConnection)
		b.expect("uplink", about(packet.ICMPRedirect, code, answer), "web", verdict.NoConnection)
	}
	b.expect("uplink", about(packet.ICMPSourceQuench, 0, own), "web", verdict.NoConnection)
	b.expect("uplink", about(packet.ICMPUnreachable, 3, others), "web", verdict.NoConnection)
	b.expect("uplink", about(packet.ICMPUnreachable, 3, foreign), "web", verdict.NoConnection)
	b.expect("uplink", about(packet.ICMPUnreachable, 3, own), "web", verdict.Forward)
	b.expect("uplink", about(packet.ICMPTimeExceeded, 0, answer), "web", verdict.Forward)
	// Without the rule for errors, an error about an untracked connection is recognised by the port
	// in the quoted packet.
	b.rules("web", permit(ec2.TCP, 80, 80, "0.0.0.0/0"))
	b.expect("uplink", about(packet.ICMPTimeExceeded, 0, answer), "web", verdict.Forward)
	b.expect("uplink", about(packet.ICMPTimeExceeded, 0, foreign), "web", verdict.NoConnection)
	closed := packettest.Build(template(6, public, laptop, 81, 40000))
	b.expect("uplink", about(packet.ICMPTimeExceeded, 0, closed), "web", verdict.NoConnection)
	// Outgoing: redirects from an instance, and errors about packets that it did not receive.
	out := func(kind uint8, quoted []byte) []byte {
		return packettest.ICMPError(kind, 1, web, laptop, quoted, macOf("web"), GatewayMAC)
	}
	sent := packettest.Build(template(6, laptop, web, 40000, 80))
	b.expect("web", out(packet.ICMPRedirect, sent), "web", verdict.NoConnection)
	b.expect("web", out(packet.ICMPSourceQuench, sent), "web", verdict.NoConnection)
	b.expect("web", out(packet.ICMPUnreachable, sent), "uplink", verdict.Forward)
	b.expect("web", out(packet.ICMPUnreachable, packettest.Build(template(6, stranger, web, 40000, 80))), "web", verdict.NoConnection)
}

// TestMovedAddressStaysWithItsNewOwner: the removal of an interface does not remove an address that
// another interface has got before: a private or public address, or the MAC address under which it
// forwards for others.
func TestMovedAddressStaysWithItsNewOwner(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	old := b.owners["3nat"]
	next := *old
	next.Epoch, next.Port = 300, b.ports["2app"]
	e := b.sw.Edit(b.generation)
	e.AddEndpoint(ours, &next)
	e.RemoveEndpoint(ours, old)
	b.sw.Publish(e)
	s := b.sw.Snapshot()
	n, _ := s.Network(ours)
	if n.Find(old.Address) != &next || s.Public(old.Public) != &next || n.unchecked[old.MAC] != &next {
		t.Errorf("after the old owner is removed, the private address belongs to %v, the public address to %v, the MAC address to %v; want the new owner %v", n.Find(old.Address), s.Public(old.Public), n.unchecked[old.MAC], &next)
	}
	e = b.sw.Edit(b.generation)
	e.RemoveEndpoint(ours, &next)
	b.sw.Publish(e)
	s = b.sw.Snapshot()
	n, _ = s.Network(ours)
	if n.Find(old.Address) != nil || s.Public(old.Public) != nil || n.unchecked[old.MAC] != nil {
		t.Error("after both owners are removed, an address still belongs to an interface")
	}
}
