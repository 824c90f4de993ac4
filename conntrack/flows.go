package conntrack

import (
	"iter"
	"time"
	"unsafe"

	"palisade/internal/packet"
)

// A Connection is a copy of one entry of the table.
type Connection struct {
	Epoch    uint64      // of the lease of its interface
	Flow     packet.Flow // of the original direction
	Outside  bool        // opened by the peer of the interface
	Tracked  bool
	Blocked  bool // its packets are dropped
	Cut      bool // ended by Cut, and so Blocked
	State    string
	Rule     uint64 // serial of the rule that admitted it
	Age      time.Duration
	Expires  time.Duration // time until it expires if no more packets come
	Packets  [2]uint32     // original direction, replies; too low for some untracked connections
	Bytes    [2]uint64     // original direction, replies; IP headers included
	Revision uint64        // generation of the rules that it was last judged by
}

// Connections yields every connection that has not expired. It locks one shard at a time,
// and holds no lock while it yields.
func (t *Tracker) Connections(now time.Duration) iter.Seq[Connection] {
	return func(yield func(Connection) bool) {
		for i := range t.shards {
			for _, c := range t.shards[i].list(now) {
				if !yield(c) {
					return
				}
			}
		}
	}
}

func (s *shard) list(now time.Duration) []Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Connection
	for e := range s.liveLocked(now) {
		all = append(all, e.connection(now))
	}
	return all
}

// liveLocked yields the connections of the shard that have not expired.
func (s *shard) liveLocked(now time.Duration) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for n := range s.pools {
			p := &s.pools[n]
			for slot := p.first; slot < p.top; slot++ {
				if e := &s.slots[slot]; e.sum != 0 && !e.expired(now) && !yield(e) {
					return
				}
			}
		}
	}
}

func (e *entry) connection(now time.Duration) Connection {
	return Connection{
		Epoch: e.epoch, Flow: e.flow(), Outside: e.has(fromOutside), Tracked: !e.has(isUntracked),
		Blocked: e.has(isBlocked), Cut: e.has(isCut), State: e.state.String(), Rule: e.rule, Age: (now - time.Duration(e.created)*time.Second).Truncate(time.Second),
		Expires: e.deadline - now, Packets: e.packets, Bytes: [2]uint64{e.bytes(original), e.bytes(reply)}, Revision: e.revision,
	}
}

// offset returns the index of an entry in slots.
func offset(slots []entry, e *entry) uintptr {
	return (uintptr(unsafe.Pointer(e)) - uintptr(unsafe.Pointer(&slots[0]))) / entrySize
}
