package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"palisade/cluster"
	"palisade/cluster/gossip"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

// maxTokenTTL bounds the lifetime of a join token.
const maxTokenTTL = 24 * time.Hour

// TokenRequest is the body of POST /v1/cluster/token.
type TokenRequest struct {
	Role ec2.NodeRole  `json:"role"` // "": voter
	TTL  time.Duration `json:"ttl"`  // in nanoseconds
}

func (s *Server) newToken(ctx context.Context, r TokenRequest) (any, error) {
	if s.Peer == nil {
		return nil, errors.New(`this node is a cluster of one, which no node can join: its configuration has no "peer.listen"`)
	}
	if r.Role == "" {
		r.Role = ec2.Voter
	}
	if r.TTL <= 0 || r.TTL > maxTokenTTL {
		return nil, fmt.Errorf("the lifetime of a token must be between 0 and %v, not %v", maxTokenTTL, r.TTL)
	}
	token, err := peer.NewToken(s.Identity.RootPEM())
	if err != nil {
		return nil, err
	}
	_, _, err = s.Cluster.Apply(ctx, state.Command{Request: &state.CreateJoinToken{
		ID: token.ID, SecretHash: token.SecretHash(), Role: r.Role, Expires: time.Now().Add(r.TTL),
	}, Audit: s.byOperator("CreateJoinToken", map[string]string{"Role": string(r.Role), "TTL": r.TTL.String()})})
	if err != nil {
		return nil, err
	}
	return map[string]string{"token": token.String()}, nil
}

// ClusterStatus is the answer of GET /v1/cluster.
type ClusterStatus struct {
	Node     ec2.NodeID     `json:"node"`     // that answers
	Leader   ec2.NodeID     `json:"leader"`   // "" if this node knows none
	Index    uint64         `json:"index"`    // of the newest state this node has
	Enforced bool           `json:"enforced"` // by every node that is not fenced
	Nodes    []MemberStatus `json:"nodes"`
	// Rotations are the keys that are being replaced.
	Rotations []RotationProgress `json:"rotations"`
	// Exposed are the access keys that a fenced or removed voter could read, and that were not replaced
	// since.
	Exposed []string `json:"exposed,omitempty"`
	// Gossip counts the presence documents that this node pulled, and those it refused.
	Gossip gossip.Stats `json:"gossip"`
	// Refused are the calls that other nodes made to this node, and may not make, since it started.
	Refused []cluster.Refusal `json:"refused,omitempty"`
}

// MemberStatus is one node of the cluster.
type MemberStatus struct {
	Name      ec2.NodeID   `json:"name"`
	Zone      string       `json:"zone"`
	Role      ec2.NodeRole `json:"role"`
	State     string       `json:"state"` // "member" or "fenced"
	Address   string       `json:"address"`
	Gossip    string       `json:"gossip"`    // alive, suspect, dead or unknown, as this node sees it
	Enforced  string       `json:"enforced"`  // "yes", or why not
	Tunnel    string       `json:"tunnel"`    // from this node to that node: up, down, "-" for itself
	Instances int          `json:"instances"` // number of interfaces on the node
}

func (s *Server) clusterStatus(ctx context.Context) (any, error) {
	view := s.Cluster.View()
	leader, _ := s.Cluster.Leader()
	status := ClusterStatus{Node: s.Node, Leader: leader, Index: view.Index(), Nodes: []MemberStatus{}, Gossip: s.Cluster.GossipStats(), Refused: s.Cluster.Refused()}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	enforcement, err := s.Cluster.Enforcement(ctx, view.Index())
	if err != nil {
		return nil, err
	}
	status.Enforced = len(enforcement.Pending) == 0
	counts := map[ec2.NodeID]int{}
	for eni := range view.Interfaces() {
		counts[eni.Node]++
	}
	members := map[ec2.NodeID]gossip.Member{}
	for _, m := range s.Cluster.GossipMembers() {
		members[m.Node] = m
	}
	status.Rotations, status.Exposed = s.Rotations(ctx), exposed(view)
	tunnels := s.tunnels()
	for node := range view.Nodes() {
		m := MemberStatus{
			Name: node.ID, Zone: node.Zone, Role: cmp.Or(node.Role, ec2.Voter), State: cmp.Or(string(node.State), "member"), Address: node.Address,
			Gossip: members[node.ID].Gossip, Enforced: enforced(enforcement, node.ID), Tunnel: tunnels[node.ID], Instances: counts[node.ID],
		}
		status.Nodes = append(status.Nodes, m)
	}
	return status, nil
}

// enforced returns "yes" if e says that a node enforces the index; otherwise the reason why it
// does not.
func enforced(e cluster.Enforcement, node ec2.NodeID) string {
	if slices.Contains(e.Enforced, node) {
		return "yes"
	}
	for _, p := range e.Pending {
		if p.Node == node {
			return p.Why
		}
	}
	return "fenced"
}

// tunnels returns, for each node, "up" or "down" for the tunnel from this node to it; "-" for this
// node.
func (s *Server) tunnels() map[ec2.NodeID]string {
	all := map[ec2.NodeID]string{s.Node: "-"}
	if s.Overlay == nil {
		return all
	}
	for _, tunnel := range s.Overlay.Status() {
		all[ec2.NodeID(tunnel.Node)] = "up"
		if !tunnel.Up {
			all[ec2.NodeID(tunnel.Node)] = "down"
		}
	}
	return all
}

// NodeRequest is the body of POST /v1/cluster/fence and /v1/cluster/remove.
type NodeRequest struct {
	Node ec2.NodeID `json:"node"`
}

// NodeChange is the answer to a NodeRequest.
type NodeChange struct {
	Node      ec2.NodeID       `json:"node"`
	Index     uint64           `json:"index"`
	Instances []ec2.InstanceID `json:"instances"` // that were on the node
	// Exposed are the access keys whose secrets the node could read, because it was a voter.
	Exposed []string `json:"exposed,omitempty"`
}

func (s *Server) fence(ctx context.Context, r NodeRequest) (any, error) {
	return s.expel(ctx, r.Node, "FenceNode", s.Cluster.Fence)
}

func (s *Server) remove(ctx context.Context, r NodeRequest) (any, error) {
	return s.expel(ctx, r.Node, "RemoveNode", s.Cluster.Remove)
}

// expel calls do, which fences or removes a node, and returns a NodeChange.
func (s *Server) expel(ctx context.Context, node ec2.NodeID, action string, do func(context.Context, ec2.NodeID, *ec2.Audit) error) (any, error) {
	change := NodeChange{Node: node, Instances: []ec2.InstanceID{}}
	row, ok := s.Cluster.View().Node(node)
	held := ok && row.Votes()
	for eni := range s.Cluster.View().Interfaces() {
		if eni.Node == node {
			change.Instances = append(change.Instances, eni.Instance)
		}
	}
	if err := do(ctx, node, s.byOperator(action, map[string]string{"Node": string(node)})); err != nil {
		return nil, err
	}
	view := s.Cluster.View()
	change.Index = view.Index()
	if held {
		change.Exposed = exposed(view)
		s.Logger.Warn("replace these access keys: the expelled node could read their secrets", "expelled", node, "access_keys", change.Exposed)
	}
	return change, nil
}

// exposed lists the access keys that an expelled voter could read and that were not replaced yet.
func exposed(view *state.View) (ids []string) {
	for k := range view.ExposedAccessKeys() {
		ids = append(ids, k.ID)
	}
	return ids
}

// backupHandler streams a backup, which has every change that was acknowledged before the request.
func (s *Server) backupHandler(w http.ResponseWriter, r *http.Request) {
	view, err := s.Cluster.ReadView(r.Context())
	if err != nil {
		refuse(w, err)
		return
	}
	name := ""
	if s.Identity != nil {
		name = s.Identity.Cluster()
	}
	if _, err := cluster.Save(w, name, view); err != nil {
		s.Logger.Warn("backup not sent completely", "err", err)
		panic(http.ErrAbortHandler) // so that the client sees an error
	}
}
