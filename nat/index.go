package nat

import (
	"hash/maphash"

	"palisade/internal/failpoint"
)

// none ends a list of slots.
const none = ^uint32(0)

// A key is what a translation is found by. That of a packet from inside has the inside's address and port,
// that of a packet from outside has the gateway's port.
type key struct {
	epoch            uint64
	inside, remote   uint32 // inside is 0 in a key of a packet from outside
	port, remotePort uint16
	protocol         uint8
}

func (e *entry) outKey() key {
	return key{e.epoch, e.inside, e.remote, e.insidePort, e.remotePort, e.protocol}
}

func (e *entry) inKey() key { return key{e.epoch, 0, e.remote, e.port, e.remotePort, e.protocol} }

// An index finds slots by a key. It is a hash table with chains. The seed keeps senders from choosing keys of
// one chain.
type index struct {
	seed  maphash.Seed
	heads []uint32 // slot + 1; 0: none
	next  []uint32 // by slot: slot + 1
}

func newIndex(capacity int) index {
	n := 1
	for n < capacity {
		n *= 2
	}
	return index{maphash.MakeSeed(), make([]uint32, n), make([]uint32, capacity)}
}

func (x *index) head(k key) *uint32 {
	return &x.heads[maphash.Comparable(x.seed, k)&uint64(len(x.heads)-1)]
}

// find returns the slot with a key in one of the two indexes.
func (t *Table) find(x *index, k key) (uint32, bool) {
	for at := *x.head(k); at != 0; at = x.next[at-1] {
		e := &t.entries[at-1]
		if x == &t.out && e.outKey() == k || x == &t.in && e.inKey() == k {
			return at - 1, true
		}
	}
	return none, false
}

func (x *index) insert(slot uint32, k key) {
	head := x.head(k)
	x.next[slot] = *head
	*head = slot + 1
}

func (x *index) remove(slot uint32, k key) {
	for at := x.head(k); *at != 0; at = &x.next[*at-1] {
		if *at == slot+1 {
			*at = x.next[slot]
			return
		}
	}
}

// link enters a filled slot into the indexes and counts it.
func (t *Table) link(slot uint32) {
	failpoint.Reach()
	e := &t.entries[slot]
	t.out.insert(slot, e.outKey())
	t.in.insert(slot, e.inKey())
	t.sources.add(e.source(), 1)
	t.destinations.add(e.destination(), 1)
	t.live++
}

// removeLocked removes a translation.
func (t *Table) removeLocked(slot uint32) {
	failpoint.Reach()
	e := &t.entries[slot]
	t.out.remove(slot, e.outKey())
	t.in.remove(slot, e.inKey())
	t.sources.add(e.source(), -1)
	t.destinations.add(e.destination(), -1)
	t.live--
	if g := t.gateways[e.epoch]; g != nil {
		g.live--
	} else if t.adopted[e.epoch] > 0 {
		t.adopted[e.epoch]--
	}
	e.sum = 0 // first, for a process that is killed here
	*e = entry{}
	t.release(slot)
}

// release puts a slot on the free list, which runs through the index of packets from inside.
func (t *Table) release(slot uint32) {
	t.out.next[slot] = t.free
	t.free = slot
}

// take returns a free slot.
func (t *Table) take() (uint32, bool) {
	failpoint.Reach()
	if t.free != none {
		slot := t.free
		t.free = t.out.next[slot]
		return slot, true
	}
	used := t.memory.used()
	if int(*used) == t.config.Capacity {
		return none, false
	}
	*used++
	return *used - 1, true
}

// source and destination are what translations are counted by.
func (e *entry) source() key { return key{epoch: e.epoch, inside: e.inside} }

func (e *entry) destination() key {
	return key{epoch: e.epoch, remote: e.remote, remotePort: e.remotePort, protocol: e.protocol}
}

// counts counts by keys, without allocation.
type counts struct {
	seed  maphash.Seed
	heads []uint32 // place + 1; 0: none
	all   []count
	free  uint32
	used  uint32
}

type count struct {
	key  key
	n    int32
	next uint32
}

func newCounts(capacity int) counts {
	n := 1
	for n < capacity {
		n *= 2
	}
	return counts{maphash.MakeSeed(), make([]uint32, n), make([]count, capacity), none, 0}
}

func (c *counts) head(k key) *uint32 {
	return &c.heads[maphash.Comparable(c.seed, k)&uint64(len(c.heads)-1)]
}

func (c *counts) of(k key) int {
	for at := *c.head(k); at != 0; at = c.all[at-1].next {
		if c.all[at-1].key == k {
			return int(c.all[at-1].n)
		}
	}
	return 0
}

// add changes a count by 1 or by -1. There are never more keys than translations, so there is always room.
func (c *counts) add(k key, change int32) {
	failpoint.Reach()
	at := c.head(k)
	for ; *at != 0; at = &c.all[*at-1].next {
		x := &c.all[*at-1]
		if x.key != k {
			continue
		}
		if x.n += change; x.n == 0 {
			place := *at - 1
			*at = x.next
			x.next, c.free = c.free, place
		}
		return
	}
	place := c.free
	if place != none {
		c.free = c.all[place].next
	} else {
		place = c.used
		c.used++
	}
	c.all[place] = count{k, change, 0}
	*at = place + 1
}
