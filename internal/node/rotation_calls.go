package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/secret"
)

// The calls between nodes with which keys are replaced.
const (
	methodRotation    = "node.rotation"    // which keys do you have and use?
	methodRotationKey = "node.rotationkey" // give me this key
)

type rotationKeyRequest struct {
	Kind ec2.KeyKind `json:"kind"`
	Key  string      `json:"key"` // id
}

// handleRotation registers the handlers of both methods.
func (n *Node) handleRotation() {
	n.peer.Handle(methodRotation, func(_ context.Context, from string, _ []byte) ([]byte, error) {
		if _, err := n.callingMember(from); err != nil {
			return nil, err
		}
		return json.Marshal(n.rotationReport())
	})
	n.peer.Handle(methodRotationKey, func(_ context.Context, from string, body []byte) ([]byte, error) {
		member, err := n.callingMember(from)
		if err != nil {
			return nil, err
		}
		var q rotationKeyRequest
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, err
		}
		return n.giveKey(member, q)
	})
}

// callingMember returns the row of a calling node. A node that is not in the state, or is fenced, gets no
// answer.
func (n *Node) callingMember(from string) (*ec2.Node, error) {
	m, ok := n.cluster.View().Node(ec2.NodeID(from))
	if !ok || !m.Member() {
		return nil, fmt.Errorf("%s is not a member in the state of %s", from, n.config.Name)
	}
	return m, nil
}

func (n *Node) giveKey(to *ec2.Node, q rotationKeyRequest) ([]byte, error) {
	var key *secret.Key
	switch q.Kind {
	case ec2.GossipKey:
		key = n.gossipKeys.find(q.Key)
	case ec2.ClusterKey:
		if !hasClusterKey(to) {
			return nil, fmt.Errorf("%s is no voter: it does not get the cluster key", to.ID)
		}
		key = n.keys.find(q.Key)
	case ec2.Authority:
		return n.giveAuthorityKey(to, q.Key)
	}
	if key == nil {
		return nil, fmt.Errorf("%s does not have key %s of %s", n.config.Name, ec2.Clip(q.Key), ec2.Clip(string(q.Kind)))
	}
	return key.Encode(), nil
}

// fetchRotationKey asks the other members for a key.
func (n *Node) fetchRotationKey(ctx context.Context, view *state.View, kind ec2.KeyKind, id string) (*secret.Key, error) {
	if n.peer == nil {
		return nil, fmt.Errorf("key %s of %s is not in %s, and a cluster of one cannot ask others", id, kind, n.config.DataDir)
	}
	body, err := json.Marshal(rotationKeyRequest{kind, id})
	if err != nil {
		return nil, err
	}
	var failures []error
	for m := range view.Nodes() {
		if !m.Member() || m.ID == n.config.Name || kind == ec2.ClusterKey && !hasClusterKey(m) {
			continue
		}
		data, err := n.peer.Call(ctx, string(m.ID), methodRotationKey, body)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		key, err := secret.DecodeKey(data)
		switch {
		case err != nil:
			failures = append(failures, fmt.Errorf("%s: %w", m.ID, err))
		case key.ID() != id:
			failures = append(failures, fmt.Errorf("%s gave key %s for key %s", m.ID, key.ID(), id))
		default:
			n.log.Info("key received", "kind", kind, "key", id, "from", m.ID)
			return key, nil
		}
	}
	return nil, errors.Join(append(failures, fmt.Errorf("no node gives key %s of %s", id, kind))...)
}
