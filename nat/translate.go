package nat

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// An Inside is an address and port behind a gateway. Port is the identifier of an ICMP query, and 0 in a
// later fragment.
type Inside struct {
	Address netip.Addr
	Port    uint16
}

// Out returns the port of the gateway by which a packet from inside leaves; 0 for a later fragment, which has
// none. If it does not return Forward, the packet must be dropped. It makes a translation for the first packet of
// a flow, unless dry.
func (g *Gateway) Out(p *packet.Packet, now time.Duration, dry bool) (uint16, verdict.Verdict) {
	failpoint.Reach()
	if p.Fragment && p.Flow.Protocol != packet.ProtocolUDP {
		return 0, fragmented()
	}
	if p.Fragment && !p.HasL4 {
		if !g.table.fragments.knows(g.fragment(p), now) {
			return 0, fragmented()
		}
		return 0, verdict.Forward
	}
	if !translatable(p, packet.ICMPEcho) {
		return 0, untranslatable()
	}
	k := key{g.epoch, bits(p.Flow.Src), bits(p.Flow.Dst), p.Flow.SrcPort, remotePort(p, p.Flow.DstPort), p.Flow.Protocol}
	port, v := g.translate(k, p, now, dry)
	if v == verdict.Forward && p.Fragment && !dry {
		g.table.fragments.admit(g.fragment(p), p.Flow.Src, now)
	}
	return port, v
}

func (g *Gateway) translate(k key, p *packet.Packet, now time.Duration, dry bool) (uint16, verdict.Verdict) {
	failpoint.Reach()
	t := g.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.liveLocked(&t.out, k, now); e != nil {
		if !dry {
			e.note(p, finOut, now)
		}
		return e.port, verdict.Forward
	}
	if p.Flow.Protocol == packet.ProtocolTCP && !p.IsFirstSYN() {
		return 0, unknown()
	}
	made := entry{epoch: g.epoch, inside: k.inside, remote: k.remote, insidePort: k.port, remotePort: k.remotePort, protocol: k.protocol, last: int64(now)}
	if t.gateways[g.epoch] != g { // it was removed
		return 0, unknown()
	}
	slot, port, ok := t.roomLocked(g, &made, now, dry)
	if !ok {
		if !dry {
			g.exhausted.Add(uint64(p.Segments))
		}
		return 0, exhausted()
	}
	if dry {
		return port, verdict.Forward
	}
	made.port = port
	e := &t.entries[slot]
	*e = made
	e.sum = e.checksum()
	t.link(slot)
	g.live++
	return port, verdict.Forward
}

// roomLocked returns a free slot and a free port for a translation, within all bounds.
func (t *Table) roomLocked(g *Gateway, e *entry, now time.Duration, dry bool) (slot uint32, port uint16, ok bool) {
	failpoint.Reach()
	c := &t.config
	if g.live >= c.PerGateway || t.sources.of(e.source()) >= c.PerSource || t.destinations.of(e.destination()) >= c.PerDestination || t.live >= c.Capacity {
		return none, 0, false
	}
	k := e.inKey()
	// At most 60,000 of the 64,512 ports are taken, so the search ends after some steps.
	for at := rand.IntN(ports); ; at++ {
		k.port = uint16(firstPort + at%ports)
		if t.liveLocked(&t.in, k, now) == nil {
			break
		}
	}
	if !dry {
		slot, ok = t.take()
	}
	return slot, k.port, ok || dry
}

// liveLocked returns the translation with a key, or nil. It removes one that has expired.
func (t *Table) liveLocked(x *index, k key, now time.Duration) *entry {
	failpoint.Reach()
	slot, ok := t.find(x, k)
	if !ok {
		return nil
	}
	if e := &t.entries[slot]; !e.expired(now) {
		return e
	}
	t.removeLocked(slot)
	return nil
}

// note stores that a packet has passed; fin is the flag for a FIN in its direction.
func (e *entry) note(p *packet.Packet, fin flags, now time.Duration) {
	e.last = max(e.last, int64(now))
	if p.Flow.Protocol != packet.ProtocolTCP {
		return
	}
	switch {
	case p.IsFirstSYN() && fin == finOut:
		e.ended = 0
	case p.TCPFlags&packet.RST != 0:
		e.ended |= reset
	case p.TCPFlags&packet.FIN != 0:
		e.ended |= fin
	}
}

// In returns who a packet from outside, to the gateway's address, is for. It must be an answer to a packet that
// Out has translated: from the same address and port, to the same port. Otherwise it must be dropped.
func (g *Gateway) In(p *packet.Packet, now time.Duration, dry bool) (Inside, verdict.Verdict) {
	failpoint.Reach()
	if p.Fragment && p.Flow.Protocol != packet.ProtocolUDP {
		return Inside{}, fragmented()
	}
	if p.Fragment && !p.HasL4 {
		a, ok := g.table.fragments.find(g.fragment(p), now)
		if !ok {
			return Inside{}, fragmented()
		}
		return Inside{Address: a}, verdict.Forward
	}
	if !translatable(p, packet.ICMPEchoReply) {
		return Inside{}, untranslatable()
	}
	k := key{g.epoch, 0, bits(p.Flow.Src), p.Flow.DstPort, remotePort(p, p.Flow.SrcPort), p.Flow.Protocol}
	to, ok := g.answer(k, p, now, dry)
	if !ok {
		return Inside{}, unknown()
	}
	if p.Fragment && !dry {
		g.table.fragments.admit(g.fragment(p), to.Address, now)
	}
	return to, verdict.Forward
}

func (g *Gateway) answer(k key, p *packet.Packet, now time.Duration, dry bool) (Inside, bool) {
	failpoint.Reach()
	t := g.table
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.liveLocked(&t.in, k, now)
	if e == nil {
		return Inside{}, false
	}
	if !dry {
		e.note(p, finIn, now)
	}
	return Inside{address(e.inside), e.insidePort}, true
}

// InError returns who an ICMP error from outside is for: who sent the packet that it quotes. That packet left
// through the gateway, so its source is the gateway's address.
func (g *Gateway) InError(p *packet.Packet, now time.Duration) (Inside, verdict.Verdict) {
	failpoint.Reach()
	q := &p.Quoted
	if !p.HasQuoted || q.Src != p.Flow.Dst || !quotesTranslatable(p, packet.ICMPEcho) {
		return Inside{}, unknown()
	}
	k := key{g.epoch, 0, bits(q.Dst), q.SrcPort, quotedPort(q, q.DstPort), q.Protocol}
	t := g.table
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.liveLocked(&t.in, k, now)
	if e == nil {
		return Inside{}, unknown()
	}
	return Inside{address(e.inside), e.insidePort}, verdict.Forward
}

// OutError returns the port of the gateway in the packet that an ICMP error from inside quotes: a packet that
// came in through the gateway.
func (g *Gateway) OutError(p *packet.Packet, now time.Duration) (uint16, verdict.Verdict) {
	failpoint.Reach()
	q := &p.Quoted
	if !p.HasQuoted || q.Src != p.Flow.Dst || q.Dst != p.Flow.Src || !quotesTranslatable(p, packet.ICMPEchoReply) {
		return 0, unknown()
	}
	k := key{g.epoch, bits(q.Dst), bits(q.Src), q.DstPort, quotedPort(q, q.SrcPort), q.Protocol}
	t := g.table
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.liveLocked(&t.out, k, now)
	if e == nil {
		return 0, unknown()
	}
	return e.port, verdict.Forward
}

// Each dropping verdict is made by one function.

func unknown() verdict.Verdict        { return verdict.NATUnknown }
func exhausted() verdict.Verdict      { return verdict.NATExhausted }
func fragmented() verdict.Verdict     { return verdict.NATFragment }
func untranslatable() verdict.Verdict { return verdict.NATProtocol }

// translatable reports whether a packet is of a protocol that gateways carry. query is the type of ICMP
// messages that cross the gateway in its direction.
func translatable(p *packet.Packet, query uint8) bool {
	switch p.Flow.Protocol {
	case packet.ProtocolTCP, packet.ProtocolUDP:
		return true
	}
	return p.Flow.Protocol == packet.ProtocolICMP && p.ICMPType == query
}

func quotesTranslatable(p *packet.Packet, query uint8) bool {
	switch p.Quoted.Protocol {
	case packet.ProtocolTCP, packet.ProtocolUDP:
		return true
	}
	return p.Quoted.Protocol == packet.ProtocolICMP && p.QuotedICMP == query
}

// remotePort returns the remote port of a packet; 0 for an ICMP query, whose identifier is the inside's.
func remotePort(p *packet.Packet, port uint16) uint16 { return quotedPort(&p.Flow, port) }

func quotedPort(f *packet.Flow, port uint16) uint16 {
	if f.Protocol == packet.ProtocolICMP {
		return 0
	}
	return port
}

func bits(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) }

func address(bits uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], bits)
	return netip.AddrFrom4(b)
}
