package vswitch

import (
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// TestErrorOfTheNextRouterReachesItsSender: the router behind the uplink has an address of the public pool. Its
// ICMP errors pass, translated, if they are about a live connection, tracked or not. Nothing else from such an
// address does, whatever the rules admit.
func TestErrorOfTheNextRouterReachesItsSender(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", anyIn())
	router, web, public := addr("198.18.0.1"), addr("10.10.0.4"), addr("198.18.0.4")
	sent := func(protocol uint8, srcPort, dstPort uint16) packettest.Frame {
		return template(protocol, public, laptop, srcPort, dstPort)
	}
	from := func(src string, kind, code uint8, quoted packettest.Frame) []byte {
		return packettest.ICMPError(kind, code, addr(src), public, packettest.Build(quoted), routerMAC, upMAC)
	}
	for _, protocol := range []uint8{packet.ProtocolTCP, packet.ProtocolUDP, packet.ProtocolICMP, 47} {
		out := template(protocol, web, laptop, 5000, 33434)
		about := sent(protocol, 5000, 33434)
		if protocol == packet.ProtocolICMP {
			out.Flow.DstPort, about.Flow.DstPort = 5000, 5000
		}
		if protocol == 47 {
			out.Payload, about.Payload = make([]byte, 20), make([]byte, 20)
		}
		if protocol != packet.ProtocolUDP && protocol != packet.ProtocolTCP { // the rules make UDP and TCP untracked
			b.expect("uplink", from("198.18.0.1", packet.ICMPTimeExceeded, 0, about), "web", verdict.NoConnection)
		}
		b.expect("web", b.of("web", out), "uplink", verdict.Forward)
		for _, kind := range [][2]uint8{{packet.ICMPTimeExceeded, 0}, {packet.ICMPUnreachable, 4}, {packet.ICMPUnreachable, 1}, {packet.ICMPParameter, 0}} {
			b.expect("uplink", from("198.18.0.1", kind[0], kind[1], about), "web", verdict.Forward)
			p := b.delivered("web")
			if p.Flow.Src != router || p.Flow.Dst != web || p.Quoted.Src != web || p.Quoted.Dst != laptop || p.ICMPType != kind[0] {
				t.Errorf("protocol %d: the web received %v about %v, want an error from %v to %v about a packet of it", protocol, p.Flow, p.Quoted, router, web)
			}
		}
	}
	udp := sent(packet.ProtocolUDP, 5000, 33434)
	tracked := sent(packet.ProtocolICMP, 5000, 5000)
	other := sent(packet.ProtocolICMP, 5001, 5001)
	for name, tt := range map[string]struct {
		frame []byte
		at    string
		want  verdict.Verdict
	}{
		"about no connection":                      {from("198.18.0.1", 11, 0, other), "web", verdict.NoConnection},
		"from the address of an instance":          {from("198.18.0.5", 11, 0, udp), "uplink", verdict.BadSource},
		"from its own address":                     {from("198.18.0.4", 11, 0, tracked), "uplink", verdict.BadSource},
		"a redirect":                               {from("198.18.0.1", packet.ICMPRedirect, 1, udp), "web", verdict.NoConnection},
		"a source quench":                          {from("198.18.0.1", packet.ICMPSourceQuench, 0, udp), "web", verdict.NoConnection},
		"a ping of the router":                     {outside(template(1, router, public, 1, 1)), "uplink", verdict.BadSource},
		"UDP of the router":                        {outside(template(17, router, public, 1, 53)), "uplink", verdict.BadSource},
		"TCP of the router":                        {outside(template(6, router, public, 1, 80)), "uplink", verdict.BadSource},
		"about another instance's packet":          {from("198.18.0.1", 11, 0, template(17, addr("198.18.0.5"), laptop, 5000, 33434)), "web", verdict.NoConnection},
		"that quotes nothing":                      {outside(packettest.Frame{Flow: packet.Flow{Src: router, Dst: public, Protocol: 1}, ICMPType: 11}), "uplink", verdict.BadSource},
		"about a packet to another public address": {from("198.18.0.1", 11, 0, template(17, public, addr("198.18.0.5"), 5000, 53)), "uplink", verdict.BadSource},
	} {
		if at, v := b.send("uplink", tt.frame); at != tt.at || v != tt.want {
			t.Errorf("an error %s: %v at %s, want %v at %s", name, v, at, tt.want, tt.at)
		}
	}
}

// TestErrorFromOutsideIsNotAboutAConnectionInside: connections between instances, by private or public addresses,
// never leave by the uplink, so no host outside can have an error about them to report.
func TestErrorFromOutsideIsNotAboutAConnectionInside(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 53, "10.10.0.4/32"), permit(ec2.UDP, 53, 53, "198.18.0.4/32"))
	b.rules("web", permit(ec2.ICMP, -1, -1, "0.0.0.0/0"))
	inside := template(17, addr("10.10.0.4"), addr("10.10.0.5"), 5000, 53)
	b.expect("web", b.of("web", inside), "app", verdict.Forward)
	b.expect("web", b.of("web", template(17, addr("10.10.0.4"), addr("198.18.0.5"), 5000, 53)), "app", verdict.Forward)
	byPublic := template(17, addr("198.18.0.4"), addr("198.18.0.5"), 5000, 53)
	for _, src := range []string{"198.51.100.7", "203.0.113.25", "198.18.0.1"} {
		for _, quoted := range []packettest.Frame{inside, byPublic} {
			b.expect("uplink", packettest.ICMPError(3, 3, addr(src), addr("198.18.0.4"), packettest.Build(quoted), routerMAC, upMAC), "uplink", verdict.BadSource)
		}
	}
}

// TestErrorOfAnInstanceIsTranslatedOnItsWayOut: the host outside sees in it the packet that it sent.
func TestErrorOfAnInstanceIsTranslatedOnItsWayOut(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.UDP, 53, 53, "203.0.113.0/24"))
	b.expect("uplink", outside(template(17, laptop, addr("198.18.0.4"), 4000, 53)), "web", verdict.Forward)
	seen := template(17, laptop, addr("10.10.0.4"), 4000, 53)
	b.expect("web", packettest.ICMPError(3, 3, addr("10.10.0.4"), laptop, packettest.Build(seen), macOf("web"), GatewayMAC), "uplink", verdict.Forward)
	want := packet.Flow{Src: laptop, Dst: addr("198.18.0.4"), SrcPort: 4000, DstPort: 53, Protocol: 17}
	if p := b.delivered("uplink"); p.Flow.Src != addr("198.18.0.4") || p.Quoted != want {
		t.Errorf("the laptop receives an error from %v about %v, want from 198.18.0.4 about %v", p.Flow.Src, p.Quoted, want)
	}
}
