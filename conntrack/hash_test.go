package conntrack

import (
	"net/netip"
	"testing"

	"palisade/internal/packet"
)

// Flows that share one chain in one tracker are spread over chains in another, so that
// nobody can know colliding flows beforehand.
func TestCollidingFlowsDoNotCollideInAnotherTracker(t *testing.T) {
	type place struct {
		shard  *shard
		bucket uint64
	}
	made := func() func(packet.Flow) place {
		tr, err := Open(Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tr.Close() })
		z := tr.AddZone(1, Timeouts{})
		return func(f packet.Flow) place {
			u := tr.tuple(f, 0)
			hash, s := tr.home(u.hash, z.salt)
			return place{s, hash & uint64(len(s.buckets)-1)}
		}
	}
	one, other := made(), made()
	chosen := map[place][]packet.Flow{}
	var worst []packet.Flow
	for n := range 1 << 20 {
		f := packet.Flow{Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(n >> 16)}), Dst: netip.AddrFrom4([4]byte{10, 1, 0, 1}), SrcPort: uint16(n), DstPort: 53, Protocol: packet.ProtocolUDP}
		p := one(f)
		if chosen[p] = append(chosen[p], f); len(chosen[p]) > len(worst) {
			worst = chosen[p]
		}
	}
	again := map[place]int{}
	most := 0
	for _, f := range worst {
		again[other(f)]++
		most = max(most, again[other(f)])
	}
	if len(worst) < 8 || most > 2 {
		t.Errorf("%d flows share one chain, and %d of them share one in another tracker; want at least 8, and at most 2", len(worst), most)
	}
}
