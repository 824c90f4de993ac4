package conntrack_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

func TestLaterFragmentsFollowTheirFirst(t *testing.T) {
	frag := func(id uint16, from, to int, more bool) *packet.Packet {
		return &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: from == 0,
			FragID: id, FragOffset: from, FragLen: to - from, MoreFollow: more}
	}
	type step struct {
		p    *packet.Packet
		want verdict.Verdict
	}
	tests := map[string][]step{
		"in order":     {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 64, 128, true), verdict.Forward}, {frag(1, 128, 130, false), verdict.Forward}},
		"out of order": {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 128, 130, false), verdict.Forward}, {frag(1, 64, 128, true), verdict.Forward}},
		"no first":     {{frag(1, 64, 128, true), verdict.OrphanFragment}},
		"another id":   {{frag(1, 0, 64, true), verdict.Forward}, {frag(2, 64, 128, true), verdict.OrphanFragment}},
		"overlap":      {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 56, 120, true), verdict.OverlapFrag}, {frag(1, 120, 128, false), verdict.OverlapFrag}},
		"same twice":   {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 0, 64, true), verdict.OverlapFrag}},
		"two ends":     {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 128, 130, false), verdict.Forward}, {frag(1, 64, 120, false), verdict.OverlapFrag}},
		"past the end": {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 72, 80, false), verdict.Forward}, {frag(1, 80, 88, true), verdict.OverlapFrag}},
		"end before":   {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 128, 136, true), verdict.Forward}, {frag(1, 64, 72, false), verdict.OverlapFrag}},
		"after whole":  {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 64, 72, false), verdict.Forward}, {frag(1, 64, 72, false), verdict.OrphanFragment}},
		"id again": {{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 64, 72, false), verdict.Forward},
			{frag(1, 0, 64, true), verdict.Forward}, {frag(1, 64, 72, false), verdict.Forward}},
	}
	for name, steps := range tests {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		for i, s := range steps {
			got := z.Fragment
			if s.p.HasL4 {
				got = z.AdmitFragment
			}
			if v := got(s.p, conntrack.In, 0); v != s.want {
				t.Errorf("%s, step %d: verdict %v, want %v", name, i, v, s.want)
			}
		}
	}
	tr := open(t, conntrack.Config{})
	z, other := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	kept := 0
	for id := range 5000 {
		if z.AdmitFragment(frag(uint16(id), 0, 64, true), conntrack.In, 0) == verdict.Forward {
			kept++
		}
	}
	if kept != 1024 {
		t.Errorf("a zone has %d incomplete datagrams, want 1024", kept)
	}
	if v := z.AdmitFragment(frag(6000, 0, 64, true), conntrack.In, 0); v != verdict.FragmentsFull {
		t.Errorf("first fragment beyond the zone's limit of datagrams: verdict %v, want %v", v, verdict.FragmentsFull)
	}
	// A flood of first fragments takes no room from other zones. Complete datagrams take no
	// room.
	for id := range 200_000 {
		first, last := frag(uint16(id), 0, 64, true), frag(uint16(id), 64, 72, false)
		if v, w := other.AdmitFragment(first, conntrack.In, 0), other.Fragment(last, conntrack.In, 0); v != verdict.Forward || w != verdict.Forward {
			t.Fatalf("datagram %d during a flood of another zone: verdicts %v and %v, want %v", id, v, w, verdict.Forward)
		}
	}
	tr.Sweep(time.Minute)
	if v := z.AdmitFragment(frag(6000, 0, 64, true), conntrack.In, time.Minute); v != verdict.Forward {
		t.Errorf("first fragment after the flood has expired: verdict %v, want %v", v, verdict.Forward)
	}
}

// A datagram has a first fragment at the interface and another at the edge of its subnet.
func TestFragmentsAtTheEdgeHaveTheirOwnFirst(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	p := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: true, FragLen: 64, MoreFollow: true}
	later := *p
	later.HasL4, later.FragOffset = false, 64
	directions := []conntrack.Direction{conntrack.In, conntrack.Out, conntrack.In.AtEdge(), conntrack.Out.AtEdge()}
	for i, d := range directions {
		p.FragID, later.FragID = uint16(i), uint16(i)
		if v := z.AdmitFragment(p, d, 0); v != verdict.Forward {
			t.Errorf("the first fragment is %v, want %v", v, verdict.Forward)
		}
		for j, o := range directions {
			if v := z.Fragment(&later, o, 0); (v == verdict.Forward) != (i == j) {
				t.Errorf("a later fragment in direction %d, after a first one in direction %d, is %v", j, i, v)
			}
		}
	}
}

// A part is a fragment. It counts in units of eight bytes.
type part struct {
	from, to int
	more     bool
}

const modelUnits, modelGaps = 24, 4

// bitmap is the model of a datagram: the units that were received, and whether the datagram
// is lost. It is lost if a unit came twice, there are too many gaps, or fragments disagree
// about the end.
type bitmap struct {
	received [modelUnits]bool
	end      int // 0 until the last fragment was received
	lost     bool
}

// add receives a fragment and reports whether the datagram is complete.
func (b *bitmap) add(f part) (complete bool) {
	last, runs := 0, 0
	for u := range modelUnits {
		if b.received[u] {
			last = u + 1
		}
		b.lost = b.lost || b.received[u] && f.from <= u && u < f.to
	}
	switch {
	case f.more:
		b.lost = b.lost || b.end != 0 && f.to > b.end
	case b.end != 0 || last > f.to:
		b.lost = true
	default:
		b.end = f.to
	}
	for u := f.from; u < f.to; u++ {
		b.received[u] = true
	}
	for u := range modelUnits {
		if b.received[u] && (u == 0 || !b.received[u-1]) {
			runs++
		}
	}
	b.lost = b.lost || runs > modelGaps
	return !b.lost && runs == 1 && b.end != 0 && b.received[b.end-1] && b.end == max(last, f.to)
}

// randomParts cuts a datagram into a first fragment, and others in random order. In half of
// the cases one of those others does not fit the datagram.
func randomParts(r *rand.Rand) (parts []part) {
	for at := 1 + r.IntN(4); at < modelUnits; {
		to := min(modelUnits, at+1+r.IntN(6))
		parts = append(parts, part{at, to, to < modelUnits})
		at = to
	}
	first := part{0, parts[0].from, true}
	r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	if r.IntN(2) == 0 {
		from := r.IntN(modelUnits)
		foreign := part{from, from + 1 + r.IntN(modelUnits-from), r.IntN(4) > 0}
		parts = slices.Insert(parts, len(parts)/2, foreign)
	}
	return append([]part{first}, parts...)
}

// TestFragmentsMatchABitmapModel compares the verdicts of random datagrams with the model's.
func TestFragmentsMatchABitmapModel(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	whole, lost := 0, 0
	for seed := range uint64(20_000) {
		parts := randomParts(rand.New(rand.NewPCG(seed, 11)))
		now := time.Duration(seed) * time.Minute
		var model bitmap
		for i, f := range parts {
			complete := model.add(f)
			want := verdict.Forward
			if model.lost {
				want = verdict.OverlapFrag
			}
			p := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: f.from == 0,
				FragID: uint16(seed), FragOffset: f.from * 8, FragLen: (f.to - f.from) * 8, MoreFollow: f.more}
			judge := z.Fragment
			if p.HasL4 {
				judge = z.AdmitFragment
			}
			if got := judge(p, conntrack.In, now); got != want {
				t.Fatalf("seed %d, fragment %d %+v: verdict %v, want %v; all fragments %+v", seed, i, f, got, want, parts)
			}
			if complete {
				break // the complete datagram is removed, so it has no further fragments
			}
		}
		if model.lost {
			lost++
		} else {
			whole++
		}
		if seed%1000 == 999 {
			tr.Sweep(now)
		}
	}
	if whole < 1000 || lost < 1000 {
		t.Errorf("%d complete and %d lost datagrams, want at least 1000 of each", whole, lost)
	}
}

// A fragment between two others may touch both, and may overlap neither.
func TestOverlapWithEitherNeighbourIsDropped(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	for i, tt := range []struct {
		from, to int // bytes of the fragment; bytes 0-64 and 128-192 were received before
		want     verdict.Verdict
	}{
		{64, 128, verdict.Forward}, {64, 120, verdict.Forward}, {72, 128, verdict.Forward}, {72, 120, verdict.Forward},
		{64, 136, verdict.OverlapFrag}, {64, 192, verdict.OverlapFrag}, {64, 200, verdict.OverlapFrag},
		{56, 128, verdict.OverlapFrag}, {8, 128, verdict.OverlapFrag},
		{72, 136, verdict.OverlapFrag}, {72, 200, verdict.OverlapFrag}, {56, 120, verdict.OverlapFrag},
		{136, 144, verdict.OverlapFrag}, {184, 200, verdict.OverlapFrag}, {192, 200, verdict.Forward}, {200, 208, verdict.Forward},
	} {
		frag := func(from, to int) verdict.Verdict {
			p := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: from == 0, FragID: uint16(i), FragOffset: from, FragLen: to - from, MoreFollow: true}
			if p.HasL4 {
				return z.AdmitFragment(p, conntrack.In, 0)
			}
			return z.Fragment(p, conntrack.In, 0)
		}
		if v, w := frag(0, 64), frag(128, 192); v.Drops() || w.Drops() {
			t.Fatalf("two fragments that do not overlap: verdicts %v and %v, want them to pass", v, w)
		}
		if got := frag(tt.from, tt.to); got != tt.want {
			t.Errorf("fragment of bytes %d-%d: verdict %v, want %v", tt.from, tt.to, got, tt.want)
		}
	}
}

// A later fragment passes only after a first fragment with the same zone, direction,
// addresses, protocol and identification.
func TestFragmentMustMatchEveryFieldOfItsDatagram(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z, other := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	first := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: true, FragID: 7, FragLen: 64, MoreFollow: true}
	if v := z.AdmitFragment(first, conntrack.In, 0); v.Drops() {
		t.Fatalf("AdmitFragment returned verdict %v, want %v", v, verdict.Forward)
	}
	later := *first
	later.HasL4, later.FragOffset = false, 64
	third := netip.MustParseAddr("192.0.2.1")
	for name, tt := range map[string]struct {
		zone      *conntrack.Zone
		direction conntrack.Direction
		change    func(p *packet.Packet)
	}{
		"interface":      {other, conntrack.In, func(*packet.Packet) {}},
		"direction":      {z, conntrack.Out, func(*packet.Packet) {}},
		"source":         {z, conntrack.In, func(p *packet.Packet) { p.Flow.Src = third }},
		"destination":    {z, conntrack.In, func(p *packet.Packet) { p.Flow.Dst = third }},
		"both":           {z, conntrack.In, func(p *packet.Packet) { p.Flow = packettest.Reverse(p.Flow) }},
		"protocol":       {z, conntrack.In, func(p *packet.Packet) { p.Flow.Protocol = 6 }},
		"identification": {z, conntrack.In, func(p *packet.Packet) { p.FragID++ }},
	} {
		p := later
		tt.change(&p)
		if v := tt.zone.Fragment(&p, tt.direction, 0); v != verdict.OrphanFragment {
			t.Errorf("a later fragment with another %s: verdict %v, want %v", name, v, verdict.OrphanFragment)
		}
	}
	if v := z.Fragment(&later, conntrack.In, 29*time.Second); v.Drops() {
		t.Errorf("a later fragment of the datagram after 29 s: verdict %v, want %v", v, verdict.Forward)
	}
	later.FragOffset += 64
	if v := z.Fragment(&later, conntrack.In, 30*time.Second); v != verdict.OrphanFragment {
		t.Errorf("a later fragment of the datagram after 30 s: verdict %v, want %v", v, verdict.OrphanFragment)
	}
}

// When several zones together fill the table, further first fragments get the verdict
// FragmentsFull. Fragments of known datagrams still pass, and Sweep makes room again.
func TestFragmentTableIsBounded(t *testing.T) {
	tr := open(t, conntrack.Config{})
	first := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: true, FragLen: 64, MoreFollow: true}
	kept, refused := 0, 0
	var zones []*conntrack.Zone
	for i := range 6 {
		zones = append(zones, tr.AddZone(uint64(i+1), conntrack.Timeouts{}))
		for id := range 1 << 16 {
			first.FragID = uint16(id)
			switch v := zones[i].AdmitFragment(first, conntrack.In, 0); v {
			case verdict.FragmentsFull:
				refused++
			case verdict.Forward:
				kept++
			default:
				t.Fatalf("AdmitFragment returned verdict %v, want %v or %v", v, verdict.Forward, verdict.FragmentsFull)
			}
		}
	}
	if kept != 4096 || refused != 6<<16-4096 {
		t.Errorf("%d datagrams are kept and %d refused, want %d and %d", kept, refused, 4096, 6<<16-4096)
	}
	later := *first
	later.HasL4, later.FragOffset, later.FragID = false, 64, 5
	if v := zones[0].Fragment(&later, conntrack.In, 1); v.Drops() {
		t.Errorf("a later fragment of a known datagram: verdict %v, want %v", v, verdict.Forward)
	}
	tr.Sweep(time.Minute)
	if v := zones[5].AdmitFragment(first, conntrack.In, time.Minute); v.Drops() {
		t.Errorf("a first fragment after Sweep: verdict %v, want %v", v, verdict.Forward)
	}
}

// A lease may get another port, and so another zone. A later fragment of a datagram that the former
// zone admitted is an orphan there.
func TestRemovedZoneLeavesNoFragments(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z, other := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	frag := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: true, FragID: 7, FragLen: 64, MoreFollow: true}
	z.AdmitFragment(frag, conntrack.In, 0)
	other.AdmitFragment(frag, conntrack.In, 0)
	tr.RemoveZone(z)
	z = tr.AddZone(1, conntrack.Timeouts{})
	frag.HasL4, frag.FragOffset = false, 64
	if v, w := z.Fragment(frag, conntrack.In, 0), other.Fragment(frag, conntrack.In, 0); v != verdict.OrphanFragment || w != verdict.Forward {
		t.Errorf("later fragments: %v in the next zone of the lease, %v in another; want %v and %v", v, w, verdict.OrphanFragment, verdict.Forward)
	}
}
