// Package verdict lists every fate a frame can have.
//
// A frame ends in exactly one Verdict, counted once, at the port it concerns. Each
// verdict that drops is produced in exactly one function of the data path, so one
// search for its name answers where, and `palisade drops` answers how many.
package verdict

// A Verdict is the fate of one frame. The zero value drops, so a forgotten return
// fails closed and shows up in the counters as Unset.
type Verdict uint8

const (
	Unset Verdict = iota // no decision was made: a bug

	// Fates that are not drops.

	Forward  // delivered to the port it was due at
	Answered // consumed by the switch itself: ARP for a known address

	// The frame cannot be what it claims: packet.Decode.

	Runt         // shorter than its headers say
	BadVersion   // the IP version nibble contradicts the EtherType
	BadLength    // an IP, TCP or UDP length that contradicts the frame
	BadTCP       // data offset or a set of flags no TCP sends
	BadARP       // not an Ethernet/IPv4 request or reply
	BadProtocol  // IP protocol 0, which no IPv4 packet carries
	BadOffload   // a virtio header that contradicts the packet behind it
	NotIP        // neither IPv4, IPv6 nor ARP: VLAN, LLC, MPLS and the like
	IPv6         // IPv6, which is not carried yet
	SourceRoute  // an IPv4 source-route option
	TinyFragment // a first fragment without its whole L4 header, or a later one reaching into it
	TooBig       // larger than the MTU of the network

	// The frame may not be sent by this port.

	NotReady     // the port has no tables yet, or is no longer leased
	SpoofedMAC   // the source MAC is not the interface's
	SpoofedIP    // the source address is not the interface's
	SpoofedARP   // ARP sender fields that are not the interface's
	DHCPServer   // an instance that offers addresses
	BadSource    // from outside: a source of the network, a public pool, loopback, link-local or multicast
	NotUnicast   // broadcast or multicast, which no EC2 network carries
	WrongMAC     // addressed to a MAC that is neither the owner's nor the gateway's
	ARPIgnored   // ARP for an address nobody answers for, or the asker's own
	NoRoute      // nobody has that address, or there is no way out to it
	GatewayLocal // addressed to the gateway itself, which serves nothing
	NotRouted    // the routes of the subnet lead it to no internet gateway

	// The firewall decided.

	NoRule         // no rule of any group admits it
	Revoked        // its connection was cut when a rule went
	NoConnection   // an ICMP error about a connection that is not there
	OrphanFragment // a later fragment whose first has not been admitted
	FragmentsFull  // a first fragment beyond the datagrams that may be under way
	OverlapFrag    // fragments that overlap, or reach past the longest datagram
	TableFull      // a new connection beyond conntrack_allowance_exceeded

	// It came, or was to go, through a tunnel between nodes.

	TunnelUnknown  // the datagram has no known format, index or sender address
	TunnelForged   // its seal does not open
	TunnelReplayed // received before, or so late that it may have been
	TunnelDown     // there are no keys for the node that has the address
	TunnelForeign  // from an interface that is not leased to the sending node, or not in that interface's name

	// The device took it from its queue and could not hand it to the switch: Lost.

	ShortRead      // the kernel returned fewer bytes than a virtio header has
	UnknownOffload // the kernel has it in segments that no virtio header can describe, and discarded it

	// The destination could not take it.

	WriteFailed // the device refused the frame
	OverShare   // writing to the port takes so long that it is limited to its share of the poller's time

	// The switch protects itself.

	PipelinePanicked // it, or a frame before it in its batch, made the pipeline panic
	PortShut         // to or from a port that was shut because its frames made the pipeline panic

	Count // how many verdicts there are; keep last
)

var names = [Count]string{
	Unset: "unset", Forward: "forward", Answered: "answered",
	Runt: "runt", BadVersion: "bad-version", BadLength: "bad-length", BadTCP: "bad-tcp",
	BadARP: "bad-arp", BadProtocol: "bad-protocol", BadOffload: "bad-offload", NotIP: "not-ip",
	IPv6: "ipv6", SourceRoute: "source-route", TinyFragment: "tiny-fragment", TooBig: "too-big",
	NotReady: "not-ready", SpoofedMAC: "spoofed-mac", SpoofedIP: "spoofed-ip", SpoofedARP: "spoofed-arp",
	DHCPServer: "dhcp-server", BadSource: "bad-source", NotUnicast: "not-unicast", WrongMAC: "wrong-mac",
	ARPIgnored: "arp-ignored", NoRoute: "no-route", GatewayLocal: "gateway-local",
	NotRouted: "not-routed",
	NoRule:    "no-rule", Revoked: "revoked", NoConnection: "no-connection",
	OrphanFragment: "orphan-fragment", FragmentsFull: "fragment-table-full", OverlapFrag: "overlapping-fragment",
	TableFull:     "conntrack_allowance_exceeded",
	TunnelUnknown: "tunnel-unknown", TunnelForged: "tunnel-forged", TunnelReplayed: "tunnel-replayed",
	TunnelDown: "tunnel-down", TunnelForeign: "tunnel-foreign",
	ShortRead: "short-read", UnknownOffload: "unknown-offload", WriteFailed: "write-failed",
	OverShare: "over-share", PipelinePanicked: "pipeline-panicked", PortShut: "port-shut",
}

var meanings = [Count]string{
	Unset:          "no decision was made; this is a bug",
	Forward:        "delivered",
	Answered:       "answered by the switch",
	Runt:           "shorter than its headers say",
	BadVersion:     "IP version contradicts the EtherType",
	BadLength:      "IP, TCP or UDP length contradicts the frame",
	BadTCP:         "TCP data offset or flags that no TCP sends",
	BadARP:         "malformed ARP",
	BadProtocol:    "IP protocol 0",
	BadOffload:     "offload header contradicts the packet",
	NotIP:          "neither IPv4, IPv6 nor ARP",
	IPv6:           "IPv6 is not carried",
	SourceRoute:    "IPv4 source-route option",
	TinyFragment:   "fragment without its whole transport header",
	TooBig:         "larger than the MTU",
	NotReady:       "the port has no rules yet, or is no longer leased",
	SpoofedMAC:     "source MAC is not the interface's",
	SpoofedIP:      "source address is not the interface's",
	SpoofedARP:     "ARP sender is not the interface",
	DHCPServer:     "DHCP server traffic from an instance",
	BadSource:      "source that cannot come from outside",
	NotUnicast:     "broadcast or multicast",
	WrongMAC:       "destination MAC is neither the owner's nor the gateway's",
	ARPIgnored:     "ARP that gets no answer",
	NoRoute:        "nobody has that address",
	GatewayLocal:   "the gateway serves nothing itself",
	NotRouted:      "the subnet has no route to an internet gateway for it",
	NoRule:         "no rule of any group admits it",
	Revoked:        "its connection was cut when a rule went",
	NoConnection:   "ICMP error about no known connection",
	OrphanFragment: "fragment whose first was not admitted",
	FragmentsFull:  "too many fragmented datagrams under way",
	OverlapFrag:    "overlapping or oversized fragments",
	TableFull:      "new connection beyond the tracking allowance",
	TunnelUnknown:  "datagram that belongs to no tunnel of this node",
	TunnelForged:   "datagram whose seal does not open",
	TunnelReplayed: "datagram received before",
	TunnelDown:     "no tunnel to the node that has the address",
	TunnelForeign:  "sent in the name of an interface that its node does not have",
	ShortRead:      "the kernel returned less than an offload header",
	UnknownOffload: "segments that no offload header can describe",
	WriteFailed:    "the device refused the frame",
	OverShare:      "writing to the port takes too long, so it gets few frames",

	PipelinePanicked: "it, or a frame before it, made the switch panic",
	PortShut:         "the port was shut after its frames made the switch panic",
}

// String is the counter's name, in the code, the command line and the console.
func (v Verdict) String() string {
	if v < Count {
		return names[v]
	}
	return "invalid"
}

// Meaning says in a few words why a frame ends this way.
func (v Verdict) Meaning() string {
	if v < Count {
		return meanings[v]
	}
	return "not a verdict"
}

// Drops reports whether a frame with this verdict went nowhere.
func (v Verdict) Drops() bool { return v != Forward && v != Answered }

// Lost is the error of a device's Read that took one frame from the queue and has nothing to return. It is the
// verdict of that frame.
type Lost Verdict

func (l Lost) Error() string { return "frame lost: " + Verdict(l).Meaning() }
