package control

import "palisade/ec2"

// InterfacePresence is one interface in GET /v1/presence, as this node knows it. Place and addresses
// come from Raft; gossip says whether the interface's own node reports it down.
type InterfacePresence struct {
	Node      ec2.NodeID      `json:"node"` // that answers
	Interface ec2.InterfaceID `json:"interface"`
	Instance  ec2.InstanceID  `json:"instance"`
	At        ec2.NodeID      `json:"at"` // the node that the interface is on
	MAC       ec2.MAC         `json:"mac"`
	Private   string          `json:"private_address"`
	Public    string          `json:"public_address"`
	Up        bool            `json:"up"` // false also for an idle interface, which is on no node
}

func (s *Server) presence() []InterfacePresence {
	all := []InterfacePresence{}
	view := s.Plane.View()
	if view == nil {
		return all
	}
	down, _ := s.Cluster.Down()
	for eni := range view.Interfaces() {
		p := InterfacePresence{
			Node: s.Node, Interface: eni.ID, Instance: eni.Instance, At: eni.Node, MAC: eni.MAC,
			Private: eni.Private.String(), Up: eni.State != ec2.Idle && !down[eni.Epoch],
		}
		if eni.Public.IsValid() {
			p.Public = eni.Public.String()
		}
		all = append(all, p)
	}
	return all
}
