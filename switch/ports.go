package vswitch

import (
	"palisade/conntrack"
	"palisade/firewall"
	"palisade/internal/packet"
)

// openPorts returns the ports whose loss a zone must notice: those that the rules open to the whole
// world and, in a strict network, those that any rule opens.
func openPorts(rules *firewall.Set, strict bool, lists *firewall.Lists) []conntrack.Ports {
	var all []conntrack.Ports
	for _, protocol := range [...]uint8{packet.ProtocolTCP, packet.ProtocolUDP} {
		for _, r := range rules.Ingress.OpenRanges(protocol, strict, lists) {
			all = append(all, conntrack.Ports{Protocol: protocol, From: r.From, To: r.To, Source: r.Source})
		}
	}
	return all
}
