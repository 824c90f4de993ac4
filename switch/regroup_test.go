package vswitch

import (
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// A talk is one TCP connection, or UDP exchange, between two interfaces of a testbed.
type talk struct {
	b              *testbed
	client, server string
	there, back    packettest.Frame
}

func (b *testbed) talk(protocol uint8, client, server string, clientPort, serverPort uint16) *talk {
	there := template(protocol, b.owners[client].Address, b.owners[server].Address, clientPort, serverPort)
	return &talk{b: b, client: client, server: server, there: there, back: reply(there, packet.ACK)}
}

// open sends the first packets, up to the first answer.
func (k *talk) open() {
	k.b.t.Helper()
	k.b.expect(k.client, to(k.client, GatewayMAC, k.there), k.server, verdict.Forward)
	k.back.TCPFlags = packet.SYN | packet.ACK
	k.b.expect(k.server, to(k.server, GatewayMAC, k.back), k.client, verdict.Forward)
	k.there.TCPFlags, k.back.TCPFlags = packet.ACK, packet.ACK
}

// goesOn sends a packet in each direction, and expects both to be delivered.
func (k *talk) goesOn(what string) {
	k.b.t.Helper()
	for _, f := range k.frames() {
		if at, v := k.b.send(f.from, f.frame); v != verdict.Forward {
			k.b.t.Errorf("%s: a packet from %s is %v at %s, want %v", what, f.from, v, at, verdict.Forward)
		}
	}
}

// isCut sends packets in both directions, the server first, and expects none to be delivered.
func (k *talk) isCut(what string) {
	k.b.t.Helper()
	for range 3 {
		for _, f := range k.frames() {
			if at, v := k.b.send(f.from, f.frame); v == verdict.Forward {
				k.b.t.Errorf("%s: a packet from %s was delivered at %s, want it dropped", what, f.from, at)
			}
		}
	}
}

func (k *talk) frames() []struct {
	from  string
	frame []byte
} {
	return []struct {
		from  string
		frame []byte
	}{{k.server, to(k.server, GatewayMAC, k.back)}, {k.client, to(k.client, GatewayMAC, k.there)}}
}

// TestGroupChangeKeepsTrackedConnections: when an interface leaves a group, tracked connections
// stay, untracked ones that the group admitted are cut in both directions, and new ones are checked
// against the new groups. This holds even if another interface has had the new set of groups for
// long.
func TestGroupChangeKeepsTrackedConnections(t *testing.T) {
	for _, protocol := range []uint8{6, 17} {
		for _, known := range []bool{false, true} {
			b := newVPCBed(t)
			if known {
				b.regroup("1web", "other")
			}
			b.rules("other", anyOut())
			b.rules("vpc", permit(ec2.Protocol(protocol), 80, 80, "0.0.0.0/0"), permit(ec2.Protocol(protocol), 22, 22, "10.0.2.0/24"), anyOut())
			untracked, tracked := b.talk(protocol, "4db", "2app", 1000, 80), b.talk(protocol, "4db", "2app", 1001, 22)
			untracked.open()
			tracked.open()

			b.regroup("2app", "other")
			untracked.isCut("untracked")
			tracked.goesOn("tracked")
			b.expect("4db", to("4db", GatewayMAC, template(protocol, addr("10.0.2.10"), addr("10.0.1.20"), 1002, 22)), "2app", verdict.NoRule)

			// The untracked connection stays cut after a change of rules and of addresses, and goes
			// on when a change of groups brings the rule back.
			b.rules("other", permit(ec2.ICMP, -1, -1, "0.0.0.0/0"), anyOut())
			b.change("2app", func(o *Endpoint) { o.Public = addr("198.18.1.21") })
			untracked.isCut("untracked, later")
			tracked.goesOn("tracked, later")
			b.regroup("2app", "other", "vpc")
			untracked.goesOn("untracked, with its group again")
			b.regroup("2app", "vpc")
			untracked.goesOn("untracked, with its group kept")
			tracked.goesOn("tracked, at last")
		}
	}
}

// TestMembershipChangeAppliesToOtherInterfaces: a rule with a group as source admits its current
// members.
func TestMembershipChangeAppliesToOtherInterfaces(t *testing.T) {
	b := newVPCBed(t)
	b.rules("db", permit(ec2.TCP, 3306, 3306, "vpc"), anyOut())
	syn := func(port uint16) []byte {
		return to("1web", GatewayMAC, template(6, addr("10.0.1.10"), addr("10.0.2.10"), port, 3306))
	}
	k := b.talk(6, "1web", "4db", 1, 3306)
	k.open()
	b.regroup("1web", "other")
	b.expect("1web", syn(2), "4db", verdict.NoRule)
	k.goesOn("a tracked connection of a former member")
	b.regroup("1web", "other", "vpc")
	b.expect("1web", syn(2), "4db", verdict.Forward)
}

// TestStrictNetworkCutsFormerMembers: in a strict network the loss of a membership cuts the
// connections that it admitted.
func TestStrictNetworkCutsFormerMembers(t *testing.T) {
	b := newVPCBed(t)
	n := vpcNetwork(ours)
	n.Strict = true
	e := b.sw.Edit(b.generation)
	e.Network(n)
	b.sw.Publish(e)
	b.rules("db", permit(ec2.TCP, 3306, 3306, "vpc"), anyOut())
	k := b.talk(6, "1web", "4db", 1, 3306)
	k.open()
	b.regroup("1web", "other")
	e = b.sw.Edit(b.generation)
	e.Attach(b.ports["4db"], ours, Attachment{Endpoint: b.owners["4db"], Zone: b.zones["4db"], Rules: b.sets["4db"], Lost: b.generation})
	b.sw.Publish(e)
	k.isCut("of a former member")
}

// TestEgressAndIngressMustBothAdmit: a packet that the sender's rules admit still needs a rule of
// the receiver, and the other way round.
func TestEgressAndIngressMustBothAdmit(t *testing.T) {
	b := newVPCBed(t)
	web, app := addr("10.0.1.10"), addr("10.0.1.20")
	syn := func(port uint16) []byte { return to("1web", macOf("2app"), template(6, web, app, 1, port)) }
	b.rules("vpc", permitOut(ec2.TCP, 80, 81, "vpc"), permit(ec2.TCP, 81, 82, "vpc"))
	b.expect("1web", syn(80), "2app", verdict.NoRule) // a member of the same group in the same subnet
	b.expect("1web", syn(81), "2app", verdict.Forward)
	b.expect("1web", syn(82), "1web", verdict.NoRule)
	b.expect("1web", syn(83), "1web", verdict.NoRule)
	b.expect("1web", to("1web", GatewayMAC, template(6, web, laptop, 1, 81)), "1web", verdict.NoRule)
	b.rules("vpc", permitOut(ec2.TCP, 443, 443, "203.0.113.0/24"))
	b.expect("1web", to("1web", GatewayMAC, template(6, web, laptop, 1, 443)), "uplink", verdict.Forward)
	b.expect("1web", to("1web", GatewayMAC, template(6, web, addr("192.0.2.1"), 1, 443)), "1web", verdict.NoRule)
	// An egress rule also decides about an interface of another VPC. The rule names its public
	// address, as for any other host.
	b.rules("theirs", anyIn())
	b.rules("vpc", permitOut(ec2.TCP, 22, 22, "198.18.1.50/32"))
	b.expect("1web", to("1web", GatewayMAC, template(6, web, addr("198.18.1.50"), 1, 22)), "5web", verdict.Forward)
	b.expect("1web", to("1web", GatewayMAC, template(6, web, addr("198.18.1.50"), 1, 23)), "1web", verdict.NoRule)
}

// TestRepliesNeedNoEgressRule: without egress rules a server answers the hosts that its rules
// admit, also if they admit all addresses, and opens no connection itself.
func TestRepliesNeedNoEgressRule(t *testing.T) {
	for _, protocol := range []uint8{6, 17} {
		b := newVPCBed(t)
		b.rules("db", anyOut())
		b.rules("vpc", permit(ec2.Protocol(protocol), 80, 80, "0.0.0.0/0"), permit(ec2.Protocol(protocol), 22, 22, "10.0.2.0/24"))
		for _, port := range []uint16{80, 22} {
			k := b.talk(protocol, "4db", "2app", 1, port)
			k.open()
			k.goesOn("without egress")
		}
		in := template(protocol, laptop, addr("198.18.1.20"), 40000, 80)
		b.expect("uplink", outside(in), "2app", verdict.Forward)
		answer := template(protocol, addr("10.0.1.20"), laptop, 80, 40000)
		answer.TCPFlags = packet.SYN | packet.ACK
		b.expect("2app", to("2app", GatewayMAC, answer), "uplink", verdict.Forward)
		b.expect("2app", to("2app", GatewayMAC, template(protocol, addr("10.0.1.20"), addr("10.0.2.10"), 2, 80)), "2app", verdict.NoRule)
		b.expect("2app", to("2app", GatewayMAC, template(protocol, addr("10.0.1.20"), laptop, 2, 80)), "2app", verdict.NoRule)
	}
}

// TestRevokedEgressKeepsTrackedConnections: a tracked connection stays. An untracked one is cut,
// because its answers were admitted by a rule that is gone (EC2 User Guide, "Untracked
// connections").
func TestRevokedEgressKeepsTrackedConnections(t *testing.T) {
	b := newVPCBed(t)
	in := permit(ec2.TCP, 80, 80, "0.0.0.0/0")
	narrow := permit(ec2.TCP, 22, 22, "10.0.2.0/24")
	b.rules("db", anyOut())
	b.rules("vpc", in, narrow, anyOut())
	untracked, tracked, asked := b.talk(6, "4db", "2app", 1, 80), b.talk(6, "4db", "2app", 1, 22), b.talk(6, "2app", "4db", 1, 5432)
	b.rules("db", permit(ec2.TCP, 5432, 5432, "vpc"), anyOut())
	untracked.open()
	tracked.open()
	asked.open()
	b.rules("vpc", in, narrow)
	tracked.goesOn("tracked")
	asked.goesOn("asked by itself")
	for range 2 {
		b.expect("2app", to("2app", GatewayMAC, untracked.back), "2app", verdict.NoRule)
		b.expect("4db", to("4db", GatewayMAC, untracked.there), "2app", verdict.Forward) // the rules of 4db admit it
	}
}
