// Package packettest builds frames for tests, well-formed unless told otherwise.
package packettest

import (
	"net"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"palisade/internal/packet"
)

// A Frame says what to build. The zero MACs are 02:00:00:00:00:01 to :02.
type Frame struct {
	Flow           packet.Flow
	SrcMAC, DstMAC packet.MAC
	TCPFlags       uint8
	ICMPType       uint8
	ICMPCode       uint8
	Payload        []byte
	FragID         uint16
	FragOffset     int // bytes
	MoreFollow     bool
}

// Build serializes f with correct lengths and checksums.
func Build(f Frame) []byte {
	if f.SrcMAC == (packet.MAC{}) {
		f.SrcMAC = packet.MAC{2, 0, 0, 0, 0, 1}
	}
	if f.DstMAC == (packet.MAC{}) {
		f.DstMAC = packet.MAC{2, 0, 0, 0, 0, 2}
	}
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocol(f.Flow.Protocol), Id: f.FragID,
		SrcIP: f.Flow.Src.AsSlice(), DstIP: f.Flow.Dst.AsSlice(), FragOffset: uint16(f.FragOffset / 8),
	}
	if f.MoreFollow {
		ip.Flags = layers.IPv4MoreFragments
	}
	all := []gopacket.SerializableLayer{
		&layers.Ethernet{SrcMAC: net.HardwareAddr(f.SrcMAC[:]), DstMAC: net.HardwareAddr(f.DstMAC[:]), EthernetType: layers.EthernetTypeIPv4},
		ip,
	}
	if f.FragOffset == 0 {
		switch f.Flow.Protocol {
		case packet.ProtocolTCP:
			flags := f.TCPFlags
			tcp := &layers.TCP{
				SrcPort: layers.TCPPort(f.Flow.SrcPort), DstPort: layers.TCPPort(f.Flow.DstPort), Window: 1024,
				FIN: flags&packet.FIN != 0, SYN: flags&packet.SYN != 0, RST: flags&packet.RST != 0,
				PSH: flags&packet.PSH != 0, ACK: flags&packet.ACK != 0, URG: flags&packet.URG != 0,
			}
			must(tcp.SetNetworkLayerForChecksum(ip))
			all = append(all, tcp)
		case packet.ProtocolUDP:
			udp := &layers.UDP{SrcPort: layers.UDPPort(f.Flow.SrcPort), DstPort: layers.UDPPort(f.Flow.DstPort)}
			must(udp.SetNetworkLayerForChecksum(ip))
			all = append(all, udp)
		case packet.ProtocolICMP:
			all = append(all, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(f.ICMPType, f.ICMPCode), Id: f.Flow.SrcPort})
		}
	}
	return serialize(append(all, gopacket.Payload(f.Payload))...)
}

// ARP builds a request (operation 1) or reply (2).
func ARP(operation uint16, sender packet.MAC, senderIP, targetIP netip.Addr) []byte {
	return serialize(
		&layers.Ethernet{SrcMAC: net.HardwareAddr(sender[:]), DstMAC: net.HardwareAddr{255, 255, 255, 255, 255, 255}, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: operation, SourceHwAddress: sender[:], SourceProtAddress: senderIP.AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: targetIP.AsSlice(),
		})
}

// ICMPError builds the error (type, code) that quotes the IP packet inside frame.
func ICMPError(icmpType, code uint8, src, dst netip.Addr, frame []byte, srcMAC, dstMAC packet.MAC) []byte {
	quoted := frame[14:]
	return Build(Frame{
		Flow:     packet.Flow{Src: src, Dst: dst, Protocol: packet.ProtocolICMP},
		ICMPType: icmpType, ICMPCode: code, Payload: quoted[:min(len(quoted), 28)], SrcMAC: srcMAC, DstMAC: dstMAC,
	})
}

func serialize(all ...gopacket.SerializableLayer) []byte {
	buf := gopacket.NewSerializeBuffer()
	must(gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...))
	// gopacket pads to the 60 bytes of a wire; a TAP does not.
	n := 14
	for _, l := range all[1:] {
		switch l := l.(type) {
		case *layers.IPv4:
			n += int(l.Length)
		case *layers.ARP:
			n += 28
		}
	}
	return buf.Bytes()[:n]
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
