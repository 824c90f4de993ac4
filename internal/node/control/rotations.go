package control

import (
	"context"
	"fmt"

	"palisade/ec2"
	"palisade/ec2/state"
)

// RotationProgress is a kind of key that is being replaced, in GET /v1/cluster/rotations.
type RotationProgress struct {
	Kind  ec2.KeyKind      `json:"kind"`
	Step  ec2.RotationStep `json:"step"`
	Index uint64           `json:"index"` // of the entry that began it
	Key   string           `json:"key,omitempty"`
	Cause string           `json:"cause"`
	Nodes []RotationNode   `json:"nodes"` // that must be done with the step
}

// RotationNode is a node's part in the present step of a rotation.
type RotationNode struct {
	Node ec2.NodeID `json:"node"`
	Done bool       `json:"done"`
	Why  string     `json:"why,omitempty"` // why it is not done
}

// RotateRequest is the body of POST /v1/cluster/rotate.
type RotateRequest struct {
	Kind ec2.KeyKind `json:"kind"`
}

// RotateAnswer says which rotation a RotateRequest began.
type RotateAnswer struct {
	Kind    ec2.KeyKind `json:"kind"`
	Index   uint64      `json:"index"` // of the rotation
	Resumed bool        `json:"resumed"`
}

func (s *Server) rotate(ctx context.Context, r RotateRequest) (any, error) {
	if s.Peer == nil && r.Kind != ec2.ClusterKey {
		return nil, fmt.Errorf("this node is a cluster of one, which has no %s: only %q can be rotated", r.Kind, ec2.ClusterKey)
	}
	view, err := s.Cluster.ReadView(ctx)
	if err != nil {
		return nil, err
	}
	if now, ok := view.Rotation(r.Kind); ok {
		return RotateAnswer{Kind: r.Kind, Index: now.Index, Resumed: true}, nil
	}
	by := s.byOperator("RotateKeys", map[string]string{"Kind": string(r.Kind)})
	_, index, err := s.Cluster.Apply(ctx, state.Command{Request: &state.BeginRotation{Kind: r.Kind, Cause: "an operator asked for it"}, Audit: by})
	if err != nil {
		return nil, err
	}
	return RotateAnswer{Kind: r.Kind, Index: index}, nil
}
