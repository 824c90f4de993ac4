package node

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// controlHandler answers this node's operator, over a socket that only root may use:
//
//	GET /v1/status   what the node is and runs
//	GET /v1/drops    why frames went nowhere, by port
//	GET /v1/flows    the connections it remembers
//	GET /v1/rules    the rules it enforces (inforce.go)
//	GET /v1/presence which interfaces are up, and where (inforce.go)
//	GET /v1/trace    what would become of a packet (trace.go)
//	GET /v1/audit    who changed what (audit.go)
//	/v1/cluster…     who belongs to the cluster (members.go)
//	/v1/accounts…    who may call the API (accounts.go)
//	/v1/outside, /v1/attach, /v1/detach   what interfaces are in front of (attach.go)
func (n *Node) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.status()) })
	mux.HandleFunc("GET /v1/drops", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.drops()) })
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.flows()) })
	mux.HandleFunc("GET /v1/rules", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.rulesInForce()) })
	mux.HandleFunc("GET /v1/presence", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.presence()) })
	mux.HandleFunc("GET /v1/trace", n.traceHandler)
	mux.HandleFunc("GET /v1/audit", n.auditHandler)
	mux.HandleFunc("GET /v1/cluster", func(w http.ResponseWriter, r *http.Request) {
		s, err := n.clusterStatus(r.Context())
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, s)
	})
	mux.HandleFunc("GET /v1/cluster/snapshot", n.backupHandler)
	mux.HandleFunc("GET /v1/accounts", func(w http.ResponseWriter, _ *http.Request) { answer(w, n.accounts()) })
	mux.HandleFunc("POST /v1/accounts", posted(n.createAccounts))
	mux.HandleFunc("POST /v1/accounts/keys", posted(n.changeKey))
	n.handleOutside(mux)
	mux.HandleFunc("POST /v1/cluster/token", posted(n.newToken))
	mux.HandleFunc("POST /v1/cluster/fence", posted(n.fence))
	mux.HandleFunc("POST /v1/cluster/remove", posted(n.remove))
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the asker has gone
}

// Status is what GET /v1/status answers.
type Status struct {
	Ready    bool            `json:"ready"`
	Node     ec2.NodeID      `json:"node"`
	Index    uint64          `json:"index"`    // of the newest state this node has
	Enforced uint64          `json:"enforced"` // of the state every packet is judged by
	Role     string          `json:"role"`     // leader, follower, candidate or non-voter
	Leader   ec2.NodeID      `json:"leader"`   // "" if this node knows none
	Tracking conntrack.Usage `json:"tracking"`
	BadRules []string        `json:"bad_rules,omitempty"` // left out of the tables
	// Panics is how often the switch has panicked since the daemon began, and gone on. Shut are
	// the ports, by instance, and the interfaces of other nodes that caused too many: what
	// they send is dropped until the instance is stopped and started, or this daemon is.
	Panics    uint64           `json:"panics,omitempty"`
	Shut      []string         `json:"shut,omitempty"`
	Instances []InstanceStatus `json:"instances"`
}

// InstanceStatus is one instance that has a lease.
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

func (n *Node) status() Status {
	s := Status{Ready: n.isReady(), Node: n.config.Name, Enforced: n.plane.enforced(), Role: n.cluster.Role(), Tracking: n.tracker.Usage(), Instances: []InstanceStatus{}}
	s.Leader, _ = n.cluster.Leader()
	s.Panics, _ = n.sw.Panics()
	for _, port := range n.sw.Ports() {
		if port.IsShut() {
			s.Shut = append(s.Shut, port.Name())
		}
	}
	view, bad := n.plane.state()
	if view == nil {
		return s
	}
	s.Index, s.BadRules = view.Index(), bad
	if refused := n.sw.Refused(); len(refused) > 0 {
		for lease := range view.Interfaces() {
			if slices.Contains(refused, lease.Epoch) {
				s.Shut = append(s.Shut, string(lease.ID))
			}
		}
	}
	for in := range view.Instances() {
		lease, ok := view.Interface(in.Interface)
		if in.Interface == "" || !ok || lease.State == ec2.Idle {
			continue
		}
		one := InstanceStatus{
			ID: in.ID, Name: string(in.ID), Node: in.Node, Namespace: n.config.Lab.NamespacePrefix + string(in.ID),
			Interface: lease.ID, MAC: lease.MAC, PrivateAddress: lease.Private.String(), State: in.State.String(),
		}
		if lease.Public.IsValid() {
			one.PublicAddress = lease.Public.String()
		}
		s.Instances = append(s.Instances, one)
	}
	return s
}

// isReady: the switch goes by what was decided, and the API can decide.
func (n *Node) isReady() bool {
	select {
	case <-n.cluster.Ready():
		return n.ready.Load()
	default:
		return false
	}
}

// PortDrops is one port in GET /v1/drops.
type PortDrops struct {
	Node     ec2.NodeID `json:"node"`
	Port     string     `json:"port"`      // an instance's id, "uplink" or "tunnel"
	RxFrames uint64     `json:"rx_frames"` // what the switch received from it
	TxFrames uint64     `json:"tx_frames"`
	// QueueDrops are frames the kernel dropped before the switch could read them.
	QueueDrops uint64         `json:"queue_drops"`
	Verdicts   []VerdictCount `json:"verdicts"` // of frames that concern it, most frequent first
}

// VerdictCount is how often one fate befell a frame.
type VerdictCount struct {
	Verdict string `json:"verdict"`
	Packets uint64 `json:"packets"`
	Drops   bool   `json:"drops"`
	Meaning string `json:"meaning"`
}

func (n *Node) drops() []PortDrops {
	all := []PortDrops{}
	for _, port := range n.sw.Ports() {
		c := port.Counters()
		d := PortDrops{Node: n.config.Name, Port: port.Name(), RxFrames: c.RxFrames, TxFrames: c.TxFrames, Verdicts: []VerdictCount{}}
		if dropped, err := port.QueueDrops(); err != nil {
			n.log.Warn("a port's queue was not counted", "port", port.Name(), "err", err)
		} else {
			d.QueueDrops = dropped
		}
		for v, count := range c.Verdicts {
			if count > 0 {
				v := verdict.Verdict(v)
				d.Verdicts = append(d.Verdicts, VerdictCount{Verdict: v.String(), Packets: count, Drops: v.Drops(), Meaning: v.Meaning()})
			}
		}
		slices.SortStableFunc(d.Verdicts, func(a, b VerdictCount) int { return int(min(b.Packets, 1<<62)) - int(min(a.Packets, 1<<62)) })
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b PortDrops) int { return strings.Compare(a.Port, b.Port) })
	return all
}

// FlowStatus is one connection in GET /v1/flows.
type FlowStatus struct {
	Node        ec2.NodeID      `json:"node"`
	Instance    ec2.InstanceID  `json:"instance"`
	Interface   ec2.InterfaceID `json:"interface"`
	Direction   string          `json:"direction"` // of its first packet, as the instance sees it
	Protocol    string          `json:"protocol"`
	Source      string          `json:"source"`
	SourcePort  uint16          `json:"source_port"`
	Destination string          `json:"destination"`
	DestPort    uint16          `json:"destination_port"`
	State       string          `json:"state"`
	Tracked     bool            `json:"tracked"`
	Blocked     bool            `json:"blocked"`
	Rule        string          `json:"rule"` // that admitted it; "revoked" if it is gone
	Group       string          `json:"group"`
	Age         float64         `json:"age_seconds"`
	Expires     float64         `json:"expires_seconds"`
	Packets     [2]uint32       `json:"packets"` // from its originator, and answers
	Bytes       [2]uint64       `json:"bytes"`
}

func (n *Node) flows() []FlowStatus {
	all := []FlowStatus{}
	view, _ := n.plane.state()
	if view == nil {
		return all
	}
	leases := map[uint64]*ec2.Interface{}
	for lease := range view.Interfaces() {
		leases[lease.Epoch] = lease
	}
	type named struct{ rule, group string }
	rules := map[uint64]named{0: {"classic-egress", ""}}
	for g := range view.Groups() {
		for _, r := range g.Rules {
			rules[r.Serial] = named{string(r.ID), g.Name}
		}
	}
	for c := range n.tracker.Connections(vswitch.Now()) {
		f := FlowStatus{
			Node: n.config.Name, Direction: "egress", Protocol: packet.ProtocolName(c.Flow.Protocol),
			Source: c.Flow.Src.String(), SourcePort: c.Flow.SrcPort,
			Destination: c.Flow.Dst.String(), DestPort: c.Flow.DstPort,
			State: c.State, Tracked: c.Tracked, Blocked: c.Blocked, Rule: "revoked",
			Age: c.Age.Seconds(), Expires: c.Expires.Seconds(), Packets: c.Packets, Bytes: c.Bytes,
		}
		if c.Outside {
			f.Direction = "ingress"
		}
		if lease, ok := leases[c.Epoch]; ok {
			f.Instance, f.Interface = lease.Instance, lease.ID
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

// state is the View in force, and the rules its tables leave out.
func (p *plane) state() (*ec2.View, []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var bad []string
	for _, err := range p.compiler.Errors() {
		bad = append(bad, err.Error())
	}
	return p.view, bad
}
