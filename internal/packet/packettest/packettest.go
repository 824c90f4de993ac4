// Package packettest builds valid and malformed frames for tests.
package packettest

import (
	"encoding/binary"
	"net/netip"

	"palisade/ec2"
	"palisade/internal/packet"
)

// A Frame describes a frame to build. Zero MACs become 02:00:00:00:00:01 (source) and
// 02:00:00:00:00:02 (destination).
type Frame = packet.Template

// Build returns the bytes of f. It panics if f cannot be built.
func Build(f Frame) []byte {
	if f.SrcMAC == (ec2.MAC{}) {
		f.SrcMAC = ec2.MAC{2, 0, 0, 0, 0, 1}
	}
	if f.DstMAC == (ec2.MAC{}) {
		f.DstMAC = ec2.MAC{2, 0, 0, 0, 0, 2}
	}
	b, err := packet.Compose(f)
	if err != nil {
		panic(err)
	}
	return b
}

// ARP builds an ARP request (operation 1) or reply (operation 2).
func ARP(operation uint16, sender ec2.MAC, senderIP, targetIP netip.Addr) []byte {
	b := packet.Announcement(make([]byte, 42), sender, senderIP)
	binary.BigEndian.PutUint16(b[20:], operation)
	target := targetIP.As4()
	copy(b[38:], target[:])
	return b
}

// ICMPError builds an ICMP error that quotes the IP packet of frame.
func ICMPError(icmpType, code uint8, src, dst netip.Addr, frame []byte, srcMAC, dstMAC ec2.MAC) []byte {
	quoted := frame[14:]
	return Build(Frame{
		Flow:     packet.Flow{Src: src, Dst: dst, Protocol: packet.ProtocolICMP},
		ICMPType: icmpType, ICMPCode: code, Payload: quoted[:min(len(quoted), 28)], SrcMAC: srcMAC, DstMAC: dstMAC,
	})
}

// Reverse returns the flow of the replies to f.
func Reverse(f packet.Flow) packet.Flow {
	return packet.Flow{Src: f.Dst, Dst: f.Src, SrcPort: f.DstPort, DstPort: f.SrcPort, Protocol: f.Protocol}
}
