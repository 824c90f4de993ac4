package lab

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// A Status is the state of a lab as scripts read it; its JSON is a promise.
type Status struct {
	Endpoint  string           `json:"endpoint"`
	Console   string           `json:"console"`  // "" while there is none
	Leader    string           `json:"leader"`   // as most nodes say; "" if none knows one
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
	Cut       string `json:"cut,omitempty"` // what `lab partition` cut it off from: "underlay", "gossip"
	API       string `json:"api"`           // the socket of its own EC2 API, behind the front door
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
	Index     uint64           `json:"index"`
	Enforced  uint64           `json:"enforced"`
	Role      string           `json:"role"`
	Leader    string           `json:"leader"`
	Instances []InstanceStatus `json:"instances"`
}

// Status asks every node, all at once.
func (l *Lab) Status(ctx context.Context) Status {
	answers := make([]*nodeAnswer, len(l.Nodes)) // nil: none
	var wg sync.WaitGroup
	for i, node := range l.Nodes {
		wg.Go(func() {
			if answer, err := l.ask(ctx, node); err == nil {
				answers[i] = &answer
			}
		})
	}
	wg.Wait()

	st := Status{Endpoint: l.Endpoint(), Nodes: []NodeStatus{}, Instances: l.instances(answers)}
	votes := map[string]int{}
	for i, node := range l.Nodes {
		ns := NodeStatus{
			Name: node, Namespace: l.namespace(node), Underlay: underlayAddress(i), Role: "down",
			Cut: l.cutOff(node), API: l.apiSocket(node),
		}
		if id, ok := l.running(node); ok {
			ns.PID = id.PID
		}
		if answer := answers[i]; answer != nil {
			ns.Role = answer.Role
			if st.Enforced == 0 || answer.Enforced < st.Enforced {
				st.Enforced = answer.Enforced
			}
			if votes[answer.Leader]++; answer.Leader != "" && votes[answer.Leader] > votes[st.Leader] {
				st.Leader = answer.Leader
			}
		}
		st.Nodes = append(st.Nodes, ns)
	}
	return st
}

// instances lists each instance once, as the node that runs it tells. One that its node
// does not tell of, being down or behind, is as the node with the newest state tells:
// another may not have heard that it is gone.
func (l *Lab) instances(answers []*nodeAnswer) []InstanceStatus {
	type told struct {
		own      bool // by the node that runs it
		index    uint64
		instance InstanceStatus
	}
	var newest *nodeAnswer
	for _, answer := range answers {
		if answer != nil && (newest == nil || answer.Index > newest.Index) {
			newest = answer
		}
	}
	best := map[string]told{}
	for i, answer := range answers {
		if answer == nil {
			continue
		}
		for _, instance := range answer.Instances {
			own := instance.Node == l.Nodes[i]
			if !own && answer != newest {
				continue
			}
			other, ok := best[instance.ID]
			if !ok || own && !other.own || own == other.own && answer.Index > other.index {
				best[instance.ID] = told{own, answer.Index, instance}
			}
		}
	}
	all := []InstanceStatus{}
	for _, id := range slices.Sorted(maps.Keys(best)) {
		all = append(all, best[id].instance)
	}
	return all
}

// ask gets a node's status from its control socket.
func (l *Lab) ask(ctx context.Context, node string) (nodeAnswer, error) {
	var answer nodeAnswer
	err := Get(ctx, l.controlSocket(node), "/v1/status", &answer)
	return answer, err
}
