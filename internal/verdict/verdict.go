// Package verdict lists every outcome that a frame can have.
//
// A frame gets exactly one Verdict, which one port counts once. Exactly one function of the
// data path makes each dropping verdict, so a search for its name shows where frames are
// dropped; `palisade drops` shows how many.
package verdict

// A Verdict is the outcome of one frame. The zero value drops, so a forgotten return fails
// closed and is counted as Unset.
type Verdict uint8

const (
	Unset Verdict = iota // no decision was made: a bug

	// Not dropped.

	Forward  // delivered to its port
	Answered // answered by the switch itself: ARP for a known address

	// Malformed or not supported: packet.Decode and packet.Sanitize.

	Runt         // shorter than its headers say
	BadVersion   // the IP version nibble contradicts the EtherType
	BadLength    // an IP, IP option or UDP length that contradicts the frame
	BadTCP       // a data offset, option or set of flags that no TCP sends
	BadARP       // not an Ethernet/IPv4 request or reply
	BadProtocol  // IP protocol 0, which no IPv4 packet has
	BadOffload   // a virtio header that contradicts its packet
	NotIP        // neither IPv4, IPv6 nor ARP: VLAN, LLC, MPLS and the like
	IPv6         // IPv6, which is not carried yet
	SourceRoute  // an IPv4 source-route option
	TinyFragment // a first fragment without a whole transport header, or a later one that could overwrite it
	TooBig       // larger than the MTU of the network

	// Not allowed at this port.

	NotReady     // the port has no compiled rules yet, or its lease has ended
	SpoofedMAC   // the source MAC is not the interface's
	SpoofedIP    // the source address is not the interface's
	SpoofedARP   // ARP sender fields that are not the interface's
	DHCPServer   // an instance sends DHCP offers
	BadSource    // comes from outside, but its source is in the network, in a public pool, loopback, link-local or multicast
	NotUnicast   // broadcast or multicast, which no EC2 network carries
	WrongMAC     // addressed to a MAC that does not lead to the destination address
	ARPIgnored   // ARP for an unknown address, or for the sender's own address
	NoRoute      // no interface has the destination address, and no route leads to it
	GatewayLocal // addressed to the gateway itself, which offers no service
	NotRouted    // the subnet's routes do not lead to the destination
	ACLDenied    // the network ACL of the subnet that it leaves or enters denies it

	// Judged by rules and connections.

	NoRule         // no rule of any group admits it
	Revoked        // its connection was blocked when a rule was removed
	NoConnection   // an ICMP error about no known connection
	OrphanFragment // a later fragment of a datagram whose first fragment was not admitted
	FragmentsFull  // a first fragment while the table of incomplete datagrams is full
	OverlapFrag    // fragments that overlap, or reach past the longest datagram
	TableFull      // a new connection while the connection table is full (conntrack_allowance_exceeded)

	// At a NAT gateway.

	NATUnknown   // no translation: from outside, nobody inside has opened that connection; from inside, it was idle for too long
	NATExhausted // no free port to that destination, or as many translations as there may be (ErrorPortAllocation)
	NATFragment  // a fragment of TCP or ICMP, or a later fragment of UDP whose first was not translated
	NATProtocol  // neither TCP, UDP nor an ICMP echo

	// Received from, or to be sent to, another node.

	TunnelUnknown  // a datagram without a known format, index or sender address
	TunnelForged   // a datagram whose seal does not open
	TunnelReplayed // a datagram that was received before, or is too old to know
	TunnelDown     // no keys for the destination's node
	TunnelForeign  // the sending interface is not leased to the sending node, or the source address is not the interface's

	// Lost in a device, whose Read returned Lost instead of the frame.

	ShortRead      // the kernel returned fewer bytes than a virtio header has
	UnknownOffload // the kernel discarded a frame whose segments no virtio header can describe

	// Not written to the destination's device.

	WriteFailed // the device refused the frame
	OverShare   // writes to the port are slow, and it has used its share of the poller's time

	// The switch protects itself.

	PipelinePanicked // the frame, or one before it in its batch, made the pipeline panic
	PortShut         // from or to a port that was shut because its frames made the pipeline panic too often

	Count // the number of verdicts; keep last
)

var names = [Count]string{
	Unset: "unset", Forward: "forward", Answered: "answered",
	Runt: "runt", BadVersion: "bad-version", BadLength: "bad-length", BadTCP: "bad-tcp",
	BadARP: "bad-arp", BadProtocol: "bad-protocol", BadOffload: "bad-offload", NotIP: "not-ip",
	IPv6: "ipv6", SourceRoute: "source-route", TinyFragment: "tiny-fragment", TooBig: "too-big",
	NotReady: "not-ready", SpoofedMAC: "spoofed-mac", SpoofedIP: "spoofed-ip", SpoofedARP: "spoofed-arp",
	DHCPServer: "dhcp-server", BadSource: "bad-source", NotUnicast: "not-unicast", WrongMAC: "wrong-mac",
	ARPIgnored: "arp-ignored", NoRoute: "no-route", GatewayLocal: "gateway-local",
	NotRouted: "not-routed", ACLDenied: "acl-denied",
	NoRule: "no-rule", Revoked: "revoked", NoConnection: "no-connection",
	OrphanFragment: "orphan-fragment", FragmentsFull: "fragment-table-full", OverlapFrag: "overlapping-fragment",
	TableFull:  "conntrack_allowance_exceeded",
	NATUnknown: "nat-unknown", NATExhausted: "nat-error-port-allocation", NATFragment: "nat-fragment", NATProtocol: "nat-protocol",
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
	BadLength:      "IP or UDP length contradicts the frame",
	BadTCP:         "TCP data offset or flags that no TCP sends",
	BadARP:         "malformed ARP",
	BadProtocol:    "IP protocol 0",
	BadOffload:     "offload header contradicts the packet",
	NotIP:          "neither IPv4, IPv6 nor ARP",
	IPv6:           "IPv6 is not carried",
	SourceRoute:    "IPv4 source-route option",
	TinyFragment:   "fragment without its whole transport header",
	TooBig:         "larger than the MTU",
	NotReady:       "the port has no rules yet, or its lease has ended",
	SpoofedMAC:     "source MAC is not the interface's",
	SpoofedIP:      "source address is not the interface's",
	SpoofedARP:     "ARP sender is not the interface",
	DHCPServer:     "DHCP server traffic from an instance",
	BadSource:      "source that cannot come from outside",
	NotUnicast:     "broadcast or multicast",
	WrongMAC:       "destination MAC does not lead to the destination address",
	ARPIgnored:     "ARP that gets no answer",
	NoRoute:        "no interface has that address",
	GatewayLocal:   "addressed to the gateway itself",
	NotRouted:      "no route of the subnet leads there",
	ACLDenied:      "denied by the network ACL of the subnet that it leaves or enters",
	NoRule:         "no rule of any group admits it",
	Revoked:        "its connection was blocked when a rule was removed",
	NoConnection:   "ICMP error about no known connection",
	OrphanFragment: "fragment whose first was not admitted",
	FragmentsFull:  "too many incomplete fragmented datagrams",
	OverlapFrag:    "overlapping or oversized fragments",
	TableFull:      "new connection beyond the tracking allowance",
	NATUnknown:     "a NAT gateway has no such connection from inside",
	NATExhausted:   "the NAT gateway has no free port to that destination",
	NATFragment:    "fragment that NAT gateways do not carry",
	NATProtocol:    "protocol that NAT gateways do not carry",
	TunnelUnknown:  "datagram that belongs to no tunnel of this node",
	TunnelForged:   "datagram whose seal does not open",
	TunnelReplayed: "datagram received before",
	TunnelDown:     "no tunnel to the destination's node",
	TunnelForeign:  "source is no interface of the sending node",
	ShortRead:      "the kernel returned less than an offload header",
	UnknownOffload: "segments that no offload header can describe",
	WriteFailed:    "the device refused the frame",
	OverShare:      "writes to the port are slow, so few frames are written",

	PipelinePanicked: "the frame, or one before it, made the switch panic",
	PortShut:         "the port was shut after its frames made the switch panic",
}

// String returns the counter's name in the command line and the console.
func (v Verdict) String() string {
	if v < Count {
		return names[v]
	}
	return "invalid"
}

// Meaning says in a few words why a frame gets this verdict.
func (v Verdict) Meaning() string {
	if v < Count {
		return meanings[v]
	}
	return "not a verdict"
}

// Drops reports whether a frame with this verdict is dropped.
func (v Verdict) Drops() bool { return v != Forward && v != Answered }

// Lost is the error that a device's Read returns when it removed one frame from the queue
// and cannot return it. Its value is the frame's verdict.
type Lost Verdict

func (l Lost) Error() string { return "frame lost: " + Verdict(l).Meaning() }
