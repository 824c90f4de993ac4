package conntrack

import (
	"hash/crc32"
	"net/netip"
	"time"
	"unsafe"

	"palisade/internal/packet"
)

// An entry is one connection: 128 bytes without pointers, in memory that outlives the
// process. sum is a checksum of the fields from zone to revision, and is zero in a free
// slot. It is written last, so that a process that dies in the middle of a change leaves no
// valid entry. The fields after revision change with every packet, and do no harm if they
// are half written.
type entry struct {
	sum      uint32
	zone     uint32
	src, dst [16]byte // of the original direction
	srcPort  uint16
	dstPort  uint16
	protocol uint8
	flags    flags
	_        [2]byte
	epoch    uint64 // of the lease of the zone's interface
	rule     uint64 // serial of the rule that admitted it
	revision uint64 // generation of the rules it was last judged by

	state    state
	fins     uint8 // bit 0: the end that opened the connection has sent FIN; bit 1: the other end has sent FIN
	_        [6]byte
	deadline time.Duration // on the monotonic clock
	created  time.Duration
	bytes    [2]uint64 // original, reply
	packets  [2]uint32
	_        [8]byte
}

const (
	entrySize   = 128
	coveredFrom = unsafe.Offsetof(entry{}.zone)
	coveredTo   = unsafe.Offsetof(entry{}.state)
)

var _ [entrySize]byte = [unsafe.Sizeof(entry{})]byte{}

type flags uint8

const (
	// fromOutside: the peer of the zone's interface opened the connection.
	fromOutside flags = 1 << iota
	// isUntracked: the rules judge every packet; the entry alone admits none.
	isUntracked
	// isBlocked: packets of both directions are dropped until the entry expires.
	isBlocked
)

func (e *entry) has(f flags) bool { return e.flags&f != 0 }

func (e *entry) expired(now time.Duration) bool { return now >= e.deadline }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (e *entry) checksum() uint32 {
	covered := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(e), coveredFrom)), coveredTo-coveredFrom)
	return crc32.Update(1, castagnoli, covered) | 1
}

func (e *entry) seal() { e.sum = e.checksum() }

// A way is a packet's direction within its connection.
type way uint8

const (
	original way = iota
	reply
	neither
)

// wayOf returns the direction that a packet with key k has within connection e; neither if
// the packet does not belong to it. The caller has compared the zones.
func (e *entry) wayOf(k *key) way {
	if e.protocol != k.protocol {
		return neither
	}
	if k.runs != reply && e.srcPort == k.srcPort && e.dstPort == k.dstPort && e.src == k.src && e.dst == k.dst {
		return original
	}
	if k.runs != original && e.srcPort == k.dstPort && e.dstPort == k.srcPort && e.src == k.dst && e.dst == k.src {
		return reply
	}
	return neither
}

func (e *entry) flow() packet.Flow {
	f := packet.Flow{
		Src: netip.AddrFrom16(e.src).Unmap(), Dst: netip.AddrFrom16(e.dst).Unmap(),
		SrcPort: e.srcPort, DstPort: e.dstPort, Protocol: e.protocol,
	}
	if e.protocol == packet.ProtocolICMP {
		f.DstPort = f.SrcPort
	}
	return f
}
