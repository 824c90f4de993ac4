package conntrack

import (
	"encoding/binary"

	"github.com/dchest/siphash"

	"palisade/internal/packet"
)

// A Tuple is the key of a packet's connection and the key's hash, the same in every zone of
// a Tracker. One goroutine reuses it for one packet after the other.
type Tuple struct {
	flow     packet.Flow // that key and hash were computed from
	icmpType uint8
	key      key
	hash     uint64
}

// Identify makes u the tuple of packet p. If u already is the tuple of that flow, Identify
// keeps it: a packet passes two zones, and the next packet is often of the same flow. After
// NAT has changed the flow, Identify computes u again.
func (z *Zone) Identify(u *Tuple, p *packet.Packet) {
	// The fields one by one: to compare the two structs is a call and a loop over their bytes.
	f, known := &p.Flow, &u.flow
	if f.Src == known.Src && f.Dst == known.Dst && f.SrcPort == known.SrcPort && f.DstPort == known.DstPort &&
		f.Protocol == known.Protocol && p.ICMPType == u.icmpType {
		return
	}
	*u = z.tracker.tuple(p.Flow, p.ICMPType)
}

func (t *Tracker) tuple(f packet.Flow, icmpType uint8) Tuple {
	k := keyOf(f, icmpType)
	return Tuple{flow: f, icmpType: icmpType, key: k, hash: t.hashFlow(&k)}
}

// A key identifies the connection of a packet.
type key struct {
	src, dst         [16]byte
	srcPort, dstPort uint16
	protocol         uint8
	runs             way // for ICMP, the only direction that the packet can have; for other protocols, the constant neither
}

// keyOf returns the key of a flow. An ICMP query has its identifier as source port and its
// type as destination port; a reply has them the other way round. A query never matches as
// a reply, so both ends may use the same identifier for their own queries.
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

// key returns the key of an entry's original direction.
func (e *entry) key() key { return key{e.src, e.dst, e.srcPort, e.dstPort, e.protocol, neither} }

// hashFlow returns the hash of a flow. It is the same for both directions of a connection,
// so that both are in one shard. It depends on a secret, so that nobody can choose flows
// that collide. It hashes 13 bytes of an IPv4 flow and 37 of an IPv6 flow, so the two never
// hash equal input.
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
	const v4 = 12 // offset of the IPv4 address in an IPv4-mapped IPv6 address
	if string(first[:v4]) == mapped && string(second[:v4]) == mapped {
		copy(b[5:], first[v4:])
		copy(b[9:], second[v4:])
		return siphash.Hash(t.arena.seed[0], t.arena.seed[1], b[:13])
	}
	copy(b[5:], first[:])
	copy(b[21:], second[:])
	return siphash.Hash(t.arena.seed[0], t.arena.seed[1], b[:])
}

// mapped is the prefix of IPv4-mapped IPv6 addresses (RFC 4291 §2.5.5.2).
const mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"

// salt returns the number that gives equal flows another place in each zone.
func (t *Tracker) salt(zone uint32) uint64 {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], zone)
	return siphash.Hash(t.arena.seed[0], t.arena.seed[1], b[:])
}

// home returns the shard of a flow and the flow's hash within the shard. The arguments are
// the flow's hash and its zone's salt. home maps hashes one to one, so it adds no
// collisions.
func (t *Tracker) home(hash, salt uint64) (uint64, *shard) {
	h := (hash ^ salt) * 0x9e3779b97f4a7c15
	h ^= h >> 32
	return h, &t.shards[h>>58]
}

// homeOf returns the hash and the shard of an entry, as home does.
func (t *Tracker) homeOf(e *entry) (uint64, *shard) {
	k := e.key()
	return t.home(t.hashFlow(&k), t.salt(uint32(e.epoch)))
}
