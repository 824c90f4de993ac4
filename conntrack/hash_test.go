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
			return place{s, hash & uint64(len(s.index.first)-1)}
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

// Only the packets of a connection have a direction in it: each field of the key counts. In the table
// other connections hide this, because their hashes differ too.
func TestEveryFieldOfAKeyCounts(t *testing.T) {
	alice, bob, third := netip.MustParseAddr("10.0.0.4").As16(), netip.MustParseAddr("10.0.0.5").As16(), netip.MustParseAddr("10.0.0.6").As16()
	there := key{src: alice, dst: bob, srcPort: 40000, dstPort: 53, protocol: packet.ProtocolUDP, runs: neither}
	back := key{src: bob, dst: alice, srcPort: 53, dstPort: 40000, protocol: packet.ProtocolUDP, runs: neither}
	changes := map[string]func(*key){
		"source":           func(k *key) { k.src = third },
		"destination":      func(k *key) { k.dst = third },
		"both addresses":   func(k *key) { k.src, k.dst = k.dst, k.src },
		"source port":      func(k *key) { k.srcPort++ },
		"destination port": func(k *key) { k.dstPort++ },
		"both ports":       func(k *key) { k.srcPort, k.dstPort = k.dstPort, k.srcPort },
		"protocol":         func(k *key) { k.protocol = packet.ProtocolTCP },
	}
	for opened, f := range map[Direction]flags{In: fromOutside, Out: 0} {
		e := &entry{src: alice, dst: bob, srcPort: 40000, dstPort: 53, protocol: packet.ProtocolUDP, flags: f}
		for w, k := range map[way]key{original: there, reply: back} {
			d := opened
			if w == reply {
				d = opened.opposite()
			}
			if got := e.wayOf(&k, d); got != w {
				t.Errorf("opened %v: direction %d of the connection is %d", opened, w, got)
			}
			if got := e.wayOf(&k, d.opposite()); got != neither {
				t.Errorf("opened %v: direction %d of the connection, crossing %v, is %d; want neither", opened, w, d.opposite(), got)
			}
			for name, change := range changes {
				other := k
				change(&other)
				if got := e.wayOf(&other, d); got != neither {
					t.Errorf("opened %v: direction %d of the connection with another %s is %d; want neither", opened, w, name, got)
				}
			}
			// The type of an ICMP message has one direction only.
			k.runs = 1 - w
			if got := e.wayOf(&k, d); got != neither {
				t.Errorf("opened %v: a message of direction %d is one of direction %d", opened, k.runs, got)
			}
		}
	}
}

// The place of a hash differs from that of a hash with any other bit, so that the salt of a zone adds no
// collisions. Hashes that differ in their last bits alone are spread over all shards.
func TestHomeAddsNoCollisions(t *testing.T) {
	tr, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	const random = 0x6a09e667f3bcc908
	places, shards := map[uint64]bool{}, map[*shard]bool{}
	for _, h := range []uint64{0, random} {
		for bit := range 64 {
			place, _ := tr.home(h^1<<bit, 3)
			places[place] = true
		}
	}
	for n := range uint64(1000) {
		_, s := tr.home(random+n, 3)
		shards[s] = true
	}
	if len(places) != 2*64 || len(shards) != shardCount {
		t.Errorf("%d places of 128 hashes, in %d shards; want 128 and %d", len(places), len(shards), shardCount)
	}
}
