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

// The methods between nodes. Each node traces its part of the way with its own tables.
const (
	methodTrace     = "node.trace"        // from the port where the packet enters, on this node
	methodRemainder = "node.trace.onward" // from the tunnel on, on the receiving node
)

type traceRequest struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Packet string `json:"packet"`
}

// remainderRequest is the frame of a trace as the tunnel would carry it. The node that calls is the
// node that would send the frame.
type remainderRequest struct {
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
	s.Peer.Handle(methodRemainder, func(_ context.Context, from string, body []byte) ([]byte, error) {
		var r remainderRequest
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, err
		}
		view := s.Plane.View()
		if view == nil {
			return nil, errors.New("this node enforces no state yet")
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

// entersAt returns the number of the node where an imagined packet enters the cluster: the sender's
// node or, for a sender outside, the node that has the public address. 0 is this node.
func entersAt(src, dst traceHost) uint32 {
	switch {
	case src.endpoint != nil:
		return src.endpoint.Node
	case dst.endpoint != nil:
		return dst.endpoint.Node
	}
	return 0
}

func (s *Server) traceOnNode(ctx context.Context, view *state.View, number uint32, r traceRequest) (*Trace, error) {
	t := new(Trace)
	return t, s.askNode(ctx, view, number, methodTrace, r, t)
}

// traceRemainder asks the node at the other end of the tunnel to continue the trace, and adds its
// answer to t.
func (s *Server) traceRemainder(ctx context.Context, view *state.View, on *vswitch.Onward, t *Trace) error {
	var remainder Trace
	r := remainderRequest{VNI: on.Origin.VNI, Epoch: on.Origin.Epoch, Frame: on.Frame}
	if err := s.askNode(ctx, view, on.Node, methodRemainder, r, &remainder); err != nil {
		return err
	}
	t.Steps = append(t.Steps, remainder.Steps...)
	t.Admitted, t.Verdict, t.Meaning, t.Reason = remainder.Admitted, remainder.Verdict, remainder.Meaning, remainder.Reason
	t.At, t.Node, t.Admit = remainder.At, remainder.Node, remainder.Admit
	return nil
}

// askNode calls a method of the node that has this number and decodes the result into answer.
func (s *Server) askNode(ctx context.Context, view *state.View, number uint32, method string, request, answer any) error {
	for node := range view.Nodes() {
		if node.Number != number {
			continue
		}
		if err := s.call(ctx, node.ID, method, request, answer); err != nil {
			return fmt.Errorf("trace on %s: %w", node.ID, err)
		}
		return nil
	}
	return fmt.Errorf("trace: there is no node with number %d", number)
}

// call calls a method of another node and decodes the result into answer.
func (s *Server) call(ctx context.Context, node ec2.NodeID, method string, request, answer any) error {
	if s.Peer == nil {
		return fmt.Errorf("%s is a cluster of one and cannot call %s", s.Node, node)
	}
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	reply, err := s.Peer.Call(ctx, string(node), method, body)
	if err != nil {
		return err
	}
	return json.Unmarshal(reply, answer)
}
