package node

import (
	"palisade/ec2"
)

// GroupRules is a security group in GET /v1/rules: the rules that this node enforces.
type GroupRules struct {
	Node       ec2.NodeID        `json:"node"`     // that answers
	Enforced   uint64            `json:"enforced"` // index of the state that its switch enforces
	Group      ec2.GroupID       `json:"group"`
	Name       string            `json:"name"`
	Account    ec2.AccountID     `json:"account"`
	Interfaces []ec2.InterfaceID `json:"interfaces"` // members of the group, on any node
	Rules      []string          `json:"rules"`
}

// rulesInForce lists the groups that have members.
func (n *Node) rulesInForce() []GroupRules {
	all := []GroupRules{}
	view, _ := n.plane.state()
	if view == nil {
		return all
	}
	members := map[ec2.GroupID][]ec2.InterfaceID{}
	for lease := range view.Interfaces() {
		if lease.State == ec2.Idle {
			continue
		}
		for _, id := range lease.Groups {
			members[id] = append(members[id], lease.ID)
		}
	}
	for g := range view.Groups() {
		if len(members[g.ID]) == 0 {
			continue
		}
		in := GroupRules{Node: n.config.Name, Enforced: n.plane.enforced(), Group: g.ID, Name: g.Name, Account: g.Account, Interfaces: members[g.ID], Rules: []string{}}
		for _, r := range g.Rules {
			in.Rules = append(in.Rules, ruleText(r))
		}
		all = append(all, in)
	}
	return all
}

// InterfacePresence is one lease in GET /v1/presence, as this node knows it: from Raft, where the
// interface is and which addresses it has; from gossip, whether its own node reports it down.
type InterfacePresence struct {
	Node      ec2.NodeID      `json:"node"` // that answers
	Interface ec2.InterfaceID `json:"interface"`
	Instance  ec2.InstanceID  `json:"instance"`
	At        ec2.NodeID      `json:"at"` // the node that the interface is on
	MAC       ec2.MAC         `json:"mac"`
	Private   string          `json:"private_address"`
	Public    string          `json:"public_address"`
	Up        bool            `json:"up"` // false also for an idle lease, whose interface is nowhere
}

func (n *Node) presence() []InterfacePresence {
	all := []InterfacePresence{}
	view, _ := n.plane.state()
	if view == nil {
		return all
	}
	down, _ := n.cluster.Down()
	for lease := range view.Interfaces() {
		p := InterfacePresence{
			Node: n.config.Name, Interface: lease.ID, Instance: lease.Instance, At: lease.Node, MAC: lease.MAC,
			Private: lease.Private.String(), Up: lease.State != ec2.Idle && !down[lease.Epoch],
		}
		if lease.Public.IsValid() {
			p.Public = lease.Public.String()
		}
		all = append(all, p)
	}
	return all
}
