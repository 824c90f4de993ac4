package conntrack_test

import (
	"net/netip"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// Forget removes the connections of an address in the given zones only, because other
// networks may use the same address.
func TestForgetRemovesConnectionsOfAnAddress(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z, other := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	now := time.Second
	for _, zone := range []*conntrack.Zone{z, other} {
		handshake(t, zone, 40000, now)
	}
	kept := pkt(packet.ProtocolUDP, 1000, 53, 0)
	kept.Flow.Src = netip.MustParseAddr("203.0.113.26")
	if v := admit(z, kept, now, conntrack.Admission{Revision: rules}); v.Drops() {
		t.Fatalf("Admit returned verdict %v, want %v", v, verdict.Forward)
	}
	if n := tr.Forget([]*conntrack.Zone{z}, func(a netip.Addr) bool { return a == bob }); n != 1 {
		t.Errorf("Forget removed %d connections, want 1", n)
	}
	syn := pkt(packet.ProtocolTCP, 40000, 22, packet.ACK)
	expect(t, z, syn, now, rules, conntrack.New)
	expect(t, other, syn, now, rules, conntrack.Live)
	expect(t, z, kept, now, rules, conntrack.Live)
}

// After Forget a later fragment of the old datagram is an orphan.
func TestForgetRemovesFragmentsOfAnAddress(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	first := pkt(packet.ProtocolUDP, 1000, 53, 0)
	first.Fragment, first.HasL4, first.FragID, first.FragLen, first.MoreFollow = true, true, 7, 512, true
	last := pkt(packet.ProtocolUDP, 0, 0, 0)
	last.Fragment, last.FragID, last.FragOffset, last.FragLen = true, 7, 512, 100
	if v := z.AdmitFragment(first, conntrack.In, time.Second); v.Drops() {
		t.Fatalf("AdmitFragment returned verdict %v, want %v", v, verdict.Forward)
	}
	middle := *last
	middle.FragLen, middle.MoreFollow = 64, true
	if v := z.Fragment(&middle, conntrack.In, time.Second); v.Drops() {
		t.Fatalf("Fragment returned verdict %v, want %v", v, verdict.Forward)
	}
	last.FragOffset += 64
	tr.Forget([]*conntrack.Zone{z}, func(a netip.Addr) bool { return a == first.Flow.Src })
	if v := z.Fragment(last, conntrack.In, time.Second); !v.Drops() {
		t.Errorf("a later fragment of a forgotten datagram: verdict %v, want a drop", v)
	}
}

// Forget removes the connections that the address opened and those that others opened to
// it, and its incomplete datagrams of both directions.
func TestForgetMatchesEitherEnd(t *testing.T) {
	for _, gone := range []netip.Addr{bob, alice} { // the end that opened the connection, the other end
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		syn := handshake(t, z, 40000, 0)
		frag := func(from, to int, d conntrack.Direction) verdict.Verdict {
			p := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: from == 0, FragID: 7, FragOffset: from, FragLen: to - from, MoreFollow: true}
			if d == conntrack.Out {
				p.Flow = packettest.Reverse(p.Flow)
			}
			if p.HasL4 {
				return z.AdmitFragment(p, d, 0)
			}
			return z.Fragment(p, d, 0)
		}
		for _, d := range []conntrack.Direction{conntrack.In, conntrack.Out} {
			if v, w := frag(0, 64, d), frag(64, 128, d); v.Drops() || w.Drops() {
				t.Fatalf("two fragments that do not overlap: verdicts %v and %v, want them to pass", v, w)
			}
		}
		if n := tr.Forget([]*conntrack.Zone{z}, func(a netip.Addr) bool { return a == gone }); n != 1 {
			t.Errorf("forget %s: %d connections removed, want 1", gone, n)
		}
		for _, p := range []*packet.Packet{pkt(6, 40000, 22, packet.ACK), back(syn, packet.ACK)} {
			if got := observe(z, p, 0, rules).Status; got != conntrack.New {
				t.Errorf("forget %s: %v has status %v, want %v", gone, p, got, conntrack.New)
			}
		}
		for _, d := range []conntrack.Direction{conntrack.In, conntrack.Out} {
			if v := frag(128, 192, d); v != verdict.OrphanFragment {
				t.Errorf("forget %s: a later fragment in direction %v: verdict %v, want %v", gone, d, v, verdict.OrphanFragment)
			}
		}
	}
}

// Forget leaves connections and datagrams of other zones, also if they have the address.
func TestForgetLeavesFragmentsOfOtherZones(t *testing.T) {
	tr := open(t, conntrack.Config{})
	one, two := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	frag := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: true, FragID: 7, FragLen: 64, MoreFollow: true}
	one.AdmitFragment(frag, conntrack.In, 0)
	two.AdmitFragment(frag, conntrack.In, 0)
	tr.Forget([]*conntrack.Zone{one}, func(a netip.Addr) bool { return a == bob })
	frag.HasL4, frag.FragOffset = false, 64
	if v, w := one.Fragment(frag, conntrack.In, 0), two.Fragment(frag, conntrack.In, 0); v != verdict.OrphanFragment || w != verdict.Forward {
		t.Errorf("later fragments after Forget: %v in its zone, %v in another; want %v and %v", v, w, verdict.OrphanFragment, verdict.Forward)
	}
}

// ForgetAdopted removes the connections of an earlier process with addresses that have changed their
// owner, in zones that have not been added yet. They take no room afterwards.
func TestForgottenAdoptedConnectionsTakeNoRoom(t *testing.T) {
	c := inFile(t)
	tr := open(t, c)
	third := bob.Next()
	for epoch := range uint64(2) {
		z := tr.AddZone(epoch+1, conntrack.Timeouts{})
		for n := range uint16(20) {
			p := pkt(17, n, 53, 0)
			switch {
			case n < 4:
				p.Flow.Src = third
			case n < 10:
				p = back(p, 0) // alice asks
			}
			admit(z, p, 0, conntrack.Admission{Revision: rules})
			p = pkt(17, n, 80, 0)
			if n < 7 {
				p.Flow.Src = third
			}
			admit(z, p, 0, conntrack.Admission{Revision: rules, Untracked: true})
		}
	}
	tr, _ = crashed(t, c)
	added := tr.AddZone(2, conntrack.Timeouts{})
	want := added.Allowance().Available + 20 - 4 // the two zones differ by what is forgotten
	if n := tr.ForgetAdopted(func(epoch uint64, a netip.Addr) bool { return epoch == 1 && a == bob }); n != 16+13 {
		t.Errorf("ForgetAdopted removed %d connections, want 29", n)
	}
	if n := tr.ForgetAdopted(func(uint64, netip.Addr) bool { return false }); n != 0 {
		t.Errorf("ForgetAdopted without such an address removed %d connections, want 0", n)
	}
	if n := tr.ForgetAdopted(func(epoch uint64, a netip.Addr) bool { return epoch == 2 }); n != 0 {
		t.Errorf("ForgetAdopted removed %d connections of a zone that was added, want 0", n)
	}
	z := tr.AddZone(1, conntrack.Timeouts{})
	if got := z.Allowance().Available; got != want {
		t.Errorf("the zone of the forgotten connections can open %d, want %d", got, want)
	}
	if u := tr.Usage(); u.Tracked != 4+20 || u.Untracked != 7+20 {
		t.Errorf("usage %+v, want 24 tracked and 27 untracked connections", u)
	}
}
