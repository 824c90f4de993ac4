package vswitch

import (
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// onField returns a testbed, and the addresses of its instances for packettest.Threats: web attacks
// app, and lone is the group member that web pretends to be.
func onField(t *testing.T) (*testbed, packettest.Field) {
	t.Helper()
	b := newTestbed(t)
	b.rules("app", permit(ec2.TCP, 22, 22, "0.0.0.0/0"))
	host := func(name string) packettest.Host {
		return packettest.Host{MAC: macOf(name), Addr: b.owners[name].Address}
	}
	return b, packettest.Field{
		Attacker: host("web"), Victim: host("app"), Member: host("lone"),
		Gateway: packettest.Host{MAC: GatewayMAC, Addr: addr("10.0.0.1")}, Unused: addr("10.10.9.9"), Open: 22,
	}
}

// isFate reports whether a frame that came in at a port had the verdict that a threat names.
func isFate(want, in, victim, at string, v verdict.Verdict) bool {
	name, place, _ := strings.Cut(want, " at ")
	if place == "victim" {
		in = victim
	}
	return v.String() == name && at == in
}

// TestThreatsAreDroppedWithinOneNode sends each frame of the corpus from one instance to another of the
// same node. No device is written to, not even the attacker's.
func TestThreatsAreDroppedWithinOneNode(t *testing.T) {
	b, field := onField(t)
	all := packettest.Threats(field)
	for _, threat := range all {
		if at, v := b.send("web", threat.Frame); !isFate(threat.SameNode, "web", "app", at, v) {
			t.Errorf("%s, %s: %v at %s, want %s\n% x", threat.ID, threat.Name, v, at, threat.SameNode, threat.Frame[:min(len(threat.Frame), 60)])
		}
	}
	for name, d := range b.devices {
		if d.count > 0 {
			t.Errorf("%s received %d hostile frames, want 0", name, d.count)
		}
	}
	if u := b.tracker.Usage(); u.Tracked > len(all) {
		t.Errorf("after %d frames the usage is %+v, want at most one tracked connection for each", len(all), u)
	}
	b.expect("web", b.of("web", template(6, field.Attacker.Addr, field.Victim.Addr, 40000, 22)), "app", verdict.Forward)
}

// TestThreatsAreDroppedAcrossNodes: the attacker's node is taken over. It checks nothing, and sends
// every frame of the corpus as each interface that it has or pretends to have.
func TestThreatsAreDroppedAcrossNodes(t *testing.T) {
	b, field := onField(t)
	b.tunnel(1406)
	field.Attacker = packettest.Host{MAC: macOf("far"), Addr: addr("10.10.0.7")}
	own := packet.Origin{Node: 2, VNI: 1, Epoch: 7}
	all := packettest.Threats(field)
	for _, threat := range all {
		if at, v := b.come(own, threat.Frame); !isFate(threat.OtherNode, "tunnel", "app", at, v) {
			t.Errorf("%s, %s: %v at %s, want %s\n% x", threat.ID, threat.Name, v, at, threat.OtherNode, threat.Frame[:min(len(threat.Frame), 60)])
		}
	}
	honest := template(6, field.Attacker.Addr, field.Victim.Addr, 40000, 22)
	honest.SrcMAC, honest.DstMAC = field.Attacker.MAC, GatewayMAC
	// A frame that names an interface that the sending node does not have is dropped, even an
	// honest one.
	for what, origin := range map[string]packet.Origin{
		"another node's interface": {Node: 3, VNI: 1, Epoch: 7}, "a lease that is over": {Node: 2, VNI: 1, Epoch: 6}, "an interface of the receiver": {Node: 2, VNI: 1, Epoch: 2},
		"a network that is not here": {Node: 2, VNI: 9, Epoch: 7}, "no node": {VNI: 1, Epoch: 7},
	} {
		for _, frame := range append([]packettest.Threat{{Name: "an honest frame", Frame: packettest.Build(honest)}}, all...) {
			if _, v := b.come(origin, frame.Frame); !v.Drops() {
				t.Errorf("%s, sent as %s: %v, want it dropped", frame.Name, what, v)
			}
		}
	}
	for name, d := range b.devices {
		if d.count > 0 {
			t.Errorf("%s received %d hostile frames, want 0", name, d.count)
		}
	}
	if at, v := b.come(own, packettest.Build(honest)); at != "app" || v != verdict.Forward {
		t.Errorf("an honest frame: %v at %s, want %v at app", v, at, verdict.Forward)
	}
}
