package vswitch

import (
	"maps"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet/packettest"
)

// TestHostileFramesReachNobody sends every kind of frame that has no business in a network,
// and some that only lack a rule, to a victim that admits tcp 22. Each must be counted
// under its own verdict; the victim's kernel must see none.
func TestHostileFramesReachNobody(t *testing.T) {
	w := newWire(t, kernelHeader, permit(ec2.TCP, 22, 22, "0.0.0.0/0"))
	tests := packettest.Hostile(
		packettest.Party{MAC: attackerMAC, Address: attackerIP}, packettest.Party{MAC: victimMAC, Address: victimIP}, GatewayMAC)
	seen := fates{}
	for _, tt := range tests {
		if err := w.send(tt.Frame); err != nil {
			t.Errorf("%s: the attacker's kernel refuses it: %v", tt.Name, err)
			continue
		}
		seen[tt.Want]++
		if got := w.settled(tt.Want, seen[tt.Want]); !maps.Equal(got, seen) {
			t.Fatalf("%s: fates %v, want %v\n% x", tt.Name, got, seen, tt.Frame[:min(len(tt.Frame), 60)])
		}
	}
	if n := w.received(); n != 0 {
		t.Errorf("the victim's eth0 received %d packets", n)
	}
	// The count is one of packets that arrive.
	syn := template(6, attackerIP, victimIP, 40000, 22)
	syn.SrcMAC, syn.DstMAC = attackerMAC, GatewayMAC
	if err := w.send(packettest.Build(syn)); err != nil {
		t.Fatal(err)
	}
	w.settled("forward at victim", 1)
	if n := w.received(); n != 1 {
		t.Errorf("of one packet that the rule admits the victim's eth0 received %d", n)
	}
}
