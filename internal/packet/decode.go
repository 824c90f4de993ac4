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

// A Decoder decodes frames. It reuses its layers for each frame, so every poller owns one,
// and only one goroutine may use it.
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

// outermostIPv4 stops gopacket after the outer header of IP in IP. Without it gopacket
// would decode the inner packet into the same layer, and the inner addresses would be
// judged.
type outermostIPv4 struct{ layers.IPv4 }

// NextLayerType returns TCP, UDP or ICMP, and payload for all other protocols.
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
	// The poller must get the panics of gopacket: it knows the frame, and counts them.
	d.parser.IgnorePanic = true
	return d
}

// Decode fills p from frame, which begins with the Ethernet header. If it returns false,
// the verdict says what is wrong with the frame, and p must not be used.
//
// gopacket returns errors that allocate, does not compare the IPv4 version nibble, takes a
// total length of zero as the whole buffer, and decodes no transport header of any
// fragment, not even of the first. Therefore check() compares every length before gopacket
// sees the bytes, and fill() reads the ports of first fragments itself.
func (d *Decoder) Decode(frame []byte, p *Packet) (verdict.Verdict, bool) {
	failpoint.Reach()
	*p = Packet{Segments: 1}
	if v, ok := check(frame); !ok {
		return v, false
	}
	if err := d.parser.DecodeLayers(frame, &d.decoded); err != nil {
		return verdict.Unset, false // a bug: the function check must find what gopacket refuses
	}
	copy(p.DstMAC[:], d.ethernet.DstMAC)
	copy(p.SrcMAC[:], d.ethernet.SrcMAC)
	p.EtherType = uint16(d.ethernet.EthernetType)
	p.L3 = ethernetLen
	if p.EtherType == EtherTypeARP {
		d.fillARP(p)
	} else {
		d.fillIPv4(frame, p)
	}
	return verdict.Unset, true
}

// PeekFlow reads the flow of a TCP or UDP frame without IP options and fragments. It
// returns false for other frames. It checks nothing else, so its result is a guess of what
// Decode will return.
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

func (d *Decoder) fillARP(p *Packet) {
	failpoint.Reach()
	p.Len = ethernetLen + arpLen
	p.ARPOperation = d.arp.Operation
	copy(p.ARPSender[:], d.arp.SourceHwAddress)
	p.ARPSenderIP, _ = netip.AddrFromSlice(d.arp.SourceProtAddress)
	p.ARPTargetIP, _ = netip.AddrFromSlice(d.arp.DstProtAddress)
}

func (d *Decoder) fillIPv4(frame []byte, p *Packet) {
	failpoint.Reach()
	ip := &d.ip4
	p.Flow.Src, _ = netip.AddrFromSlice(ip.SrcIP)
	p.Flow.Dst, _ = netip.AddrFromSlice(ip.DstIP)
	p.Flow.Protocol = uint8(ip.Protocol)
	p.L4 = p.L3 + int(ip.IHL)*4
	p.Payload = p.L4
	p.Len = p.L3 + int(ip.Length)
	p.Largest = int(ip.Length)
	p.FragID = ip.Id
	p.FragOffset = int(ip.FragOffset) * 8
	p.MoreFollow = ip.Flags&layers.IPv4MoreFragments != 0
	p.DontFragment = ip.Flags&layers.IPv4DontFragment != 0
	p.Fragment = p.MoreFollow || p.FragOffset > 0
	p.FragLen = p.Len - p.L4
	p.HasL4 = p.FragOffset == 0
	if !p.HasL4 {
		return
	}
	l4 := frame[p.L4:p.Len]
	switch p.Flow.Protocol {
	case ProtocolTCP:
		p.Flow.SrcPort, p.Flow.DstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		p.TCPFlags = l4[13]
		p.TCPSeq, p.TCPAck = binary.BigEndian.Uint32(l4[4:]), binary.BigEndian.Uint32(l4[8:])
		p.TCPWindow = binary.BigEndian.Uint16(l4[14:])
		p.Payload += int(l4[12]>>4) * 4
		if p.TCPFlags&SYN != 0 {
			p.TCPScale, p.TCPHasScale = windowScale(l4[tcpMinLen : p.Payload-p.L4])
		}
	case ProtocolUDP:
		p.Flow.SrcPort, p.Flow.DstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		p.Payload += udpLen
	case ProtocolICMP:
		d.fillICMP(l4, p)
	}
}

// windowScale returns the window scale in the options of a TCP header, which validTCP has
// checked; false if there is none.
func windowScale(options []byte) (uint8, bool) {
	const end, noOperation, scale = 0, 1, 3
	for len(options) > 0 && options[0] != end {
		switch {
		case options[0] == noOperation:
			options = options[1:]
			continue
		case options[0] == scale && options[1] == 3:
			return options[2], true
		}
		options = options[options[1]:]
	}
	return 0, false
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

// fillQuoted reads the packet inside an ICMP error: its IP header and the first eight bytes
// after it (RFC 792). It returns false if these are truncated. It reads no further bytes.
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
