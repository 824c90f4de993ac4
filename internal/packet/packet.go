// Package packet turns the bytes of a frame into values, once, and changes them in place.
//
// Decode is the only door: it reads a frame through one reused gopacket
// DecodingLayerParser, surrounded by the checks gopacket leaves to its caller, and fills
// a flat Packet. A frame that gets past it has lengths, header sizes and flags that
// agree with each other, so nothing behind it checks a bound again. Sanitize does the
// same for the virtio header in front of the frame.
//
// The rest edits frames that Decode has accepted: SetMACs, RewriteSource and
// RewriteDestination (1:1 NAT, with every checksum), FinishChecksum and Segment for
// devices without offloads, and ARPReply.
//
// It decides nothing about who may talk to whom, keeps no state between frames, and
// allocates nothing. It is the only importer of gopacket.
package packet

import (
	"net/netip"

	"palisade/ec2"
)

// EtherTypes that are looked into.
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86dd
)

// IP protocols whose headers are looked into.
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

// ICMP types that connections are made of; the rest is judged by rules alone.
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

// A Flow is one direction of a connection. For an ICMP query and its answer both ports
// hold the identifier; for what has no ports they are zero.
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

	L3      int // where the IP header begins
	L4      int // where the transport header begins
	Payload int // where the transport payload begins; L4 for what has no known header
	Len     int // the frame without Ethernet padding

	// A fragment that is not the first has HasL4 false and no ports in Flow.
	HasL4        bool
	Fragment     bool   // MF is set or the offset is not zero
	MoreFollow   bool   // MF
	DontFragment bool   // DF
	FragID       uint16 // IP identification
	FragOffset   int    // in bytes
	FragLen      int    // bytes of IP payload here
	Partial      bool   // the transport checksum covers the pseudo-header only (virtio NEEDS_CSUM)
	Segments     uint32 // how many packets this frame is on a wire
	Quoted       Flow   // the packet an ICMP error is about, in the direction it was sent
	QuotedL3     int    // where the quoted IP header begins
	QuotedICMP   uint8  // ICMP type of the quoted packet
	HasQuoted    bool
	IsICMPError  bool
	ARPOperation uint16
	ARPSender    ec2.MAC
	ARPSenderIP  netip.Addr
	ARPTargetIP  netip.Addr
}

// An Origin is the interface that a frame from another node was sent by, as that node says
// inside the seal. The node itself is who the seal says it is.
type Origin struct {
	Node  uint32 // number of the sending node; never 0 in what was received
	VNI   uint32 // of the network the receiver is in
	Epoch uint64 // of the sending interface's lease
	// Unnamed: it said no more than the network, so that Epoch is nothing. Only what a
	// node received on a trusted underlay is.
	Unnamed bool
}

// IsFirstSYN reports whether the packet asks for a new TCP connection.
func (p *Packet) IsFirstSYN() bool {
	return p.Flow.Protocol == ProtocolTCP && p.TCPFlags&(SYN|ACK) == SYN
}

// RuleKey is what a rule's range is compared with: the destination port, or for ICMP
// the type in the high byte and the code in the low one, else zero.
func (p *Packet) RuleKey() uint16 {
	switch p.Flow.Protocol {
	case ProtocolTCP, ProtocolUDP:
		return p.Flow.DstPort
	case ProtocolICMP:
		return uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
	}
	return 0
}
