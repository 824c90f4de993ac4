package control

import (
	"context"
	"encoding/json"
	"fmt"

	"palisade/ec2"
)

// An operator at a voter attaches interfaces at any node. The voter asks that node whether the device can be
// used, and afterwards whether it is attached. Only voters may ask.
const (
	methodAttachable = "control.attachable"
	methodAttached   = "control.attached"
)

// attachedQuestion asks whether an interface is attached, as the state of an index says.
type attachedQuestion struct {
	Interface ec2.InterfaceID `json:"interface"`
	Index     uint64          `json:"index"`
}

func (s *Server) handleAttach() {
	s.Peer.Handle(methodAttachable, fromVoter(s, func(_ context.Context, at ec2.ExternalDevice) (any, error) {
		err := s.Fleet.CheckHostAttachment(&at)
		return at, err
	}))
	s.Peer.Handle(methodAttached, fromVoter(s, func(ctx context.Context, q attachedQuestion) (any, error) { return s.attached(ctx, q) }))
}

// fromVoter returns the handler of a call that only voters may make.
func fromVoter[T any](s *Server, do func(context.Context, T) (any, error)) func(context.Context, string, []byte) ([]byte, error) {
	return func(ctx context.Context, from string, body []byte) ([]byte, error) {
		if n, ok := s.Cluster.View().Node(ec2.NodeID(from)); !ok || !n.Votes() {
			return nil, fmt.Errorf("%s is no voter", from)
		}
		var q T
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, err
		}
		answer, err := do(ctx, q)
		if err != nil {
			return nil, err
		}
		return json.Marshal(answer)
	}
}

// attachableAt returns the device of an attachment at a node, with its name, or an error if the node cannot
// attach it.
func (s *Server) attachableAt(ctx context.Context, node ec2.NodeID, at ec2.ExternalDevice) (ec2.ExternalDevice, error) {
	if node == s.Node {
		err := s.Fleet.CheckHostAttachment(&at)
		return at, err
	}
	err := s.askAt(ctx, node, methodAttachable, at, &at)
	return at, err
}

// attachedAt waits until an interface is attached at a node.
func (s *Server) attachedAt(ctx context.Context, node ec2.NodeID, q attachedQuestion) (status AttachmentStatus, err error) {
	if node == s.Node {
		return s.attached(ctx, q)
	}
	err = s.askAt(ctx, node, methodAttached, q, &status)
	return status, err
}

func (s *Server) attached(ctx context.Context, q attachedQuestion) (AttachmentStatus, error) {
	if !s.Plane.Wait(ctx, q.Index) {
		return AttachmentStatus{}, fmt.Errorf("%s is registered, but the switch of %s does not enforce that yet", q.Interface, s.Node)
	}
	if err := s.Fleet.Settle(ctx, q.Interface); err != nil {
		return AttachmentStatus{}, err
	}
	view := s.Plane.View()
	eni, ok := view.Interface(q.Interface)
	if !ok || eni.External == nil {
		return AttachmentStatus{}, fmt.Errorf("%s was detached meanwhile", q.Interface)
	}
	status := s.attachmentStatus(view, eni)
	status.Conflicts = s.Fleet.Conflicts(view, eni)
	return status, nil
}

func (s *Server) askAt(ctx context.Context, node ec2.NodeID, method string, question, answer any) error {
	if s.Peer == nil {
		return fmt.Errorf("%s is a cluster of one, so there is no node %s", s.Node, node)
	}
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	data, err := s.Peer.Call(ctx, string(node), method, body)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, answer)
}

// decision returns do for an operator who decides for the cluster. The root user of a node that is no voter
// does not: the leader would refuse the command. The error says where to ask.
func decision[T any](s *Server, do func(context.Context, T) (any, error)) func(context.Context, T) (any, error) {
	return func(ctx context.Context, request T) (any, error) {
		view := s.Cluster.View()
		if self, ok := view.Node(s.Node); ok && !self.Votes() {
			return nil, notHere(s.Node, view.Nodes())
		}
		return do(ctx, request)
	}
}

func notHere(self ec2.NodeID, nodes func(func(*ec2.Node) bool)) error {
	voters := ""
	for n := range nodes {
		if n.Votes() {
			voters += " " + string(n.ID)
		}
	}
	return fmt.Errorf("%s is no voter, so its operator decides nothing for the cluster; do this on one of the voters:%s", self, voters)
}
