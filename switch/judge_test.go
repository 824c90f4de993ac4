package vswitch

import (
	"net/netip"
	"testing"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// TestErrorOfNoConnectionNeedsARule: that admits errors of its type, and about a packet that its receiver
// has sent; or one that admits what it quotes, in both directions and from all addresses.
func TestErrorOfNoConnectionNeedsARule(t *testing.T) {
	const icmp, tcp, udp = packet.ProtocolICMP, packet.ProtocolTCP, packet.ProtocolUDP
	errors, echo := permit(ec2.ICMP, 3, -1, "0.0.0.0/0"), permit(ec2.ICMP, int(packet.ICMPEcho), 0, "0.0.0.0/0")
	web, egress := permit(ec2.TCP, 80, 80, "0.0.0.0/0"), anyOut()
	dns := permit(ec2.UDP, 53, 53, "0.0.0.0/0")
	own, others := "198.18.1.20", "198.18.1.10"
	for name, tt := range map[string]struct {
		rules    []ec2.Rule
		protocol uint8 // of the quoted packet; 0: nothing can be read of it
		src      string
		port     uint16 // it was sent from
		want     verdict.Verdict
	}{
		"a rule for errors":                        {[]ec2.Rule{errors}, udp, own, 7, verdict.Forward},
		"a rule for errors, about another's":       {[]ec2.Rule{errors}, udp, others, 7, verdict.NoConnection},
		"a rule for errors, about nothing":         {[]ec2.Rule{errors}, 0, "", 0, verdict.Forward},
		"no rule":                                  {nil, udp, own, 53, verdict.NoConnection},
		"no rule, about nothing":                   {nil, 0, "", 0, verdict.NoConnection},
		"about an answer of an untracked port":     {[]ec2.Rule{web, egress}, tcp, own, 80, verdict.Forward},
		"about a datagram of one":                  {[]ec2.Rule{dns, egress}, udp, own, 53, verdict.Forward},
		"about another port":                       {[]ec2.Rule{web, egress}, tcp, own, 81, verdict.NoConnection},
		"about another protocol":                   {[]ec2.Rule{web, egress}, udp, own, 80, verdict.NoConnection},
		"about another's answer":                   {[]ec2.Rule{web, egress}, tcp, others, 80, verdict.NoConnection},
		"about a port whose answers are tracked":   {[]ec2.Rule{web, permitOut(ec2.TCP, 443, 443, "0.0.0.0/0")}, tcp, own, 80, verdict.NoConnection},
		"about a port that some may use":           {[]ec2.Rule{permit(ec2.TCP, 80, 80, "203.0.113.0/24"), egress}, tcp, own, 80, verdict.NoConnection},
		"about a ping whose number looks like one": {[]ec2.Rule{echo, egress}, icmp, own, uint16(packet.ICMPEcho) << 8, verdict.NoConnection},
	} {
		b := newVPCBed(t)
		b.rules("vpc", tt.rules...)
		quoted := make([]byte, 14+28)
		if tt.protocol != 0 {
			f := template(tt.protocol, addr(tt.src), laptop, tt.port, 40000)
			if f.ICMPType = packet.ICMPEchoReply; tt.protocol == icmp {
				f.Flow.DstPort = tt.port
			}
			quoted = packettest.Build(f)
		}
		frame := packettest.ICMPError(packet.ICMPUnreachable, 1, laptop, addr(own), quoted, routerMAC, upMAC)
		if at, v := b.send("uplink", frame); at != "2app" || v != tt.want {
			t.Errorf("%s: %v at %s, want %v at 2app", name, v, at, tt.want)
		}
	}
}

// TestTraceOfAFragmentAdmitsNoOther: the first fragment of a datagram is traced as any packet, and nothing
// is known of it afterwards.
func TestTraceOfAFragmentAdmitsNoOther(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.UDP, 53, 53, "203.0.113.25/32"))
	f := template(17, laptop, addr("198.18.0.4"), 4000, 53)
	f.FragID, f.MoreFollow, f.Payload = 7, true, make([]byte, 1472)
	if tr := b.sw.Trace(b.ports["uplink"], outside(f)); tr.Verdict != verdict.Forward {
		t.Errorf("the trace of a first fragment ends with %v, want %v", tr.Verdict, verdict.Forward)
	}
	f.FragOffset, f.MoreFollow, f.Payload = 1480, false, make([]byte, 100)
	b.frame.now = monotonic() // as the trace
	b.expect("uplink", outside(f), "web", verdict.OrphanFragment)
	if tr := b.sw.Trace(b.ports["uplink"], outside(f)); tr.Verdict != verdict.OrphanFragment || len(tr.Steps) != 1 || tr.Steps[0].Verdict != verdict.OrphanFragment {
		t.Errorf("the trace of a later fragment is %+v, want %v", tr, verdict.OrphanFragment)
	}
}

// TestTraceOfARevokedConnectionNamesTheRules: those that no longer admit it. It cuts nothing.
func TestTraceOfARevokedConnectionNamesTheRules(t *testing.T) {
	for _, revoked := range []bool{false, true} {
		b := newVPCBed(t)
		b.frame.now = monotonic()
		b.rules("vpc", anyIn(), anyOut())
		b.rules("db", anyIn(), anyOut())
		k := b.talk(packet.ProtocolUDP, "4db", "2app", 1000, 80)
		k.open()
		rules, want := []ec2.Rule{permit(ec2.UDP, 80, 80, "0.0.0.0/0"), anyOut()}, verdict.Forward
		if revoked {
			rules, want = []ec2.Rule{permit(ec2.UDP, 81, 81, "0.0.0.0/0"), anyOut()}, verdict.Revoked
		}
		b.rules("vpc", rules...)
		for range 2 {
			tr := b.sw.Trace(b.ports["4db"], to("4db", GatewayMAC, k.there))
			if len(tr.Steps) != 2 {
				t.Fatalf("the trace is %+v, want two steps", tr)
			}
			last := tr.Steps[1]
			if tr.Verdict != want || tr.At != b.ports["2app"] || last.Connection.Status != conntrack.Stale || !last.Asked || last.Table != b.sets["2app"].Ingress || last.Key != 80 || last.Peer.Addr != k.there.Flow.Src {
				t.Errorf("revoked: %v: the trace ends with %v after %+v, want %v by the receiver's rules", revoked, tr.Verdict, last, want)
			}
		}
	}
}

// TestPacketsOfAHalfChangedStateAreDropped: the Snapshot may lack an uplink, the network of a public
// address, or the tunnel that a frame comes from.
func TestPacketsOfAHalfChangedStateAreDropped(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	b.tunnel(1500)
	device := &pipe{fd: b.devices["lone"].fd}
	former := &Port{name: "former", kind: TunnelPort, end: device, tunnel: device, index: 99}
	b.ports["former"] = former
	far := to("far", GatewayMAC, template(17, addr("10.10.0.7"), addr("10.10.0.5"), 1, 53))
	b.frame.origin = packet.Origin{Node: 2, VNI: 1, Epoch: 7}
	b.expect("tunnel", far, "app", verdict.Forward)
	b.expect("former", far, "former", verdict.NotReady)
	b.expect("tunnel", to("far", macOf("app"), template(17, addr("10.10.0.7"), addr("10.10.0.5"), 2, 53)), "app", verdict.Forward)
	b.expect("tunnel", to("far", macOf("lone"), template(17, addr("10.10.0.7"), addr("10.10.0.5"), 3, 53)), "tunnel", verdict.WrongMAC)
	b.expect("tunnel", to("far", macOf("app"), template(17, addr("198.18.0.7"), addr("10.10.0.5"), 3, 53)), "tunnel", verdict.WrongMAC)

	in := outside(template(17, laptop, addr("198.18.1.50"), 1, 53))
	out := b.of("web", template(17, addr("10.10.0.4"), laptop, 1, 53))
	b.expect("uplink", in, "5web", verdict.Forward)
	b.expect("web", out, "uplink", verdict.Forward)
	e := b.sw.Edit(b.generation)
	e.RemoveNetwork(theirs)
	b.sw.Publish(e)
	b.expect("uplink", in, "uplink", verdict.BadSource)
	e = b.sw.Edit(b.generation)
	e.Uplink(nil)
	b.sw.Publish(e)
	b.expect("web", out, "web", verdict.NoRoute)
}

// TestRulesOfOthersDoNotRegroupAnInterface: it is attached again after each change, and its connections are
// checked again only after a change that concerns it.
func TestRulesOfOthersDoNotRegroupAnInterface(t *testing.T) {
	b := newTestbed(t)
	web := func() conntrack.Revision { return b.sw.Snapshot().Attachment(b.ports["web"]).revision }
	first := web()
	b.rules("app", anyIn())
	if got := web(); got != first {
		t.Errorf("after a change of another group the revision is %+v, want %+v", got, first)
	}
	b.view["third"] = &ec2.Group{ID: "third", Name: "third"}
	b.regroup("web", "web", "third")
	if got := web(); got.Generation != b.generation || got.Shrunk != b.generation {
		t.Errorf("after a change of the interface's groups the revision is %+v, want generation %d", got, b.generation)
	}
	e := b.sw.Edit(b.generation + 1)
	e.Network(Network{VNI: 1, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Gateway: addr("10.0.0.1"), MTU: 1500, Strict: true, Reset: b.generation + 1})
	b.sw.Publish(e)
	if got := web(); got.Reset != b.generation+1 || !got.Strict {
		t.Errorf("after a change of the network the revision is %+v, want strict since %d", got, b.generation+1)
	}
}

// TestTraceOfAKnownConnectionAsksNoRule: the rules admitted it before. The answers in an untracked connection
// need a rule of their own.
func TestTraceOfAKnownConnectionAsksNoRule(t *testing.T) {
	for name, tt := range map[string]struct {
		source      string // of the server's rule
		there, back conntrack.Status
		asked       bool // for an answer
	}{
		"tracked":   {"10.0.2.10/32", conntrack.Live, conntrack.Live, false},
		"untracked": {"0.0.0.0/0", conntrack.Checked, conntrack.Checked, true},
	} {
		b := newVPCBed(t)
		b.frame.now = monotonic()
		b.rules("vpc", permit(ec2.UDP, 80, 80, tt.source), anyOut())
		k := b.talk(packet.ProtocolUDP, "4db", "2app", 1000, 80)
		k.open()
		k.goesOn(name)
		there := b.sw.Trace(b.ports["4db"], to("4db", GatewayMAC, k.there)).Steps[1]
		back := b.sw.Trace(b.ports["2app"], to("2app", GatewayMAC, k.back)).Steps[0]
		if there.Connection.Status != tt.there || there.Asked || back.Connection.Status != tt.back || back.Asked != tt.asked {
			t.Errorf("%s: at the server a packet is %+v and an answer %+v", name, there, back)
		}
	}
}
