package packet

import (
	"cmp"
	"fmt"
	"net"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"palisade/ec2"
)

// A Template describes a frame that Compose builds.
type Template struct {
	Flow           Flow
	SrcMAC, DstMAC ec2.MAC
	TCPFlags       uint8
	TCPSeq, TCPAck uint32
	TCPWindow      uint16 // Default: 1024
	TCPScale       uint8  // option of a SYN (RFC 7323). Default: no option
	ICMPType       uint8
	ICMPCode       uint8
	Payload        []byte
	FragID         uint16
	FragOffset     int // bytes
	MoreFollow     bool
	DontFragment   bool
}

// Compose builds an IPv4 frame with correct lengths and checksums, for traces and tests. It
// is not part of the data path.
func Compose(t Template) ([]byte, error) {
	if !t.Flow.Src.Is4() || !t.Flow.Dst.Is4() {
		return nil, fmt.Errorf("compose %v: not IPv4", t.Flow)
	}
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocol(t.Flow.Protocol), Id: t.FragID,
		SrcIP: t.Flow.Src.AsSlice(), DstIP: t.Flow.Dst.AsSlice(), FragOffset: uint16(t.FragOffset / 8),
	}
	if t.MoreFollow {
		ip.Flags |= layers.IPv4MoreFragments
	}
	if t.DontFragment {
		ip.Flags |= layers.IPv4DontFragment
	}
	all := []gopacket.SerializableLayer{
		&layers.Ethernet{SrcMAC: net.HardwareAddr(t.SrcMAC[:]), DstMAC: net.HardwareAddr(t.DstMAC[:]), EthernetType: layers.EthernetTypeIPv4},
		ip,
	}
	if t.FragOffset == 0 {
		if l4 := t.transport(ip); l4 != nil {
			all = append(all, l4)
		}
	}
	buf := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, options, append(all, gopacket.Payload(t.Payload))...); err != nil {
		return nil, fmt.Errorf("compose %v: %w", t.Flow, err)
	}
	// gopacket pads to the 60 bytes of Ethernet; a TAP does not.
	return buf.Bytes()[:ethernetLen+int(ip.Length)], nil
}

func (t *Template) transport(ip *layers.IPv4) gopacket.SerializableLayer {
	switch t.Flow.Protocol {
	case ProtocolTCP:
		tcp := &layers.TCP{
			SrcPort: layers.TCPPort(t.Flow.SrcPort), DstPort: layers.TCPPort(t.Flow.DstPort),
			Seq: t.TCPSeq, Ack: t.TCPAck, Window: cmp.Or(t.TCPWindow, 1024),
			FIN: t.TCPFlags&FIN != 0, SYN: t.TCPFlags&SYN != 0, RST: t.TCPFlags&RST != 0,
			PSH: t.TCPFlags&PSH != 0, ACK: t.TCPFlags&ACK != 0, URG: t.TCPFlags&URG != 0,
		}
		if t.TCPScale != 0 {
			tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{t.TCPScale}}}
		}
		_ = tcp.SetNetworkLayerForChecksum(ip) // it fails only for other layers than IP
		return tcp
	case ProtocolUDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(t.Flow.SrcPort), DstPort: layers.UDPPort(t.Flow.DstPort)}
		_ = udp.SetNetworkLayerForChecksum(ip)
		return udp
	case ProtocolICMP:
		return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(t.ICMPType, t.ICMPCode), Id: t.Flow.SrcPort}
	}
	return nil
}
