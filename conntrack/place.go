package conntrack

import (
	"unsafe"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/prefetch"
)

// A Place is where the connection of a queued packet is sought. Tens of thousands of connections fit
// in no cache, so each lookup waits for memory: first for the link in the index, then for the entry.
// The waits of a batch overlap if the poller calls Seek for all its packets, then Fetch for all, and
// then judges one packet after the other.
//
// A Place is only a hint. When the packet is judged, its connection may be elsewhere or gone.
type Place struct {
	shard *shard
	hash  uint64
}

// IdentifyFlow is Identify for a TCP or UDP flow whose packet has not been decoded.
func (z *Zone) IdentifyFlow(u *Tuple, f packet.Flow) { *u = z.tracker.tuple(f, 0) }

// Seek returns the place of a tuple in the zone, and makes the processor load the beginning of its
// chain. It takes no lock and waits for no memory.
func (z *Zone) Seek(u *Tuple) Place {
	failpoint.Reach()
	hash, s := z.tracker.home(u.hash, z.salt)
	prefetch.Line(unsafe.Pointer(s.index.chain(hash)))
	return Place{s, hash}
}

// Fetch makes the processor load the connection of the place, if there is one. It takes no lock, and
// does not wait for the connection.
func (p Place) Fetch() {
	if e := p.entry(); e != nil {
		prefetch.Line(unsafe.Pointer(e))
		prefetch.Line(unsafe.Pointer(&e.state)) // the second of the entry's two cache lines
	}
}

// entry returns the entry that is probably the connection's; nil if there is none.
func (p Place) entry() *entry {
	failpoint.Reach()
	if p.shard == nil {
		return nil
	}
	slot := p.shard.index.seek(p.hash)
	if slot == none {
		return nil
	}
	return &p.shard.slots[slot]
}
