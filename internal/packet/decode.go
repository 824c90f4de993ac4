package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"palisade/internal/failpoint"
	"palisade/internal/verdict"
)

const (
	ethernetLen = 14
	arpLen      = 28
	ipv4MinLen  = 20
	tcpMinLen   = 20
	udpLen      = 8
	icmpLen     = 8
)

// A Decoder reads frames. It reuses its layers from frame to frame, so each poller has
// its own and no two goroutines share one.
type Decoder struct {
	parser  *gopacket.DecodingLayerParser
	decoded []gopacket.LayerType

	ethernet layers.Ethernet
	arp      layers.ARP
	ip4      outermostIPv4
	tcp      layers.TCP
	udp      layers.UDP
	icmp4    layers.ICMPv4
	payload  gopacket.Payload
}

// outermostIPv4 keeps gopacket from following IP in IP: it would decode the inner packet
// into the same layer, and the inner addresses would be judged instead of the outer ones.
type outermostIPv4 struct{ layers.IPv4 }

// NextLayerType names the transport headers that connections are made of, else payload.
func (ip *outermostIPv4) NextLayerType() gopacket.LayerType {
	switch next := ip.IPv4.NextLayerType(); next {
	case layers.LayerTypeTCP, layers.LayerTypeUDP, layers.LayerTypeICMPv4:
		return next
	}
	return gopacket.LayerTypePayload
}

// NewDecoder returns a Decoder that is ready for use.
func NewDecoder() *Decoder {
	d := &Decoder{decoded: make([]gopacket.LayerType, 0, 8)}
	d.parser = gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet)
	d.parser.SetDecodingLayerContainer(gopacket.DecodingLayerArray(nil))
	for _, l := range []gopacket.DecodingLayer{&d.ethernet, &d.arp, &d.ip4, &d.tcp, &d.udp, &d.icmp4, &d.payload} {
		d.parser.AddDecodingLayer(l)
	}
	d.parser.IgnoreUnsupported = true
	// A panic is the poller's to recover and count, with the frame in its hand.
	d.parser.IgnorePanic = true
	return d
}

// Decode fills p from frame, which begins with the Ethernet header. Where it reports
// false the verdict says what is wrong, and p is not to be used.
//
// gopacket returns errors that allocate, does not compare the IPv4 version nibble,
// takes a total length of zero as the whole buffer, and decodes no transport header of
// any fragment, not even the first. Every length is therefore checked here before
// gopacket sees the bytes, and first fragments are read on by hand.
func (d *Decoder) Decode(frame []byte, p *Packet) (verdict.Verdict, bool) {
	failpoint.Reach()
	*p = Packet{Segments: 1}
	if len(frame) < ethernetLen {
		return verdict.Runt, false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case EtherTypeIPv4:
		if v, ok := checkIPv4(frame[ethernetLen:]); !ok {
			return v, false
		}
	case EtherTypeARP:
		if !checkARP(frame[ethernetLen:]) {
			return verdict.BadARP, false
		}
	case EtherTypeIPv6:
		return verdict.IPv6, false
	default:
		return verdict.NotIP, false
	}
	if err := d.parser.DecodeLayers(frame, &d.decoded); err != nil {
		return verdict.BadLength, false
	}
	copy(p.DstMAC[:], d.ethernet.DstMAC)
	copy(p.SrcMAC[:], d.ethernet.SrcMAC)
	p.EtherType = uint16(d.ethernet.EthernetType)
	p.L3 = ethernetLen
	if p.EtherType == EtherTypeARP {
		d.fillARP(p)
		return verdict.Unset, true
	}
	return d.fillIPv4(frame, p)
}

// PeekFlow reads the flow of a frame of TCP or UDP as Decode would, if it is one as most
// are, and holds it against nothing: it is a guess of what Decode will say.
func PeekFlow(frame []byte) (f Flow, ok bool) {
	failpoint.Reach()
	const l4 = ethernetLen + ipv4MinLen
	if len(frame) < l4+udpLen || binary.BigEndian.Uint16(frame[12:]) != EtherTypeIPv4 || frame[ethernetLen] != 0x45 ||
		binary.BigEndian.Uint16(frame[ethernetLen+6:])&0x3fff != 0 {
		return f, false
	}
	f.Protocol = frame[ethernetLen+9]
	f.Src, f.Dst = netip.AddrFrom4([4]byte(frame[ethernetLen+12:])), netip.AddrFrom4([4]byte(frame[ethernetLen+16:]))
	f.SrcPort, f.DstPort = binary.BigEndian.Uint16(frame[l4:]), binary.BigEndian.Uint16(frame[l4+2:])
	return f, f.Protocol == ProtocolTCP || f.Protocol == ProtocolUDP
}

// checkARP accepts Ethernet/IPv4 requests and replies (RFC 826).
func checkARP(b []byte) bool {
	return len(b) >= arpLen &&
		binary.BigEndian.Uint16(b[0:]) == 1 && binary.BigEndian.Uint16(b[2:]) == EtherTypeIPv4 &&
		b[4] == 6 && b[5] == 4 &&
		(binary.BigEndian.Uint16(b[6:]) == layers.ARPRequest || binary.BigEndian.Uint16(b[6:]) == layers.ARPReply)
}

func (d *Decoder) fillARP(p *Packet) {
	failpoint.Reach()
	p.Len = ethernetLen + arpLen
	p.ARPOperation = d.arp.Operation
	copy(p.ARPSender[:], d.arp.SourceHwAddress)
	p.ARPSenderIP, _ = netip.AddrFromSlice(d.arp.SourceProtAddress)
	p.ARPTargetIP, _ = netip.AddrFromSlice(d.arp.DstProtAddress)
}

// checkIPv4 holds an IPv4 packet against its own lengths, down to the transport header
// that gopacket will decode.
//
//	 0                   1                   2                   3
//	|Version|  IHL  |Type of Service|          Total Length         |
//	|         Identification        |Flags|     Fragment Offset     |
//	|  Time to Live |    Protocol   |        Header Checksum        |
//	|                       Source, Destination                     |
//	|                    Options                    |    Padding    |  RFC 791 §3.1
func checkIPv4(b []byte) (verdict.Verdict, bool) {
	failpoint.Reach()
	if len(b) < ipv4MinLen {
		return verdict.Runt, false
	}
	if b[0]>>4 != 4 {
		return verdict.BadVersion, false
	}
	headerLen, totalLen := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if headerLen < ipv4MinLen || headerLen > totalLen || totalLen > len(b) {
		return verdict.BadLength, false
	}
	if v, ok := checkOptions(b[ipv4MinLen:headerLen]); !ok {
		return v, false
	}
	flags := binary.BigEndian.Uint16(b[6:])
	offset, more := int(flags&0x1fff)*8, flags&0x2000 != 0
	body := b[headerLen:totalLen]
	if offset+len(body) > 65535-headerLen {
		return verdict.BadLength, false
	}
	return checkTransport(b[9], body, offset, more)
}

// checkOptions walks IPv4 options. Source routes would let a sender choose the way
// around the switch's forwarding, and are refused (RFC 7126 §4.3, §4.4).
func checkOptions(b []byte) (verdict.Verdict, bool) {
	for len(b) > 0 {
		switch kind := b[0]; {
		case kind == 0:
			return verdict.Unset, true
		case kind == 1:
			b = b[1:]
		case len(b) < 2 || b[1] < 2 || int(b[1]) > len(b):
			return verdict.BadLength, false
		case kind == 131 || kind == 137:
			return verdict.SourceRoute, false
		default:
			b = b[b[1]:]
		}
	}
	return verdict.Unset, true
}

// checkTransport holds a transport header against the bytes there are. The first
// fragment must carry the whole header, and no later one may begin inside one, or the
// ports that were judged could be others than the ports that arrive (RFC 1858 §3).
func checkTransport(protocol uint8, b []byte, offset int, more bool) (verdict.Verdict, bool) {
	failpoint.Reach()
	fragment := more || offset > 0
	if offset > 0 {
		if offset < 64 && protocol == ProtocolTCP || len(b) == 0 || more && len(b)%8 != 0 {
			return verdict.TinyFragment, false
		}
		return verdict.Unset, true
	}
	need := 0
	switch protocol {
	case 0:
		return verdict.BadProtocol, false
	case ProtocolTCP:
		need = tcpMinLen
	case ProtocolUDP:
		need = udpLen
	case ProtocolICMP:
		need = icmpLen
	}
	if fragment && protocol == ProtocolTCP && len(b) > 12 {
		need = max(need, int(b[12]>>4)*4)
	}
	switch {
	case fragment && (len(b) < need || len(b) == 0 || len(b)%8 != 0):
		return verdict.TinyFragment, false
	case len(b) < need:
		return verdict.Runt, false
	}
	switch protocol {
	case ProtocolTCP:
		return checkTCP(b)
	case ProtocolUDP:
		if n := int(binary.BigEndian.Uint16(b[4:])); n < udpLen || !fragment && n > len(b) {
			return verdict.BadLength, false
		}
	}
	return verdict.Unset, true
}

// checkTCP refuses header sizes, options and sets of flags that no TCP sends; stealth
// scans are made of them. The sets are those of RFC 9293 §3.5 with PSH, ECE and CWR free.
func checkTCP(b []byte) (verdict.Verdict, bool) {
	failpoint.Reach()
	headerLen := int(b[12]>>4) * 4
	if headerLen < tcpMinLen || headerLen > len(b) {
		return verdict.BadTCP, false
	}
	switch b[13] & (FIN | SYN | RST | ACK | URG) {
	case SYN, SYN | URG, SYN | ACK, RST, RST | ACK, ACK, ACK | URG, FIN | ACK, FIN | ACK | URG:
	default:
		return verdict.BadTCP, false
	}
	for options := b[tcpMinLen:headerLen]; len(options) > 0; {
		switch kind := options[0]; {
		case kind == 0:
			return verdict.Unset, true
		case kind == 1:
			options = options[1:]
		case len(options) < 2 || options[1] < 2 || int(options[1]) > len(options):
			return verdict.BadTCP, false
		default:
			options = options[options[1]:]
		}
	}
	return verdict.Unset, true
}

func (d *Decoder) fillIPv4(frame []byte, p *Packet) (verdict.Verdict, bool) {
	failpoint.Reach()
	ip := &d.ip4
	p.Flow.Src, _ = netip.AddrFromSlice(ip.SrcIP)
	p.Flow.Dst, _ = netip.AddrFromSlice(ip.DstIP)
	p.Flow.Protocol = uint8(ip.Protocol)
	p.L4 = p.L3 + int(ip.IHL)*4
	p.Payload = p.L4
	p.Len = p.L3 + int(ip.Length)
	p.FragID = ip.Id
	p.FragOffset = int(ip.FragOffset) * 8
	p.MoreFollow = ip.Flags&layers.IPv4MoreFragments != 0
	p.DontFragment = ip.Flags&layers.IPv4DontFragment != 0
	p.Fragment = p.MoreFollow || p.FragOffset > 0
	p.FragLen = p.Len - p.L4
	p.HasL4 = p.FragOffset == 0
	if !p.HasL4 {
		return verdict.Unset, true
	}
	l4 := frame[p.L4:p.Len]
	switch p.Flow.Protocol {
	case ProtocolTCP:
		p.Flow.SrcPort, p.Flow.DstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		p.TCPFlags = l4[13]
		p.Payload += int(l4[12]>>4) * 4
	case ProtocolUDP:
		p.Flow.SrcPort, p.Flow.DstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		p.Payload += udpLen
	case ProtocolICMP:
		d.fillICMP(l4, p)
	}
	return verdict.Unset, true
}

func (d *Decoder) fillICMP(l4 []byte, p *Packet) {
	p.ICMPType, p.ICMPCode = l4[0], l4[1]
	p.Payload += icmpLen
	switch p.ICMPType {
	case ICMPEcho, ICMPEchoReply, ICMPTimestamp, ICMPTimestampReply:
		id := binary.BigEndian.Uint16(l4[4:])
		p.Flow.SrcPort, p.Flow.DstPort = id, id
	case ICMPUnreachable, ICMPSourceQuench, ICMPRedirect, ICMPTimeExceeded, ICMPParameter:
		p.IsICMPError = true
		p.QuotedL3 = p.L4 + icmpLen
		p.HasQuoted = !p.Fragment && fillQuoted(l4[icmpLen:], p)
	}
}

// fillQuoted reads the packet inside an ICMP error: its IP header and the first eight
// bytes behind it (RFC 792). The bytes there may have been cut off; they are the only
// ones that are looked at.
func fillQuoted(b []byte, p *Packet) bool {
	failpoint.Reach()
	if len(b) < ipv4MinLen || b[0]>>4 != 4 {
		return false
	}
	headerLen := int(b[0]&15) * 4
	if headerLen < ipv4MinLen || len(b) < headerLen+8 || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return false
	}
	p.Quoted.Protocol = b[9]
	p.Quoted.Src = netip.AddrFrom4([4]byte(b[12:16]))
	p.Quoted.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	switch l4 := b[headerLen:]; p.Quoted.Protocol {
	case ProtocolTCP, ProtocolUDP:
		p.Quoted.SrcPort, p.Quoted.DstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	case ProtocolICMP:
		id := binary.BigEndian.Uint16(l4[4:])
		p.QuotedICMP = l4[0]
		p.Quoted.SrcPort, p.Quoted.DstPort = id, id
	}
	return true
}
