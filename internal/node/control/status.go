package control

import (
	"slices"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/nat"
)

// Status is the answer of GET /v1/status.
type Status struct {
	Ready    bool            `json:"ready"`
	Node     ec2.NodeID      `json:"node"`
	Index    uint64          `json:"index"`    // of the newest state this node has
	Enforced uint64          `json:"enforced"` // of the state that packets are checked against
	Role     string          `json:"role"`     // leader, follower, candidate or non-voter
	Leader   ec2.NodeID      `json:"leader"`   // "" if this node knows none
	Tracking conntrack.Usage `json:"tracking"`
	BadRules []string        `json:"bad_rules,omitempty"` // not enforced, each with the reason
	// Panics counts the panics of the switch's pollers since the daemon began. Each dropped a
	// batch of frames.
	Panics uint64 `json:"panics,omitempty"`
	// Shut lists the ports of this node and the interfaces of other nodes whose frames caused too
	// many panics. Their frames are dropped until the instance or this daemon is restarted.
	Shut []string `json:"shut,omitempty"`
	// Gateways are the NAT gateways at this node.
	Gateways  map[ec2.NATGatewayID]nat.Usage `json:"nat_gateways,omitempty"`
	Instances []InstanceStatus               `json:"instances"`
}

// InstanceStatus is one instance whose first interface has a lease.
type InstanceStatus struct {
	ID             ec2.InstanceID  `json:"id"`
	Name           string          `json:"name"`
	Node           ec2.NodeID      `json:"node"`
	Namespace      string          `json:"namespace"`
	Interface      ec2.InterfaceID `json:"interface"`
	MAC            ec2.MAC         `json:"mac"`
	PrivateAddress string          `json:"private_address"`
	PublicAddress  string          `json:"public_address"`
	State          string          `json:"state"`
}

func (s *Server) status() Status {
	status := Status{Ready: s.Ready(), Node: s.Node, Enforced: s.Plane.Enforced(), Role: s.Cluster.Role(), Tracking: s.Tracker.Usage(), Instances: []InstanceStatus{}}
	status.Leader, _ = s.Cluster.Leader()
	status.Panics, _ = s.Switch.Panics()
	for _, port := range s.Switch.Ports() {
		if port.IsShut() {
			status.Shut = append(status.Shut, port.Name())
		}
	}
	view := s.Plane.View()
	if view == nil {
		return status
	}
	status.Gateways = s.Plane.Gateways()
	status.Index, status.BadRules = view.Index(), s.Plane.BadRules()
	if refused := s.Switch.Refused(); len(refused) > 0 {
		for eni := range view.Interfaces() {
			if slices.Contains(refused, eni.Epoch) {
				status.Shut = append(status.Shut, string(eni.ID))
			}
		}
	}
	for in := range view.Instances() {
		eni, ok := view.Interface(in.Interface)
		if in.Interface == "" || !ok || eni.State == ec2.Idle {
			continue
		}
		instance := InstanceStatus{
			ID: in.ID, Name: string(in.ID), Node: in.Node, Namespace: s.NamespacePrefix + string(in.ID),
			Interface: eni.ID, MAC: eni.MAC, PrivateAddress: eni.Private.String(), State: in.State.String(),
		}
		if eni.Public.IsValid() {
			instance.PublicAddress = eni.Public.String()
		}
		status.Instances = append(status.Instances, instance)
	}
	return status
}
