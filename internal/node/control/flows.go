package control

import (
	"slices"
	"strings"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/firewall"
	"palisade/internal/packet"
	vswitch "palisade/switch"
)

// FlowStatus is one connection in GET /v1/flows.
type FlowStatus struct {
	Node        ec2.NodeID      `json:"node"`
	Instance    ec2.InstanceID  `json:"instance"`
	Interface   ec2.InterfaceID `json:"interface"`
	Direction   string          `json:"direction"` // of the first packet, seen from the instance
	Protocol    string          `json:"protocol"`
	Source      string          `json:"source"`
	SourcePort  uint16          `json:"source_port"`
	Destination string          `json:"destination"`
	DestPort    uint16          `json:"destination_port"`
	State       string          `json:"state"`
	Tracked     bool            `json:"tracked"`
	Blocked     bool            `json:"blocked"` // its packets are dropped
	Cut         bool            `json:"cut"`     // an operator ended it
	Rule        string          `json:"rule"`    // that admitted the first packet; "revoked" if the rule is gone
	Group       string          `json:"group"`
	// ACLOut and ACLIn are the entries of the subnet's network ACL that decide about its packets: id and
	// number. They are "" if the connection stays in the subnet.
	ACLOut  string    `json:"acl_out,omitempty"`
	ACLIn   string    `json:"acl_in,omitempty"`
	Age     float64   `json:"age_seconds"`
	Expires float64   `json:"expires_seconds"`
	Packets [2]uint32 `json:"packets"` // original direction, reply direction
	Bytes   [2]uint64 `json:"bytes"`
}

// AllowanceStatus is one interface of the node in GET /v1/allowances.
type AllowanceStatus struct {
	Node      ec2.NodeID      `json:"node"`
	Instance  ec2.InstanceID  `json:"instance"`
	Interface ec2.InterfaceID `json:"interface"`
	conntrack.Allowance
}

func (s *Server) allowances() []AllowanceStatus {
	all := []AllowanceStatus{}
	for eni, a := range s.Plane.Allowances() {
		all = append(all, AllowanceStatus{s.Node, eni.Instance, eni.ID, a})
	}
	slices.SortFunc(all, func(a, b AllowanceStatus) int { return strings.Compare(string(a.Interface), string(b.Interface)) })
	return all
}

func (s *Server) flows() []FlowStatus {
	view := s.Plane.View()
	if view == nil {
		return []FlowStatus{}
	}
	return s.flowsOf(view, func(conntrack.Connection, ec2.VNI) bool { return true })
}

// flowsOf lists the connections of this node for which match returns true. match gets the network of
// the connection's interface; 0 if the interface is gone.
func (s *Server) flowsOf(view *state.View, match func(conntrack.Connection, ec2.VNI) bool) []FlowStatus {
	all := []FlowStatus{}
	interfaces := map[uint64]*ec2.Interface{}
	for eni := range view.Interfaces() {
		interfaces[eni.Epoch] = eni
	}
	type names struct{ rule, group string }
	rules := map[uint64]names{0: {"classic-egress", ""}}
	for g := range view.Groups() {
		for _, r := range g.Rules {
			rules[r.Serial] = names{string(r.ID), g.Name}
		}
	}
	acls := aclDeciders{view, map[ec2.SubnetID]*firewall.ACL{}}
	for c := range s.Tracker.Connections(vswitch.Now()) {
		eni, ok := interfaces[c.Epoch]
		var network ec2.VNI
		if ok {
			network = eni.VNI
		}
		if !match(c, network) {
			continue
		}
		f := FlowStatus{
			Node: s.Node, Direction: "egress", Protocol: packet.ProtocolName(c.Flow.Protocol),
			Source: c.Flow.Src.String(), SourcePort: c.Flow.SrcPort,
			Destination: c.Flow.Dst.String(), DestPort: c.Flow.DstPort,
			State: c.State, Tracked: c.Tracked, Blocked: c.Blocked, Cut: c.Cut, Rule: "revoked",
			Age: c.Age.Seconds(), Expires: c.Expires.Seconds(), Packets: c.Packets, Bytes: c.Bytes,
		}
		if c.Outside {
			f.Direction = "ingress"
		}
		if ok {
			f.Instance, f.Interface = eni.Instance, eni.ID
			f.ACLOut, f.ACLIn = acls.of(eni, c)
		}
		if r, ok := rules[c.Rule]; ok {
			f.Rule, f.Group = r.rule, r.group
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b FlowStatus) int {
		if d := strings.Compare(string(a.Instance), string(b.Instance)); d != 0 {
			return d
		}
		return int(a.Age*1000) - int(b.Age*1000)
	})
	return all
}
