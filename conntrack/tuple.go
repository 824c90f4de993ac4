package conntrack

import (
	"encoding/binary"

	"github.com/dchest/siphash"

	"palisade/internal/packet"
)

// A Tuple is what the connection of a packet is known by, whatever interface asks: its key
// and the hash of that. One goroutine uses it, for one packet after the other.
type Tuple struct {
	flow     packet.Flow // that the rest is made of
	icmpType uint8
	key      key
	hash     uint64
}

// Identify makes u the tuple of a packet. It costs little where u is that already: a packet
// crosses two interfaces, and the next one is often of the same flow. An address that is
// rewritten on the way makes it another flow. Any zone of a Tracker makes the same.
func (z *Zone) Identify(u *Tuple, p *packet.Packet) {
	if u.flow == p.Flow && u.icmpType == p.ICMPType {
		return
	}
	*u = z.tracker.tuple(p.Flow, p.ICMPType)
}

func (t *Tracker) tuple(f packet.Flow, icmpType uint8) Tuple {
	k := keyOf(f, icmpType)
	return Tuple{flow: f, icmpType: icmpType, key: k, hash: t.hashFlow(&k)}
}

// A key is how a packet looks for its connection.
type key struct {
	src, dst         [16]byte
	srcPort, dstPort uint16
	protocol         uint8
	runs             way // the only way an ICMP packet can run; neither for all else
}

// keyOf is the key of a flow. An ICMP query has its identifier as source port and its
// type as destination port, and an answer the reverse; a query never matches as answer,
// so the two ends may use the same identifier for queries of their own.
func keyOf(f packet.Flow, icmpType uint8) key {
	k := key{src: f.Src.As16(), dst: f.Dst.As16(), srcPort: f.SrcPort, dstPort: f.DstPort, protocol: f.Protocol, runs: neither}
	if f.Protocol == packet.ProtocolICMP {
		switch icmpType {
		case packet.ICMPEchoReply:
			k.srcPort, k.runs = packet.ICMPEcho, reply
		case packet.ICMPTimestampReply:
			k.srcPort, k.runs = packet.ICMPTimestamp, reply
		default:
			k.dstPort, k.runs = uint16(icmpType), original
		}
	}
	return k
}

// key is an entry's own, of its original direction.
func (e *entry) key() key { return key{e.src, e.dst, e.srcPort, e.dstPort, e.protocol, neither} }

// hashFlow is symmetric, so both directions of a connection meet in one shard, and keyed by
// a secret, so nobody can choose flows that collide. What is hashed of a flow of IPv4 is
// shorter than, and so never equal to, what is of one of IPv6.
func (t *Tracker) hashFlow(k *key) uint64 {
	var b [37]byte
	first, second := &k.src, &k.dst
	firstPort, secondPort := k.srcPort, k.dstPort
	if firstPort > secondPort || firstPort == secondPort && string(first[:]) > string(second[:]) {
		first, second, firstPort, secondPort = second, first, secondPort, firstPort
	}
	binary.NativeEndian.PutUint16(b[0:], firstPort)
	binary.NativeEndian.PutUint16(b[2:], secondPort)
	b[4] = k.protocol
	const v4 = 12 // where the IPv4 address is in one of IPv6 that stands for it
	if string(first[:v4]) == mapped && string(second[:v4]) == mapped {
		copy(b[5:], first[v4:])
		copy(b[9:], second[v4:])
		return siphash.Hash(t.arena.seed[0], t.arena.seed[1], b[:13])
	}
	copy(b[5:], first[:])
	copy(b[21:], second[:])
	return siphash.Hash(t.arena.seed[0], t.arena.seed[1], b[:])
}

// mapped is how an IPv6 address begins that stands for one of IPv4 (RFC 4291 §2.5.5.2).
const mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"

// salt makes the same flow lie elsewhere in each zone.
func (t *Tracker) salt(zone uint32) uint64 {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], zone)
	return siphash.Hash(t.arena.seed[0], t.arena.seed[1], b[:])
}

// home is where the connections of a flow's hash lie in the zone of a salt. It maps hashes
// to hashes one to one, so that no two flows meet that did not before.
func (t *Tracker) home(hash, salt uint64) (uint64, *shard) {
	h := (hash ^ salt) * 0x9e3779b97f4a7c15
	h ^= h >> 32
	return h, &t.shards[h>>58]
}

// homeOf is that of an entry.
func (t *Tracker) homeOf(e *entry) (uint64, *shard) {
	k := e.key()
	return t.home(t.hashFlow(&k), t.salt(e.zone))
}
