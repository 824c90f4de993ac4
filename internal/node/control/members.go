package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"palisade/cluster"
	"palisade/cluster/gossip"
	"palisade/ec2"
	"palisade/internal/peer"
)

// This file is the node's part in who belongs to the cluster: it admits, and it answers
// `palisade cluster`.

// admit makes whoever holds a one-time token a member. The token is used up in the same
// entry of the log, so that two nodes can never share one.
func (n *Node) admit(ctx context.Context, r peer.JoinRequest) (peer.JoinAnswer, error) {
	token, ok := findToken(n.cluster.View(), r.Token)
	if !ok {
		// It may be newer than what this node has.
		view, err := n.cluster.ReadView(ctx)
		if err != nil {
			return peer.JoinAnswer{}, fmt.Errorf("%w: %w", peer.ErrUnavailable, err)
		}
		if token, ok = findToken(view, r.Token); !ok {
			return peer.JoinAnswer{}, errors.New("the token is not known: it was used already, or it is of another cluster")
		}
	}
	// Before the token is used up: a node without the key would be of no use.
	if id := n.cluster.View().SealKey(); id != "" && !n.keys.holds(id) {
		return peer.JoinAnswer{}, fmt.Errorf("%w: %s has not got the cluster key yet", peer.ErrUnavailable, n.config.Name)
	}
	_, index, err := n.cluster.Apply(ctx, ec2.Command{Request: &ec2.AdmitNode{
		Token: r.Token, SecretHash: r.SecretHash,
		Node: ec2.Node{
			ID: ec2.NodeID(r.Node), Zone: r.Zone, Role: token.Role, Address: r.Address.String(), PublicKey: r.PublicKey,
		},
	}})
	if err != nil {
		if _, refused := errors.AsType[*ec2.Error](err); !refused {
			err = fmt.Errorf("%w: %w", peer.ErrUnavailable, err)
		}
		return peer.JoinAnswer{}, err
	}
	n.log.Info("a node was admitted", "node", r.Node, "role", token.Role, "address", r.Address, "index", index)
	a := peer.JoinAnswer{Role: string(cmp.Or(token.Role, ec2.Voter))}
	if key := n.keys.key.Load(); key != nil {
		a.Secret = key.Encode()
	}
	for m := range n.cluster.View().Nodes() {
		if m.Member() {
			a.Members = append(a.Members, peer.Member{Node: string(m.ID), Address: m.Address, PublicKey: m.PublicKey})
		}
	}
	return a, nil
}

func findToken(view *ec2.View, id string) (*ec2.JoinToken, bool) {
	for t := range view.JoinTokens() {
		if t.ID == id {
			return t, true
		}
	}
	return nil, false
}

// maxTokenTTL bounds how long a join token can wait to be used.
const maxTokenTTL = 24 * time.Hour

// TokenRequest is what POST /v1/cluster/token is asked.
type TokenRequest struct {
	Role ec2.NodeRole  `json:"role"`
	TTL  time.Duration `json:"ttl"` // in nanoseconds
}

func (n *Node) newToken(ctx context.Context, r TokenRequest) (any, error) {
	if n.peer == nil {
		return nil, errors.New(`this node is a cluster of one, which nobody can join: it has no "peer.listen"`)
	}
	if r.Role == "" {
		r.Role = ec2.Voter
	}
	if r.TTL <= 0 || r.TTL > maxTokenTTL {
		return nil, fmt.Errorf("a token lives for up to %v, not %v", maxTokenTTL, r.TTL)
	}
	identity, _, err := n.config.identity()
	if err != nil {
		return nil, err
	}
	token, err := peer.NewToken(identity.RootPEM())
	if err != nil {
		return nil, err
	}
	_, _, err = n.cluster.Apply(ctx, ec2.Command{Request: &ec2.CreateJoinToken{
		ID: token.ID, SecretHash: token.SecretHash(), Role: r.Role, Expires: time.Now().Add(r.TTL),
	}, Audit: n.byOperator("CreateJoinToken", map[string]string{"Role": string(r.Role), "TTL": r.TTL.String()})})
	if err != nil {
		return nil, err
	}
	return map[string]string{"token": token.String()}, nil
}

// ClusterStatus is what GET /v1/cluster answers.
type ClusterStatus struct {
	Node     ec2.NodeID     `json:"node"`     // that answers
	Leader   ec2.NodeID     `json:"leader"`   // "" if this node knows none
	Index    uint64         `json:"index"`    // of the newest state this node has
	Enforced bool           `json:"enforced"` // by every node that is not fenced
	Nodes    []MemberStatus `json:"nodes"`
	// Gossip counts what this node has pulled from others and what it has refused.
	Gossip gossip.Stats `json:"gossip"`
}

// MemberStatus is one node in it.
type MemberStatus struct {
	Name      ec2.NodeID   `json:"name"`
	Zone      string       `json:"zone"`
	Role      ec2.NodeRole `json:"role"`
	State     string       `json:"state"` // "member" or "fenced"
	Address   string       `json:"address"`
	Gossip    string       `json:"gossip"`   // alive, suspect, dead, unknown: what this node hears
	Enforced  string       `json:"enforced"` // "yes", or why not
	Tunnel    string       `json:"tunnel"`   // from this node to it
	Instances int          `json:"instances"`
}

func (n *Node) clusterStatus(ctx context.Context) (any, error) {
	view := n.cluster.View()
	leader, _ := n.cluster.Leader()
	s := ClusterStatus{Node: n.config.Name, Leader: leader, Index: view.Index(), Nodes: []MemberStatus{}, Gossip: n.cluster.GossipStats()}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	enforcement, err := n.cluster.Enforcement(ctx, view.Index())
	if err != nil {
		return nil, err
	}
	s.Enforced = len(enforcement.Pending) == 0
	carried := map[ec2.NodeID]int{}
	for lease := range view.Interfaces() {
		carried[lease.Node]++
	}
	heard := map[ec2.NodeID]gossip.Member{}
	for _, m := range n.cluster.GossipMembers() {
		heard[m.Node] = m
	}
	tunnels := n.tunnels()
	for node := range view.Nodes() {
		m := MemberStatus{
			Name: node.ID, Zone: node.Zone, Role: cmp.Or(node.Role, ec2.Voter), State: cmp.Or(string(node.State), "member"), Address: node.Address,
			Gossip: heard[node.ID].Gossip, Enforced: enforced(enforcement, node.ID), Tunnel: tunnels[node.ID], Instances: carried[node.ID],
		}
		s.Nodes = append(s.Nodes, m)
	}
	return s, nil
}

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

// tunnels says of each node whether this one has a session with it.
func (n *Node) tunnels() map[ec2.NodeID]string {
	all := map[ec2.NodeID]string{n.config.Name: "-"}
	if n.overlay == nil {
		return all
	}
	for _, s := range n.overlay.Status() {
		all[ec2.NodeID(s.Node)] = "up"
		if !s.Up {
			all[ec2.NodeID(s.Node)] = "down"
		}
	}
	return all
}

// NodeRequest is what POST /v1/cluster/fence and /v1/cluster/remove are asked.
type NodeRequest struct {
	Node ec2.NodeID `json:"node"`
}

// NodeChange is what they answer.
type NodeChange struct {
	Node      ec2.NodeID       `json:"node"`
	Index     uint64           `json:"index"`
	Instances []ec2.InstanceID `json:"instances"` // that it carried
}

func (n *Node) fence(ctx context.Context, r NodeRequest) (any, error) {
	return n.expel(ctx, r.Node, "FenceNode", n.cluster.Fence)
}

func (n *Node) remove(ctx context.Context, r NodeRequest) (any, error) {
	return n.expel(ctx, r.Node, "RemoveNode", n.cluster.Remove)
}

func (n *Node) expel(ctx context.Context, node ec2.NodeID, action string, do func(context.Context, ec2.NodeID, *ec2.Audit) error) (any, error) {
	change := NodeChange{Node: node, Instances: []ec2.InstanceID{}}
	for lease := range n.cluster.View().Interfaces() {
		if lease.Node == node {
			change.Instances = append(change.Instances, lease.Instance)
		}
	}
	if err := do(ctx, node, n.byOperator(action, map[string]string{"Node": string(node)})); err != nil {
		return nil, err
	}
	change.Index = n.cluster.View().Index()
	return change, nil
}

// backupHandler streams a backup of the newest state that every acknowledged change is in.
func (n *Node) backupHandler(w http.ResponseWriter, r *http.Request) {
	view, err := n.cluster.ReadView(r.Context())
	if err != nil {
		refuse(w, err)
		return
	}
	name := ""
	if id, _, err := n.config.identity(); err == nil && id != nil {
		name = id.Cluster()
	}
	if _, err := cluster.Save(w, name, view); err != nil {
		n.log.Warn("a backup was cut off", "err", err)
		panic(http.ErrAbortHandler) // so that the asker notices
	}
}

// posted answers a request that changes something, with a body of JSON.
func posted[T any](do func(context.Context, T) (any, error)) http.HandlerFunc {
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

func refuse(w http.ResponseWriter, err error) {
	w.WriteHeader(http.StatusBadRequest)
	answer(w, map[string]string{"error": err.Error()})
}
