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

func findToken(view *state.View, id string) (*ec2.JoinToken, bool) {
	for t := range view.JoinTokens() {
		if t.ID == id {
			return t, true
		}
	}
	return nil, false
}
