package vswitch

import (
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// TestStrictNetworkCutsBothDirections: in a strict network the removal or change of a rule cuts all
// connections that it admitted, incoming and outgoing, tracked and untracked, and no others.
func TestStrictNetworkCutsBothDirections(t *testing.T) {
	for _, protocol := range []ec2.Protocol{ec2.TCP, ec2.UDP} {
		for _, far := range []string{"10.0.2.0/24", "0.0.0.0/0"} {
			for name, change := range map[string]func(r ec2.Rule) []ec2.Rule{
				"taken away": func(ec2.Rule) []ec2.Rule { return nil },
				"changed": func(r ec2.Rule) []ec2.Rule {
					serial++
					r.Serial, r.From, r.To = serial, 81, 81 // the changed rule keeps its serial
					return []ec2.Rule{r}
				},
			} {
				for _, direction := range []ec2.Direction{ec2.Ingress, ec2.Egress} {
					b := newVPCBed(t)
					n := vpcNetwork(ours)
					n.Strict = true
					e := b.sw.Edit(b.generation)
					e.Network(n)
					b.sw.Publish(e)
					b.rules("db", anyIn(), anyOut())
					in, out := permit(protocol, 80, 80, far), permitOut(protocol, 80, 80, far)
					b.rules("vpc", in, out)
					came, went := b.talk(uint8(protocol), "4db", "2app", 1000, 80), b.talk(uint8(protocol), "2app", "4db", 1001, 80)
					came.open()
					went.open()
					if direction == ec2.Ingress {
						b.rules("vpc", append(change(in), out)...)
						came.isCut("came in, and its rule is " + name)
						went.goesOn("went out, and the ingress rule is " + name)
						b.rules("vpc", in, out)
						came.goesOn("came in, and its rule is back")
					} else {
						b.rules("vpc", append(change(out), in)...)
						went.isCut("went out, and its rule is " + name)
						came.goesOn("came in, and the egress rule is " + name)
						b.rules("vpc", in, out)
						went.goesOn("went out, and its rule is back")
					}
				}
			}
		}
	}
}

// TestChangeOfTrackingChecksConnectionsAgain: when a network becomes strict, a tracked connection
// whose rule is gone is cut with its next packet, and others go on. When the network is not strict any
// more, nothing that was cut comes back: neither a connection that was dropped meanwhile, nor one that
// sent nothing.
func TestChangeOfTrackingChecksConnectionsAgain(t *testing.T) {
	for _, protocol := range []ec2.Protocol{ec2.TCP, ec2.UDP} {
		b := newVPCBed(t)
		track := func(strict bool) {
			t.Helper()
			b.generation++
			n := vpcNetwork(ours)
			n.Strict, n.Reset = strict, b.generation
			e := b.sw.Edit(b.generation)
			e.Network(n)
			b.sw.Publish(e)
		}
		b.rules("db", anyIn(), anyOut())
		gone, kept := permit(protocol, 80, 80, "10.0.2.0/24"), permit(protocol, 22, 22, "10.0.2.0/24")
		b.rules("vpc", gone, kept, anyOut())
		talks := map[string]*talk{}
		for i, name := range []string{"dropped", "silent", "kept"} {
			talks[name] = b.talk(uint8(protocol), "4db", "2app", uint16(1000+i), 80)
			if name == "kept" {
				talks[name] = b.talk(uint8(protocol), "4db", "2app", uint16(1000+i), 22)
			}
			talks[name].open()
		}
		b.rules("vpc", kept, anyOut())
		talks["dropped"].goesOn("its rule was revoked while the network was not strict")
		track(true)
		talks["dropped"].isCut("the network became strict")
		talks["kept"].goesOn("the network became strict, and the rule is there")
		track(false)
		talks["dropped"].isCut("the network is not strict any more")
		talks["silent"].isCut("the network was strict, and it sent nothing then")
		talks["kept"].goesOn("the network is not strict any more")
		b.rules("vpc", anyOut())
		talks["kept"].goesOn("its rule was revoked when the network was not strict any more")
	}
}

// TestEchoReplyAfterAPingIsJudgedByItself: an echo reply or a timestamp that follows a ping of the
// same flow in a batch gets its own verdict, at the uplink and from a neighbour.
func TestEchoReplyAfterAPingIsJudgedByItself(t *testing.T) {
	b := newTestbed(t)
	b.rules("web", permit(ec2.ICMP, 8, -1, "203.0.113.25/32"))
	b.rules("app", permit(ec2.ICMP, 8, -1, "web"))
	for _, way := range []struct {
		from, to string
		frame    func(icmpType uint8) []byte
	}{
		{"uplink", "web", func(icmpType uint8) []byte {
			f := template(1, laptop, addr("198.18.0.4"), 7, 7)
			f.ICMPType = icmpType
			return outside(f)
		}},
		{"web", "app", func(icmpType uint8) []byte {
			f := template(1, addr("10.10.0.4"), addr("10.10.0.5"), 7, 7)
			f.ICMPType = icmpType
			return b.of("web", f)
		}},
	} {
		for _, icmpType := range []uint8{packet.ICMPEchoReply, packet.ICMPTimestamp, packet.ICMPTimestampReply} {
			b.expect(way.from, way.frame(packet.ICMPEcho), way.to, verdict.Forward)
			b.expect(way.from, way.frame(icmpType), way.to, verdict.NoRule)
		}
	}
}
