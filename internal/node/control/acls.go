package control

import (
	"fmt"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/firewall"
	"palisade/internal/packet"
	vswitch "palisade/switch"
)

// ACLDenial is how many packets at a port one entry of a network ACL has denied.
type ACLDenial struct {
	ACL       string `json:"acl"`
	Direction string `json:"direction"` // of the packets, as the instance sees them
	Number    int    `json:"number"`    // of the entry; 32767 if no other entry matches
	Entry     string `json:"entry"`
	Packets   uint64 `json:"packets"`
}

func denialsAt(port *vswitch.Port) (all []ACLDenial) {
	for _, d := range port.Denials() {
		all = append(all, ACLDenial{ACL: d.ACL, Direction: directionOf(d.Entry), Number: d.Entry.Number, Entry: d.Entry.String(), Packets: d.Packets})
	}
	return all
}

func directionOf(e ec2.ACLEntry) string {
	if e.Egress {
		return ec2.Egress.String()
	}
	return ec2.Ingress.String()
}

// deniedBy says which entry of which network ACL denied a packet of a trace.
func deniedBy(view *state.View, result vswitch.Trace) string {
	last := result.Steps[len(result.Steps)-1]
	if last.ACL == nil {
		return ""
	}
	where := "its subnet"
	if eni, ok := interfaceOf(view, last.Endpoint); ok {
		where = string(eni.Subnet)
	}
	return fmt.Sprintf("%s: the %s entry %s of %s, the network ACL of %s, denies it", whoIs(view, last.Endpoint), directionOf(last.ACL.Entry), last.ACL.Entry, last.ACL.ACL, where)
}

// aclDeciders finds the entries of network ACLs that decide about the packets of connections.
type aclDeciders struct {
	view *state.View
	acls map[ec2.SubnetID]*firewall.ACL
}

// of returns the entries that decide about the packets of a connection that leave the subnet of its
// interface and that enter it: "acl-1a2b3c4d 100". Both are "" if the connection stays in the subnet, or has no
// subnet.
func (d *aclDeciders) of(eni *ec2.Interface, c conntrack.Connection) (out, in string) {
	s, ok := d.view.Subnet(eni.Subnet)
	if !ok {
		return "", ""
	}
	leaves, enters := c.Flow, reverse(c.Flow) // the flows as the packets of each direction have them
	leavesWith, entersWith := uint16(packet.ICMPEcho)<<8, uint16(packet.ICMPEchoReply)<<8
	if c.Outside {
		leaves, enters, leavesWith, entersWith = enters, leaves, entersWith, leavesWith
	}
	if s.CIDR.Contains(leaves.Dst) {
		return "", ""
	}
	acl, ok := d.acls[s.ID]
	if !ok {
		if vpc, found := d.view.VPC(s.VPC); found {
			acl = firewall.CompileACL(d.view.NetworkACLOf(vpc, s))
		}
		d.acls[s.ID] = acl
	}
	if leaves.Protocol != packet.ProtocolICMP {
		leavesWith, entersWith = leaves.DstPort, enters.DstPort
	}
	return entryName(acl.Decide(ec2.Egress, leaves.Protocol, leavesWith, leaves.Dst)), entryName(acl.Decide(ec2.Ingress, enters.Protocol, entersWith, enters.Src))
}

func reverse(f packet.Flow) packet.Flow {
	f.Src, f.Dst, f.SrcPort, f.DstPort = f.Dst, f.Src, f.DstPort, f.SrcPort
	return f
}

func entryName(by *firewall.ACLDecision) string {
	if by == nil {
		return ""
	}
	return fmt.Sprintf("%s %d", by.ACL, by.Entry.Number)
}
