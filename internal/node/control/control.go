// Package control serves the control socket of one node, over which the palisade command asks the
// node and changes the cluster. Only root may use the socket.
//
// Server.Handler lists the paths. Each file has the requests and answers of one theme with their
// handlers. Package controlclient (internal/controlclient) is the client.
package control

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"palisade/cluster"
	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/firewall"
	"palisade/internal/peer"
	"palisade/internal/refusal"
	"palisade/nat"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
)

// Config has the settings of a Server and the parts of the node that it asks. All fields are
// required, except those with a default.
type Config struct {
	Node            ec2.NodeID // the id of this node
	Region          ec2.Region // this node's region; the answer with a new access key names it
	NamespacePrefix string     // begins the name of each instance's namespace. Default ""
	MTU             int        // of every network, in bytes of an IP packet

	Cluster  *cluster.Cluster   // answers about members, and applies changes
	Switch   *vswitch.Switch    // answers about drops, and traces packets
	Tracker  *conntrack.Tracker // answers about connections
	Identity *peer.Identity     // of this node. Default nil, in a cluster of one
	Peer     *peer.Peer         // for traces across nodes. Default nil, in a cluster of one
	Overlay  *overlay.Overlay   // for the state of tunnels. Default nil, in a cluster of one
	Plane    Plane
	Fleet    Fleet
	Keyring  Keyring
	Refusals *refusal.Log // calls that this node refused
	// Rotations returns the progress of the keys that are being replaced.
	Rotations func(context.Context) []RotationProgress
	Ready     func() bool  // reports whether the node is ready; until then it attaches no interface
	Logger    *slog.Logger // gets failures that no answer can report
}

// A Plane knows what the switch enforces. Its methods may be called at any time.
type Plane interface {
	// View is the state that the switch enforces; nil before the first.
	View() *state.View
	// Enforced is the index of the state that all packets are checked against.
	Enforced() uint64
	// Wait waits until the switch enforces index. It returns false if ctx ends first.
	Wait(ctx context.Context, index uint64) bool
	// BadRules lists the errors of rules that are not enforced.
	BadRules() []string
	// Explain names the rule that admits the packet of a step, or says why each rule does not.
	Explain(vswitch.Step) firewall.Explanation
	// Gateways returns how much of its bounds each NAT gateway at this node uses.
	Gateways() map[ec2.NATGatewayID]nat.Usage
	// Allowances returns how many connections each interface of this node can still open.
	Allowances() map[*ec2.Interface]conntrack.Allowance
}

// A Fleet attaches interfaces to namespaces and devices of this node.
type Fleet interface {
	// CheckHostAttachment returns an error if no interface can be attached to the namespace or
	// device. If a namespace is named without a device, it adds the name of an unused device.
	CheckHostAttachment(*ec2.ExternalDevice) error
	// Settle attaches or detaches an interface as the state in force says. The error says why an
	// active interface has no port.
	Settle(context.Context, ec2.InterfaceID) error
	// HeldIn returns the network namespace that has the device of the host to which an interface is
	// attached; "" if the host still has it, or the interface is attached to something else.
	HeldIn(*ec2.Interface) string
	// Conflicts says which addresses of its subnet and VPC a namespace does not reach by an interface that is attached
	// to it here, because it has other routes there.
	Conflicts(*state.View, *ec2.Interface) []string
	// Link returns an interface's private addresses, with the length of its subnet, and gateway.
	Link(*state.View, *ec2.Interface) (addresses []netip.Prefix, gateway netip.Addr)
}

// A Keyring seals secrets of access keys under a cluster key, named by its id.
type Keyring interface {
	Seal(key string, account ec2.AccountID, accessKey, plain string) (ec2.SealedSecret, error)
}

// Server serves the control socket of one node. The node owns it. It has no state, lock or goroutine
// of its own: its handlers run concurrently and call parts of the node that lock themselves.
type Server struct{ Config }

// New makes a Server. If the node has peers, they can ask it from then on to trace packets, to list connections,
// and which calls it refused.
func New(c Config) *Server {
	s := &Server{c}
	if c.Peer != nil {
		s.handleTrace()
		s.handleAttach()
		c.Peer.Handle(methodConnections, s.answerConnections)
		s.handleRefused()
	}
	return s
}

// Handler serves these paths:
//
//	GET /v1/status   state of the node, and the instances (status.go)
//	GET /v1/drops    verdicts of frames, by port (drops.go)
//	GET /v1/flows    connections (flows.go)
//	GET /v1/allowances   room for connections of each interface (flows.go)
//	GET /v1/rules    rules in force, by group (rules.go)
//	GET /v1/presence interfaces, where they are and whether they are up (presence.go)
//	GET /v1/trace    the verdict on an imagined packet, and why (trace.go)
//	GET /v1/audit    changes, and refused calls (audit.go)
//	GET /v1/audit/export, /v1/audit/chain   the hash-chained log of changes, and the chain's hashes (audit_export.go)
//	/v1/cluster…     members, tokens and backups of the cluster (members.go), its keys (rotations.go), its regions (regions.go)
//	/v1/accounts…    accounts and access keys (accounts.go)
//	GET /v1/vpcs     the networks (vpcs.go); POST /v1/vpcs/tracking sets the mode of one
//	/v1/cut          connections that an operator may end, or ends (cut.go)
//	/v1/outside, /v1/attach, /v1/detach   interfaces attached to namespaces and devices (attach.go)
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.status()) })
	mux.HandleFunc("GET /v1/drops", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.drops()) })
	mux.HandleFunc("GET /v1/allowances", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.allowances()) })
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.flows()) })
	mux.HandleFunc("GET /v1/rules", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.rulesInForce()) })
	mux.HandleFunc("GET /v1/presence", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.presence()) })
	mux.HandleFunc("GET /v1/trace", s.traceHandler)
	mux.HandleFunc("GET /v1/audit", s.auditHandler)
	mux.HandleFunc("GET /v1/audit/export", s.auditExportHandler)
	mux.HandleFunc("GET /v1/audit/chain", s.auditChainHandler)
	mux.HandleFunc("GET /v1/cluster", func(w http.ResponseWriter, r *http.Request) {
		status, err := s.clusterStatus(r.Context())
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, status)
	})
	mux.HandleFunc("GET /v1/cluster/regions", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.regions()) })
	mux.HandleFunc("POST /v1/cluster/regions", post(decision(s, s.setRegions)))
	mux.HandleFunc("GET /v1/cluster/snapshot", s.backupHandler)
	mux.HandleFunc("GET /v1/accounts", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.accounts()) })
	mux.HandleFunc("POST /v1/accounts", post(decision(s, s.createAccounts)))
	mux.HandleFunc("POST /v1/accounts/keys", post(decision(s, s.changeKey)))
	mux.HandleFunc("GET /v1/vpcs", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.vpcs()) })
	mux.HandleFunc("POST /v1/vpcs/tracking", post(decision(s, s.setTracking)))
	mux.HandleFunc("GET /v1/cut", s.cutHandler)
	mux.HandleFunc("POST /v1/cut", post(decision(s, s.cut)))
	s.handleAttachments(mux)
	mux.HandleFunc("POST /v1/cluster/token", post(decision(s, s.newToken)))
	mux.HandleFunc("POST /v1/cluster/fence", post(decision(s, s.fence)))
	mux.HandleFunc("POST /v1/cluster/remove", post(decision(s, s.remove)))
	mux.HandleFunc("GET /v1/cluster/rotations", func(w http.ResponseWriter, r *http.Request) { answer(w, s.Rotations(r.Context())) })
	mux.HandleFunc("POST /v1/cluster/rotate", post(decision(s, s.rotate)))
	return mux
}

// answer writes a value as JSON.
func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // fails only if the client is gone
}

// post returns a handler that decodes the JSON body of a request, calls do with it for at most 20 s,
// and answers with the result as JSON.
func post[T any](do func(context.Context, T) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request T
		d := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
		d.DisallowUnknownFields()
		if err := d.Decode(&request); err != nil {
			refuse(w, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
		defer cancel()
		result, err := do(ctx, request)
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, result)
	}
}

// refuse answers a request with an error.
func refuse(w http.ResponseWriter, err error) {
	w.WriteHeader(http.StatusBadRequest)
	answer(w, map[string]string{"error": err.Error()})
}
