package conntrack

import (
	"sync/atomic"
	"unsafe"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/prefetch"
)

// A Place is where the connection of a packet to come may lie. Where there are tens of
// thousands of connections no cache holds them, and a packet that is looked up when it is
// judged waits for memory twice at each interface. Packets that wait in a queue can wait for
// it together: Seek all, then Fetch all, then judge one after the other.
//
// It is a hint. By the time it is used the connection may be gone or another's, and nothing
// is decided by it.
type Place struct{ entry *entry }

// IdentifyFlow is Identify for a flow whose packet has not been decoded.
func (z *Zone) IdentifyFlow(u *Tuple, f packet.Flow) { *u = z.tracker.tuple(f, 0) }

// Seek finds the place of a tuple in the zone.
func (z *Zone) Seek(u *Tuple) Place {
	failpoint.Reach()
	hash, s := z.tracker.home(u.hash, z.salt)
	slot := atomic.LoadUint32(&s.buckets[hash&uint64(len(s.buckets)-1)])
	if slot == none {
		return Place{}
	}
	return Place{&s.slots[slot]}
}

// Fetch begins to bring what is at the place into the cache.
func (p Place) Fetch() {
	if p.entry == nil {
		return
	}
	prefetch.Line(unsafe.Pointer(p.entry))
	prefetch.Line(unsafe.Pointer(&p.entry.state)) // the second line of two
}
