package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

// admit makes a node that presents a one-time token a member of the cluster. The same log entry uses
// up the token, so that no two nodes can join with it.
func (n *Node) admit(ctx context.Context, r peer.JoinRequest) (peer.JoinAnswer, error) {
	token, ok := findToken(n.cluster.View(), r.Token)
	if !ok {
		// The token may be newer than the state of this node.
		view, err := n.cluster.ReadView(ctx)
		if err != nil {
			return peer.JoinAnswer{}, fmt.Errorf("%w: %w", peer.ErrUnavailable, err)
		}
		if token, ok = findToken(view, r.Token); !ok {
			return peer.JoinAnswer{}, errors.New("the token is unknown: it was used already, or is for another cluster")
		}
	}
	// Return before the token is used up: a new voter needs the cluster key, which this node could not
	// give it.
	if id := n.cluster.View().SealKey(); id != "" && !n.keys.has(id) {
		return peer.JoinAnswer{}, fmt.Errorf("%w: %s does not have the cluster key yet", peer.ErrUnavailable, n.config.Name)
	}
	_, index, err := n.cluster.Apply(ctx, state.Command{Request: &state.AdmitNode{
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
	n.log.Info("node admitted to the cluster", "node", r.Node, "role", token.Role, "address", r.Address, "index", index)
	a := peer.JoinAnswer{Role: string(cmp.Or(token.Role, ec2.Voter))}
	if key := n.keys.key.Load(); key != nil && token.Role != ec2.NonVoter {
		a.Secret = key.Encode()
	}
	for m := range n.cluster.View().Nodes() {
		if m.Member() {
			a.Members = append(a.Members, peer.Member{Node: string(m.ID), Address: m.Address, PublicKey: m.PublicKey, Role: string(m.Role)})
		}
	}
	return a, nil
}

func findToken(view *state.View, id string) (*ec2.JoinToken, bool) {
	for t := range view.JoinTokens() {
		if t.ID == id {
			return t, true
		}
	}
	return nil, false
}
