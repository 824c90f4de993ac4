package conntrack

import (
	"math/bits"
	"sync/atomic"

	"palisade/internal/failpoint"
)

// none ends a chain and a free list. It is no link, because no slot's number has all bits set.
const none = ^uint32(0)

// An index finds the slots of a shard by the hash of their entries. The entries with equal low
// bits of the hash are a chain of links. A link is a slot's number, and in the bits above it a tag:
// further bits of the hash of the slot's entry. A lookup reads no entry with another tag, because
// among many connections each entry costs a wait for memory.
//
// The shard's mutex guards an index. Seek reads it without the mutex, so it is written atomically.
type index struct {
	first []uint32 // link to the first slot of each chain
	next  []uint32 // slot -> link to the next in its chain, or number of the next in its free list
	slots uint32   // mask of a slot's number in a link
}

// newIndex returns an index without entries for n slots.
func newIndex(n int) index {
	x := index{next: make([]uint32, n), slots: 1<<bits.Len(uint(n)) - 1}
	x.first = make([]uint32, 1<<bits.Len(uint(n-1)))
	for i := range x.first {
		x.first[i] = none
	}
	return x
}

// chain returns the place of the first link of a hash's chain.
func (x *index) chain(hash uint64) *uint32 { return &x.first[hash&uint64(len(x.first)-1)] }

// tag returns the tag of a hash. Its bits are neither the lowest, which choose the chain, nor the
// highest, which choose the shard.
func (x *index) tag(hash uint64) uint32 { return uint32(hash>>26) &^ x.slots }

func (x *index) link(slot uint32, hash uint64) {
	first := x.chain(hash)
	x.setNext(slot, *first)
	atomic.StoreUint32(first, slot|x.tag(hash))
}

func (x *index) unlink(slot uint32, hash uint64) {
	at := x.chain(hash)
	for *at&x.slots != slot {
		at = &x.next[*at&x.slots]
	}
	atomic.StoreUint32(at, x.next[slot])
}

func (x *index) setNext(slot, link uint32) { atomic.StoreUint32(&x.next[slot], link) }

// seek returns a slot that probably has the entry of a hash; none if there is none. It takes no
// lock, so the slot may be freed or used for another entry at any time.
func (x *index) seek(hash uint64) uint32 {
	failpoint.Reach()
	const furthest = 8 // links change while seek follows them, so it could follow them for ever
	link := atomic.LoadUint32(x.chain(hash))
	for range furthest {
		switch {
		case link == none:
			return none
		case link&^x.slots == x.tag(hash):
			return link & x.slots
		}
		link = atomic.LoadUint32(&x.next[link&x.slots])
	}
	return none
}
