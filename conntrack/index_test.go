package conntrack

import (
	"math/rand/v2"
	"testing"
)

// An index that links and unlinks slots at random, so that most chains have several, agrees with a
// map of the slots' hashes. seek finds the only slot with a tag, and none without one.
func TestIndexMatchesAMap(t *testing.T) {
	const slots, hashes = 100, 40
	r := rand.New(rand.NewPCG(1, 1))
	x := newIndex(slots)
	if len(x.first) < slots || x.slots < slots {
		t.Fatalf("%d chains and mask %#x for %d slots", len(x.first), x.slots, slots)
	}
	some := make([]uint64, hashes)
	for i := range some {
		some[i] = r.Uint64()&^127 | uint64(r.IntN(4)) // four chains
	}
	linked := map[uint32]uint64{}
	for step := range 20_000 {
		slot := r.Uint32N(slots)
		if hash, ok := linked[slot]; ok {
			x.unlink(slot, hash)
			delete(linked, slot)
		} else if len(linked) < 60 {
			linked[slot] = some[r.IntN(hashes)]
			x.link(slot, linked[slot])
		}
		hash := some[r.IntN(hashes)]
		want := map[uint32]bool{}
		for slot, of := range linked {
			if of == hash {
				want[slot] = true
			}
		}
		got, place := map[uint32]bool{}, 0
		first := 0 // place of the first slot with the tag in its chain
		for link := *x.chain(hash); link != none; link = x.next[link&x.slots] {
			place++
			if link&^x.slots != x.tag(hash) {
				continue
			}
			if got[link&x.slots] = true; first == 0 {
				first = place
			}
		}
		if len(got) != len(want) {
			t.Fatalf("step %d: the chain of %#x has slots %v with its tag, want %v", step, hash, got, want)
		}
		for slot := range want {
			if !got[slot] {
				t.Fatalf("step %d: the chain of %#x has slots %v with its tag, want %v", step, hash, got, want)
			}
		}
		if near := first > 0 && first <= 8; near != got[x.seek(hash)] {
			t.Fatalf("step %d: seek of %#x returned %#x; the first slot with its tag is at place %d of %v", step, hash, x.seek(hash), first, got)
		}
	}
}
