package lab

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"palisade/internal/controlclient"
)

// A Status is the state of a lab. Scripts read its JSON, which stays compatible.
type Status struct {
	Endpoint  string           `json:"endpoint"`
	Console   string           `json:"console"`  // URL; always ""
	Leader    string           `json:"leader"`   // as most nodes answer; "" if no node knows one
	Enforced  uint64           `json:"enforced"` // the index that every node which answers enforces
	Nodes     []NodeStatus     `json:"nodes"`
	Instances []InstanceStatus `json:"instances"`

	Door       DaemonStatus `json:"door"`       // forwards connections from Endpoint to a node
	Supervisor DaemonStatus `json:"supervisor"` // restarts nodes and door; the next lab command restarts it
}

// A DaemonStatus is the state of a daemon, as its pid file and the supervisor's record show it.
type DaemonStatus struct {
	PID      int      `json:"pid"`      // 0 if it does not run
	Restarts int      `json:"restarts"` // how often it died and was restarted since `lab up`
	Trouble  *Trouble `json:"trouble,omitempty"`
}

// A Trouble says why a daemon does not stay up: it was started three times within a minute, or is no
// longer restarted.
type Trouble struct {
	What string   `json:"what"`
	End  string   `json:"end"` // how its last process ended: "exit status 1", "signal: killed"
	Log  []string `json:"log"` // the last log lines of that process
}

// A NodeStatus is one node. Its role is "down" if its daemon does not answer.
type NodeStatus struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	PID       int    `json:"pid"` // 0 if the daemon does not run
	Underlay  string `json:"underlay"`
	Role      string `json:"role"`
	Cut       string `json:"cut,omitempty"` // what `lab partition` cut it off from: "underlay", "gossip"
	API       string `json:"api"`           // the socket of its own EC2 API, behind the front door

	Restarts int      `json:"restarts"` // as in DaemonStatus
	Trouble  *Trouble `json:"trouble,omitempty"`

	// Panics counts panics of the node's switch, which continues after each. Shut lists the instances, and
	// the interfaces of other nodes, whose frames the switch drops because they caused panics.
	Panics uint64   `json:"panics,omitempty"`
	Shut   []string `json:"shut,omitempty"`
}

// An InstanceStatus is one instance, as its own node answers.
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

// nodeAnswer is the answer of a node's control socket to GET /v1/status.
type nodeAnswer struct {
	Ready     bool             `json:"ready"`
	Index     uint64           `json:"index"`
	Enforced  uint64           `json:"enforced"`
	Role      string           `json:"role"`
	Leader    string           `json:"leader"`
	Panics    uint64           `json:"panics"`
	Shut      []string         `json:"shut"`
	Instances []InstanceStatus `json:"instances"`
}

// Status asks all nodes at once and returns the state of the lab.
func (l *Lab) Status(ctx context.Context) Status {
	answers := make([]*nodeAnswer, len(l.Nodes)) // nil: no answer
	var wg sync.WaitGroup
	for i, node := range l.Nodes {
		wg.Go(func() {
			if answer, err := l.ask(ctx, node); err == nil {
				answers[i] = &answer
			}
		})
	}
	wg.Wait()

	records, err := l.records()
	if err != nil {
		slog.Warn("status lacks the restarts of daemons", "err", err)
	}
	st := Status{Endpoint: l.Endpoint(), Nodes: []NodeStatus{}, Instances: l.instances(answers)}
	supervised := func(name string) DaemonStatus { return l.daemonStatus(name, records[name], time.Now()) }
	st.Door, st.Supervisor = supervised(doorName), supervised(supervisorName)
	votes := map[string]int{}
	for i, node := range l.Nodes {
		ns := NodeStatus{
			Name: node, Namespace: l.namespace(node), Underlay: underlayAddress(i), Role: "down",
			Cut: l.cutOff(node), API: l.apiSocket(node),
		}
		daemon := supervised(node)
		ns.PID, ns.Restarts, ns.Trouble = daemon.PID, daemon.Restarts, daemon.Trouble
		if answer := answers[i]; answer != nil {
			ns.Role, ns.Panics, ns.Shut = answer.Role, answer.Panics, answer.Shut
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

// daemonStatus returns the state of one daemon. r is nil if the daemon has no record.
func (l *Lab) daemonStatus(name string, r *record, now time.Time) DaemonStatus {
	var st DaemonStatus
	if id, ok := l.running(name); ok {
		st.PID = id.PID
	}
	if r == nil {
		return st
	}
	st.Restarts = r.Restarts
	starts := 0
	for _, at := range r.Starts {
		if now.Sub(at) < recovery {
			starts++
		}
	}
	what := ""
	switch {
	case r.Outcast:
		what = "the cluster has fenced or removed it: it is not restarted"
	case starts >= troubled:
		what = fmt.Sprintf("it was started %d times within %v", starts, recovery)
	}
	if what != "" {
		st.Trouble = &Trouble{What: what, End: r.LastEnd, Log: append([]string{}, r.LastLog...)}
	}
	return st
}

// instances returns each instance once, as its own node describes it. If that node is down or does not know
// the instance yet, the node with the newest state describes it. Nodes with older state may still list
// instances that are gone.
func (l *Lab) instances(answers []*nodeAnswer) []InstanceStatus {
	type candidate struct {
		own      bool // from the instance's own node
		index    uint64
		instance InstanceStatus
	}
	var newest *nodeAnswer
	for _, answer := range answers {
		if answer != nil && (newest == nil || answer.Index > newest.Index) {
			newest = answer
		}
	}
	best := map[string]candidate{}
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
				best[instance.ID] = candidate{own, answer.Index, instance}
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
	err := controlclient.Get(ctx, l.controlSocket(node), "/v1/status", &answer)
	return answer, err
}
