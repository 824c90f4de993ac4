package conntrack

import (
	"unsafe"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/prefetch"
)

// A Place is the memory where the connection of a queued packet probably is. Tens of
// thousands of connections fit in no cache, so each lookup waits for memory. The waits of a
// batch overlap if the poller calls Seek for all its packets, then Fetch for all, and then
// judges one packet after the other.
//
// A Place is only a hint. When it is used, its slot may be free or hold another connection.
type Place struct{ entry *entry }

// IdentifyFlow is Identify for a flow whose packet has not been decoded.
func (z *Zone) IdentifyFlow(u *Tuple, f packet.Flow) { *u = z.tracker.tuple(f, 0) }

// Seek returns the place of a tuple in the zone; the zero Place if there is none. It takes
// no lock.
func (z *Zone) Seek(u *Tuple) Place {
	failpoint.Reach()
	hash, s := z.tracker.home(u.hash, z.salt)
	slot := s.index.seek(hash)
	if slot == none {
		return Place{}
	}
	return Place{&s.slots[slot]}
}

// Fetch makes the processor load the place into its cache. It does not wait for the load.
func (p Place) Fetch() {
	if p.entry == nil {
		return
	}
	prefetch.Line(unsafe.Pointer(p.entry))
	prefetch.Line(unsafe.Pointer(&p.entry.state)) // the second of the entry's two cache lines
}
