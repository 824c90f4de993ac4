// Package control answers the operator of one node, over a socket that only root may use: the
// server of what the palisade command asks. Server has a handler for each question; the types of
// questions and answers are beside them.
package control

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"palisade/cluster"
	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/peer"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
)

// Config is what a Server answers from.
type Config struct {
	Node            ec2.NodeID // this one
	Region          ec2.Region
	NamespacePrefix string // of the instances' namespaces
	MTU             int    // of every network, in bytes of an IP packet

	Cluster  *cluster.Cluster
	Switch   *vswitch.Switch
	Tracker  *conntrack.Tracker
	Identity *peer.Identity   // nil in a cluster of one
	Peer     *peer.Peer       // the same
	Overlay  *overlay.Overlay // the same
	Plane    Plane
	Fleet    Fleet
	Keyring  Keyring
	Ready    func() bool // reports whether the node serves
	Logger   *slog.Logger
}

// A Plane says what the switch enforces.
type Plane interface {
	// View is the state in force; nil before the first.
	View() *state.View
	// Enforced is the index that no packet is judged by an older state than.
	Enforced() uint64
	// Wait reports whether the switch enforces index before ctx ends.
	Wait(ctx context.Context, index uint64) bool
	// BadRules are the rules that the tables leave out.
	BadRules() []string
	Explain(vswitch.Step) firewall.Explanation
}

// A Fleet attaches interfaces to namespaces and devices of this node.
type Fleet interface {
	// CheckHostAttachment refuses what no interface can be attached to, and names the device
	// that a namespace gets.
	CheckHostAttachment(*ec2.ExternalDevice) error
	// Settle does for an interface what the state in force wants of it.
	Settle(context.Context, ec2.InterfaceID) error
	// Link is an interface's addresses and its router, as its kernel has to know them.
	Link(*state.View, *ec2.Interface) (addresses []netip.Prefix, gateway netip.Addr)
}

// A Keyring seals secrets of access keys under the cluster's key.
type Keyring interface {
	Seal(key string, account ec2.AccountID, accessKey, plain string) (ec2.SealedSecret, error)
}

// Server answers the operator of one node. It has no state and no goroutine of its own: handlers
// run side by side, and what they read is guarded where it belongs.
type Server struct{ Config }

// New makes a Server, and lets other nodes ask it for their half of a trace.
func New(c Config) *Server {
	s := &Server{c}
	if c.Peer != nil {
		s.handleTrace()
	}
	return s
}

// Handler answers this node's operator, over a socket that only root may use:
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
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.status()) })
	mux.HandleFunc("GET /v1/drops", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.drops()) })
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.flows()) })
	mux.HandleFunc("GET /v1/rules", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.rulesInForce()) })
	mux.HandleFunc("GET /v1/presence", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.presence()) })
	mux.HandleFunc("GET /v1/trace", s.traceHandler)
	mux.HandleFunc("GET /v1/audit", s.auditHandler)
	mux.HandleFunc("GET /v1/cluster", func(w http.ResponseWriter, r *http.Request) {
		status, err := s.clusterStatus(r.Context())
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, status)
	})
	mux.HandleFunc("GET /v1/cluster/snapshot", s.backupHandler)
	mux.HandleFunc("GET /v1/accounts", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.accounts()) })
	mux.HandleFunc("POST /v1/accounts", posted(s.createAccounts))
	mux.HandleFunc("POST /v1/accounts/keys", posted(s.changeKey))
	s.handleOutside(mux)
	mux.HandleFunc("POST /v1/cluster/token", posted(s.newToken))
	mux.HandleFunc("POST /v1/cluster/fence", posted(s.fence))
	mux.HandleFunc("POST /v1/cluster/remove", posted(s.remove))
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
		one := InstanceStatus{
			ID: in.ID, Name: string(in.ID), Node: in.Node, Namespace: s.NamespacePrefix + string(in.ID),
			Interface: eni.ID, MAC: eni.MAC, PrivateAddress: eni.Private.String(), State: in.State.String(),
		}
		if eni.Public.IsValid() {
			one.PublicAddress = eni.Public.String()
		}
		status.Instances = append(status.Instances, one)
	}
	return status
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

func (s *Server) drops() []PortDrops {
	all := []PortDrops{}
	for _, port := range s.Switch.Ports() {
		c := port.Counters()
		d := PortDrops{Node: s.Node, Port: port.Name(), RxFrames: c.RxFrames, TxFrames: c.TxFrames, Verdicts: []VerdictCount{}}
		if dropped, err := port.QueueDrops(); err != nil {
			s.Logger.Warn("a port's queue was not counted", "port", port.Name(), "err", err)
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

func (s *Server) flows() []FlowStatus {
	all := []FlowStatus{}
	view := s.Plane.View()
	if view == nil {
		return all
	}
	interfaces := map[uint64]*ec2.Interface{}
	for eni := range view.Interfaces() {
		interfaces[eni.Epoch] = eni
	}
	type named struct{ rule, group string }
	rules := map[uint64]named{0: {"classic-egress", ""}}
	for g := range view.Groups() {
		for _, r := range g.Rules {
			rules[r.Serial] = named{string(r.ID), g.Name}
		}
	}
	for c := range s.Tracker.Connections(vswitch.Now()) {
		f := FlowStatus{
			Node: s.Node, Direction: "egress", Protocol: packet.ProtocolName(c.Flow.Protocol),
			Source: c.Flow.Src.String(), SourcePort: c.Flow.SrcPort,
			Destination: c.Flow.Dst.String(), DestPort: c.Flow.DstPort,
			State: c.State, Tracked: c.Tracked, Blocked: c.Blocked, Rule: "revoked",
			Age: c.Age.Seconds(), Expires: c.Expires.Seconds(), Packets: c.Packets, Bytes: c.Bytes,
		}
		if c.Outside {
			f.Direction = "ingress"
		}
		if eni, ok := interfaces[c.Epoch]; ok {
			f.Instance, f.Interface = eni.Instance, eni.ID
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
