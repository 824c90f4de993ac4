package packet

import (
	"fmt"
	"strings"
)

func (f Flow) String() string {
	return fmt.Sprintf("%s %s:%d > %s:%d", ProtocolName(f.Protocol), f.Src, f.SrcPort, f.Dst, f.DstPort)
}

// ProtocolName returns the name of an IP protocol whose headers Decode reads, and the
// number of any other.
func ProtocolName(p uint8) string {
	switch p {
	case ProtocolICMP:
		return "icmp"
	case ProtocolTCP:
		return "tcp"
	case ProtocolUDP:
		return "udp"
	}
	return fmt.Sprint(p)
}

// String describes the packet in one line, as tcpdump does.
func (p *Packet) String() string {
	if p.EtherType == EtherTypeARP {
		return fmt.Sprintf("arp operation %d, %v (%v) asks for %v", p.ARPOperation, p.ARPSenderIP, p.ARPSender, p.ARPTargetIP)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v", p.Flow)
	switch {
	case p.Fragment && !p.HasL4:
	case p.Flow.Protocol == ProtocolTCP:
		fmt.Fprintf(&b, ", flags %s", flagNames(p.TCPFlags))
	case p.Flow.Protocol == ProtocolICMP:
		fmt.Fprintf(&b, ", type %d, code %d", p.ICMPType, p.ICMPCode)
	}
	fmt.Fprintf(&b, ", %d bytes", p.Len-p.L3)
	if p.Segments > 1 {
		fmt.Fprintf(&b, " for %d packets", p.Segments)
	}
	if p.Fragment {
		fmt.Fprintf(&b, ", fragment of id %d at %d, more follow: %t", p.FragID, p.FragOffset, p.MoreFollow)
	}
	if p.HasQuoted {
		fmt.Fprintf(&b, ", about %v", p.Quoted)
	}
	return b.String()
}

// flagNames returns the names of TCP flags, such as "SYN+ACK", and "none" without flags.
func flagNames(flags uint8) string {
	var names []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if flags&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, "+")
}
