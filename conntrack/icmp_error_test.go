package conntrack_test

import (
	"net/netip"
	"testing"

	"palisade/conntrack"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
)

func TestICMPErrorNeedsItsConnection(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	about := func(quoted packet.Flow, to netip.Addr, icmpType uint8) *packet.Packet {
		return &packet.Packet{Flow: packet.Flow{Src: bob, Dst: to, Protocol: 1}, ICMPType: icmpType, IsICMPError: true, HasQuoted: true, Quoted: quoted}
	}
	sent := packettest.Reverse(syn.Flow) // what alice sent
	other := sent
	other.DstPort++
	tests := []struct {
		name string
		p    *packet.Packet
		want bool
	}{
		{"unreachable about its own packet", about(sent, alice, 3), true},
		{"time exceeded", about(sent, alice, 11), true},
		{"redirect", about(sent, alice, 5), false},
		{"another port", about(other, alice, 3), false},
		{"quoting what alice did not send", about(syn.Flow, alice, 3), false},
		{"to another address of the interface", about(sent, alice.Next(), 3), false},
	}
	for _, tt := range tests {
		if got := z.Related(tt.p, direction(tt.p), 0, rules); got != tt.want {
			t.Errorf("%s: Related returned %t, want %t", tt.name, got, tt.want)
		}
	}
}

// An error about a blocked or an untracked connection is not related.
func TestICMPErrorAboutABlockedConnectionIsNotRelated(t *testing.T) {
	about := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 1}, ICMPType: packet.ICMPUnreachable, IsICMPError: true, HasQuoted: true, Quoted: packettest.Reverse(pkt(6, 40000, 22, 0).Flow)}
	strict := conntrack.Revision{Generation: 9, Shrunk: 9, Strict: true}

	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	if z.Related(about, direction(about), 0, rules) {
		t.Error("an error about no connection is related")
	}
	handshake(t, z, 40000, 0)
	if !z.Related(about, direction(about), 0, rules) {
		t.Error("an error about a live connection is not related")
	}
	rejudge(z, pkt(6, 40000, 22, packet.ACK), 0, strict, false, 0)
	if z.Related(about, direction(about), 0, rules) {
		t.Error("an error about a blocked connection is related")
	}

	z = open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	admit(z, back(pkt(6, 40000, 22, 0), packet.SYN|packet.ACK), 0, conntrack.Admission{Revision: rules, Untracked: true, Reversed: true})
	if z.Related(about, direction(about), 0, rules) {
		t.Error("an error about an untracked connection is related")
	}
}
