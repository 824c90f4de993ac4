// Package packet decodes the bytes of a frame into values, and changes frames in place.
//
// Decode reads a frame with one reused gopacket DecodingLayerParser, makes the checks that
// gopacket leaves to its caller, and fills a flat Packet. The lengths, header sizes and
// flags of a frame that Decode accepts agree with each other, so later code checks no
// bounds. Sanitize does the same for the virtio header before the frame.
//
// The other functions edit frames that Decode has accepted: SetMACs, RewriteSource and
// RewriteDestination (1:1 NAT, with every checksum), FinishChecksum and Segment for
// devices without offloads, and ARPReply. A Train joins packets into one frame, and a Cutter
// cuts such a frame into packets.
//
// The package does not decide which packets may pass. Its functions allocate nothing on the
// data path; only Decoder, Train and Cutter keep state. It is the only importer of gopacket.
package packet

import (
	"net/netip"

	"palisade/ec2"
)

// EtherTypes that Decode knows.
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86dd
)

// IP protocols whose headers Decode reads.
const (
	ProtocolICMP = 1
	ProtocolTCP  = 6
	ProtocolUDP  = 17
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// ICMP types of queries, replies and errors that Decode reads. Packets of other types belong
// to no connection.
const (
	ICMPEchoReply      = 0
	ICMPUnreachable    = 3
	ICMPSourceQuench   = 4
	ICMPRedirect       = 5
	ICMPEcho           = 8
	ICMPTimeExceeded   = 11
	ICMPParameter      = 12
	ICMPTimestamp      = 13
	ICMPTimestampReply = 14
)

// A Flow is one direction of a connection. For an ICMP query and its reply both ports are
// the identifier. For other protocols without ports they are zero.
type Flow struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Protocol         uint8
}

// A Packet is what Decode found in one frame. Offsets count from the Ethernet header.
type Packet struct {
	DstMAC, SrcMAC ec2.MAC
	EtherType      uint16

	Flow     Flow
	TCPFlags uint8
	ICMPType uint8
	ICMPCode uint8

	TCPSeq      uint32
	TCPAck      uint32
	TCPWindow   uint16 // as in the header, before scaling
	TCPScale    uint8  // window scale of a SYN (RFC 7323 §2)
	TCPHasScale bool   // false without the option, and in segments without SYN

	L3      int // where the IP header begins
	L4      int // where the transport header begins
	Payload int // where the transport payload begins; equals L4 if the transport header is unknown
	Len     int // length of the frame without Ethernet padding

	// In a fragment that is not the first, HasL4 is false and Flow has no ports.
	HasL4        bool
	Fragment     bool   // MF is set or the offset is not zero
	MoreFollow   bool   // MF
	DontFragment bool   // DF
	FragID       uint16 // IP identification
	FragOffset   int    // in bytes
	FragLen      int    // bytes of IP payload in this fragment
	Partial      bool   // the transport checksum covers the pseudo-header only (virtio NEEDS_CSUM)
	Segments     uint32 // number of packets that the frame stands for
	Largest      int    // bytes of the largest IP packet that the frame stands for; 0 for ARP
	Quoted       Flow   // flow of the packet that an ICMP error quotes, in the direction that packet was sent
	QuotedL3     int    // where the quoted IP header begins
	QuotedICMP   uint8  // ICMP type of the quoted packet
	HasQuoted    bool
	IsICMPError  bool
	ARPOperation uint16
	ARPSender    ec2.MAC
	ARPSenderIP  netip.Addr
	ARPTargetIP  netip.Addr
}

// An Origin names the interface that sent a frame on another node. The seal of the datagram
// proves which node sent it; the interface is what that node claims.
type Origin struct {
	Node  uint32 // number of the sending node; never 0 in a received datagram
	VNI   uint32 // of the network that the receiver is in
	Epoch uint64 // of the sending interface's lease
	// Unnamed: the datagram names a network and no interface, so Epoch is unset. Only
	// datagrams of a trusted underlay (VXLAN) are unnamed.
	Unnamed bool
}

// IsFirstSYN reports whether the packet asks for a new TCP connection.
func (p *Packet) IsFirstSYN() bool {
	return p.Flow.Protocol == ProtocolTCP && p.TCPFlags&(SYN|ACK) == SYN
}

// RuleKey returns the number that is compared with a rule's range: the destination port;
// for ICMP the type in the high byte and the code in the low byte; zero for other
// protocols.
func (p *Packet) RuleKey() uint16 {
	switch p.Flow.Protocol {
	case ProtocolTCP, ProtocolUDP:
		return p.Flow.DstPort
	case ProtocolICMP:
		return uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
	}
	return 0
}
