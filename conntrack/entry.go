package conntrack

import (
	"hash/crc32"
	"net/netip"
	"time"
	"unsafe"

	"palisade/internal/packet"
)

// An entry is one connection: 128 bytes without pointers, in memory that outlives the
// process. sum is a checksum of the fields from srcPort to flags, and is zero in a free
// slot. It is written last, so that a process that dies in the middle of a change leaves no
// valid entry. The fields after flags change with every packet, and do no harm if they are
// half written.
type entry struct {
	sum      uint32
	srcPort  uint16 // of the original direction, like dstPort, src and dst
	dstPort  uint16
	src, dst [16]byte
	epoch    uint64 // of the lease of the zone's interface
	rule     uint64 // serial of the rule that admitted it
	revision uint64 // generation of the rules it was last judged by
	protocol uint8
	flags    flags

	state     state
	tcp       tcpFlags
	scales    uint8    // window scales (RFC 7323 §2): of the opening end in the low 4 bits, of the other end in the high 4 bits
	windows   [2]uint8 // 1 + binary logarithm, rounded up, of the largest window that each end has announced; 0 before its first packet
	_         [1]byte
	deadline  time.Duration // on the monotonic clock
	created   uint32        // second on the monotonic clock
	packets   [2]uint32     // original, reply
	bytesLow  [2]uint32     // the low 32 bits of the numbers of bytes
	bytesHigh [2]uint16     // the next 16 bits
	ends      [2]end        // of a tracked TCP connection: the opening end, the other end
}

const (
	entrySize   = 128
	coveredFrom = unsafe.Offsetof(entry{}.srcPort)
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
	// isCut: an operator ended the connection. It is blocked, and no rule brings it back.
	isCut
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

// wayOf returns the direction that a packet with key k, which crosses the zone's interface in
// direction d, has within connection e; neither if the packet does not belong to it. The
// packets of a connection that the peer opened come in, and their replies go out. An
// interface that forwards for others has two connections for one flow: one is judged when
// its packets come in, the other when they go out. The caller has compared the zones.
func (e *entry) wayOf(k *key, d Direction) way {
	if e.protocol != k.protocol {
		return neither
	}
	originalDirection := Out
	if e.has(fromOutside) {
		originalDirection = In
	}
	if d != originalDirection {
		if k.runs != original && e.srcPort == k.dstPort && e.dstPort == k.srcPort && e.src == k.dst && e.dst == k.src {
			return reply
		}
		return neither
	}
	if k.runs != reply && e.srcPort == k.srcPort && e.dstPort == k.dstPort && e.src == k.src && e.dst == k.dst {
		return original
	}
	return neither
}

// addBytes counts n bytes of direction w. The count wraps at 2^48.
func (e *entry) addBytes(w way, n uint64) {
	n += e.bytes(w)
	e.bytesLow[w], e.bytesHigh[w] = uint32(n), uint16(n>>32)
}

func (e *entry) bytes(w way) uint64 { return uint64(e.bytesHigh[w])<<32 | uint64(e.bytesLow[w]) }

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
