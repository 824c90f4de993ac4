package traffic

import (
	"encoding/binary"
	"fmt"

	"palisade/internal/packet"
)

// The layout of a frame: an Ethernet header, an IPv4 header without options, a UDP header.
const (
	ethernetLen = 14
	udpAt       = ethernetLen + 20
	headersLen  = udpAt + 8
	checksumLen = 4 // the Ethernet checksum, which virtual devices do not carry
	// The flows have sourcePorts source ports, from firstSource on.
	firstSource = 10_000
	sourcePorts = 50_000
)

// MaxFlows is the largest number of flows to one port of the sink.
const MaxFlows = sourcePorts

// A framer makes the frames of a stream. Each frame belongs to the flow after that of the
// previous frame.
type framer struct {
	template []byte // without Ethernet header for a device that has none
	udp      int    // offset of the UDP header
	sum      uint32 // partial UDP checksum without the ports, not folded
	flows    uint32
	port     uint16
	next     uint32
}

func newFramer(s Send) (*framer, error) {
	flows := max(1, s.Flows)
	if flows > sourcePorts*max(1, s.SinkPorts) {
		return nil, fmt.Errorf("%d flows to %d ports: at most %d flows to a port are possible", flows, max(1, s.SinkPorts), sourcePorts)
	}
	payload := s.Size - checksumLen - headersLen
	if payload < 0 {
		return nil, fmt.Errorf("a frame of %d bytes: a UDP frame has at least %d", s.Size, checksumLen+headersLen)
	}
	f := &framer{flows: uint32(flows), port: uint16(s.Port)}
	if s.Port < 1 || s.Port > 65535 {
		return nil, fmt.Errorf("the sink cannot have port %d", s.Port)
	}
	var err error
	f.template, err = packet.Compose(packet.Template{
		Flow:   packet.Flow{Src: s.From, Dst: s.To, Protocol: packet.ProtocolUDP, SrcPort: 0, DstPort: 0},
		SrcMAC: s.FromMAC, DstMAC: s.ToMAC, Payload: make([]byte, payload), DontFragment: true, // as Linux sends it
	})
	if err != nil {
		return nil, err
	}
	f.udp = udpAt
	f.sum = uint32(^binary.BigEndian.Uint16(f.template[udpAt+6:]))
	if s.ToMAC == [6]byte{} {
		f.template, f.udp = f.template[ethernetLen:], udpAt-ethernetLen
	}
	return f, nil
}

// fill writes the ports and the checksum of the next flow to frame, a copy of the template.
func (f *framer) fill(frame []byte) {
	flow := f.next
	if f.next++; f.next == f.flows {
		f.next = 0
	}
	from, to := uint16(firstSource+flow%sourcePorts), f.port+uint16(flow/sourcePorts)
	sum := f.sum + uint32(from) + uint32(to)
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	checksum := ^uint16(sum)
	if checksum == 0 {
		checksum = 0xffff // RFC 768: zero means no checksum
	}
	udp := frame[f.udp : f.udp+8]
	binary.BigEndian.PutUint16(udp, from)
	binary.BigEndian.PutUint16(udp[2:], to)
	binary.BigEndian.PutUint16(udp[6:], checksum)
}
