package control

import "palisade/ec2"

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
func (s *Server) rulesInForce() []GroupRules {
	all := []GroupRules{}
	view := s.Plane.View()
	if view == nil {
		return all
	}
	members := map[ec2.GroupID][]ec2.InterfaceID{}
	for eni := range view.Interfaces() {
		if eni.State == ec2.Idle {
			continue
		}
		for _, id := range eni.Groups {
			members[id] = append(members[id], eni.ID)
		}
	}
	for g := range view.Groups() {
		if len(members[g.ID]) == 0 {
			continue
		}
		in := GroupRules{Node: s.Node, Enforced: s.Plane.Enforced(), Group: g.ID, Name: g.Name, Account: g.Account, Interfaces: members[g.ID], Rules: []string{}}
		for _, r := range g.Rules {
			in.Rules = append(in.Rules, ruleText(r))
		}
		all = append(all, in)
	}
	return all
}
