package lab

import (
	"context"
	"slices"
	"strings"
)

// A Status is the state of a lab as scripts read it; its JSON is a promise.
type Status struct {
	Endpoint  string           `json:"endpoint"`
	Console   string           `json:"console"`  // "" while there is none
	Enforced  uint64           `json:"enforced"` // the index that every living node enforces
	Nodes     []NodeStatus     `json:"nodes"`
	Instances []InstanceStatus `json:"instances"`
}

// A NodeStatus is one node; one whose daemon does not answer has the role "down".
type NodeStatus struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	PID       int    `json:"pid"` // 0 if the daemon does not run
	Underlay  string `json:"underlay"`
	Role      string `json:"role"`
}

// An InstanceStatus is one instance as the node that runs it tells.
type InstanceStatus struct {
	ID             string `json:"id"`
	Name           string `json:"name"`
	Node           string `json:"node"`
	Namespace      string `json:"namespace"`
	Interface      string `json:"interface"`
	MAC            string `json:"mac"`
	PrivateAddress string `json:"private_address"`
	PublicAddress  string `json:"public_address"`
	State          string `json:"state"`
}

// nodeAnswer is what a node's control socket answers to GET /v1/status.
type nodeAnswer struct {
	Ready     bool             `json:"ready"`
	Enforced  uint64           `json:"enforced"`
	Role      string           `json:"role"`
	Instances []InstanceStatus `json:"instances"`
}

// Status asks every node.
func (l *Lab) Status(ctx context.Context) Status {
	st := Status{Endpoint: l.Endpoint(), Nodes: []NodeStatus{}, Instances: []InstanceStatus{}}
	for i, node := range l.Nodes {
		ns := NodeStatus{Name: node, Namespace: l.namespace(node), Underlay: underlayAddress(i), Role: "down"}
		if id, ok := l.running(node); ok {
			ns.PID = id.PID
		}
		if answer, err := l.ask(ctx, node); err == nil {
			ns.Role = answer.Role
			if st.Enforced == 0 || answer.Enforced < st.Enforced {
				st.Enforced = answer.Enforced
			}
			for _, instance := range answer.Instances {
				// Every node may know all instances; each is listed once.
				if !slices.ContainsFunc(st.Instances, func(o InstanceStatus) bool { return o.ID == instance.ID }) {
					st.Instances = append(st.Instances, instance)
				}
			}
		}
		st.Nodes = append(st.Nodes, ns)
	}
	slices.SortFunc(st.Instances, func(a, b InstanceStatus) int { return strings.Compare(a.ID, b.ID) })
	return st
}

// ask gets a node's status from its control socket.
func (l *Lab) ask(ctx context.Context, node string) (nodeAnswer, error) {
	var answer nodeAnswer
	err := Get(ctx, l.controlSocket(node), "/v1/status", &answer)
	return answer, err
}
