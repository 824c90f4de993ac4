package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/packet"
	vswitch "palisade/switch"
)

// This file is how a trace crosses nodes: each does its own half, by its own tables.

// The methods between nodes.
const (
	methodTrace  = "node.trace"        // a whole trace, at the node that the packet enters by
	methodOnward = "node.trace.onward" // its second half, behind a tunnel
)

type traceRequest struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Packet string `json:"packet"`
}

// onwardRequest is a frame as a tunnel would have carried it. Which node sent it is who
// asks.
type onwardRequest struct {
	VNI   uint32 `json:"vni"`
	Epoch uint64 `json:"epoch"`
	Frame []byte `json:"frame"`
}

func (s *Server) handleTrace() {
	s.Peer.Handle(methodTrace, func(ctx context.Context, _ string, body []byte) ([]byte, error) {
		var r traceRequest
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, err
		}
		t, err := s.trace(ctx, r)
		if err != nil {
			return nil, err
		}
		return json.Marshal(t)
	})
	s.Peer.Handle(methodOnward, func(_ context.Context, from string, body []byte) ([]byte, error) {
		var r onwardRequest
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, err
		}
		view := s.Plane.View()
		if view == nil {
			return nil, errors.New("this node has no table yet")
		}
		sender, ok := view.Node(ec2.NodeID(from))
		if !ok {
			return nil, fmt.Errorf("%s does not know node %s", s.Node, from)
		}
		result, ok := s.Switch.TraceTunnel(packet.Origin{Node: sender.Number, VNI: r.VNI, Epoch: r.Epoch}, r.Frame)
		if !ok {
			return nil, fmt.Errorf("%s has no tunnels", s.Node)
		}
		return json.Marshal(s.report(view, result))
	})
}

// entersAt is the number of the node that an imagined packet enters by: its sender's, or,
// from outside, that of whoever has the public address; 0 is this one.
func entersAt(src, dst traceEnd) uint32 {
	switch {
	case src.owner != nil:
		return src.owner.Node
	case dst.owner != nil:
		return dst.owner.Node
	}
	return 0
}

func (s *Server) traceElsewhere(ctx context.Context, view *state.View, number uint32, r traceRequest) (*Trace, error) {
	t := new(Trace)
	return t, s.askNode(ctx, view, number, methodTrace, r, t)
}

// traceOnward lets the node behind the tunnel do its half, and joins it to ours.
func (s *Server) traceOnward(ctx context.Context, view *state.View, on *vswitch.Onward, t *Trace) error {
	var rest Trace
	r := onwardRequest{VNI: on.Origin.VNI, Epoch: on.Origin.Epoch, Frame: on.Frame}
	if err := s.askNode(ctx, view, on.Node, methodOnward, r, &rest); err != nil {
		return err
	}
	t.Steps = append(t.Steps, rest.Steps...)
	t.Admitted, t.Verdict, t.Meaning, t.Reason = rest.Admitted, rest.Verdict, rest.Meaning, rest.Reason
	t.At, t.Node, t.Admit = rest.At, rest.Node, rest.Admit
	return nil
}

func (s *Server) askNode(ctx context.Context, view *state.View, number uint32, method string, question, into any) error {
	for node := range view.Nodes() {
		if node.Number != number {
			continue
		}
		body, err := json.Marshal(question)
		if err != nil {
			return err
		}
		reply, err := s.Peer.Call(ctx, string(node.ID), method, body)
		if err != nil {
			return fmt.Errorf("ask %s, which has the other end: %w", node.ID, err)
		}
		return json.Unmarshal(reply, into)
	}
	return fmt.Errorf("the other end is on node number %d, which this one does not know", number)
}
