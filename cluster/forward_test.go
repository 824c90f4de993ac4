package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/peer"
)

// methodAsk is the method that the neighbours of TestAtLeader… answer as the test says.
const methodAsk = "test.ask"

// A call is passed on to the leader until one leader has answered it, and never twice unless it may be.
func TestAtLeaderPassesOnUntilALeaderAnswers(t *testing.T) {
	var s *circle
	var answer atomic.Value // of func(n int, at ec2.NodeID, p *peer.Peer) (string, error), called the n-th time
	s = newCircle(t, 4, func(node ec2.NodeID, p *peer.Peer) {
		p.Handle(methodAsk, func(_ context.Context, from string, body []byte) ([]byte, error) {
			text, err := answer.Load().(func(int, ec2.NodeID, *peer.Peer) (string, error))(s.note(node), node, p)
			return fmt.Appendf(nil, "%s of %s from %s: %s", text, node, from, body), err
		})
	})
	s.neighbours["node4"].stop()
	notLeader := &peer.RemoteError{Code: CodeNotLeader, Text: "not the leader"}
	lost := func(n int, _ ec2.NodeID, p *peer.Peer) (string, error) { // the first answer does not arrive
		if n == 1 {
			p.Drop("node1")
		}
		return "answer", nil
	}
	fine := func(int, ec2.NodeID, *peer.Peer) (string, error) { return "answer", nil }
	here := 0
	for _, tt := range []struct {
		what       string
		leader     ec2.NodeID
		repeatable bool
		answer     func(int, ec2.NodeID, *peer.Peer) (string, error)
		want       string // the answer, or the error
		is         error
		calls      string
		here       int
	}{
		{"the leader answers", "node2", false, fine, "answer of node2 from node1: body", nil, "[node2]", 0},
		{"the called node leads no more", "node2", false, func(_ int, node ec2.NodeID, _ *peer.Peer) (string, error) {
			if node == "node2" {
				s.lead("node3")
				return "", notLeader
			}
			return "answer", nil
		}, "answer of node3 from node1: body", nil, "[node2 node3]", 0},
		{"the leader refuses", "node2", true, func(int, ec2.NodeID, *peer.Peer) (string, error) {
			return "", &peer.RemoteError{Code: "Other", Text: "I do not want to"}
		}, "I do not want to", nil, "[node2]", 0},
		{"the answer is lost", "node2", false, lost, "test.ask at node2", ErrOutcomeUnknown, "[node2]", 0},
		{"the answer of a repeatable call is lost", "node2", true, lost, "answer of node2 from node1: body", nil, "[node2 node2]", 0},
		{"the leader is not reached", "node4", false, fine, "answer of node3 from node1: body", nil, "[node3]", 0},
		{"this node leads", "node1", false, fine, "", nil, "[]", 1},
	} {
		here = 0
		answer.Store(tt.answer)
		s.lead(tt.leader)
		s.setLeading(0)
		if tt.leader == "node1" || tt.leader == "node4" {
			time.AfterFunc(50*time.Millisecond, func() { // also this node must have taken over before it is asked
				if s.setLeading(5); tt.leader == "node4" {
					s.lead("node3")
				}
			})
		}
		began := time.Now()
		data, err := s.AtLeader(t.Context(), methodAsk, []byte("body"), tt.repeatable, func() error {
			if here++; time.Since(began) < 50*time.Millisecond {
				t.Errorf("%s: the call was made here before this node had taken over", tt.what)
			}
			return nil
		})
		got := string(data)
		if err != nil {
			got = err.Error()
		}
		calls := s.noted()
		failed := tt.is != nil || tt.what == "the leader refuses"
		if !strings.Contains(got, tt.want) || tt.want == "" && got != "" || (err != nil) != failed || tt.is != nil && !errors.Is(err, tt.is) || calls != tt.calls || here != tt.here {
			t.Errorf("%s: answer %q, error %v, calls of %s, %d calls here; want %q, error %v, %s, %d", tt.what, data, err, calls, here, tt.want, tt.is, tt.calls, tt.here)
		}
	}
}

// A node that leads makes the call itself, again if it has lost the leadership and got it back.
func TestAtLeaderMakesTheCallHereAgain(t *testing.T) {
	s := newCircle(t, 2, nil)
	s.lead("node1")
	s.setLeading(5)
	mine := errors.New("mine")
	answers := []error{ErrNotLeader, ErrNotLeader, mine}
	data, err := s.AtLeader(t.Context(), methodAsk, nil, false, func() (err error) { err, answers = answers[0], answers[1:]; return err })
	if data != nil || err != mine || len(answers) > 0 {
		t.Errorf("answer %q, error %v, %d calls left; want the error of the third call", data, err, len(answers))
	}
}

// A call that its leader does not answer ends when its caller ends, when Run ends, and a second after this
// node has lost the leader: behind a partition the connection stays open.
func TestCallEndsWithItsCallerOrItsLeader(t *testing.T) {
	t.Parallel() // it mostly waits
	var s *circle
	asked := make(chan bool, 1)
	leave := make(chan bool)
	s = newCircle(t, 3, func(_ ec2.NodeID, p *peer.Peer) {
		p.Handle(methodAsk, func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			asked <- true
			select {
			case <-ctx.Done():
			case <-leave:
			}
			return []byte("late"), nil
		})
	})
	call := func(ctx context.Context) ([]byte, error) {
		s.lead("node2")
		return s.AtLeader(ctx, methodAsk, nil, false, nil)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := call(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoLeader) || errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("the caller has ended: error %v, want context.Canceled alone", err)
	}
	go func() {
		<-asked
		time.Sleep(leaderGrace + leaderGrace/2)
		leave <- true
	}()
	if data, err := call(t.Context()); string(data) != "late" || err != nil {
		t.Errorf("a leader that takes its time: answer %q, error %v; want the answer", data, err)
	}
	lost := make(chan time.Time, 1)
	go func() { <-asked; s.lead("node3"); lost <- time.Now() }()
	if _, err := call(t.Context()); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("the leader was lost: error %v, want ErrOutcomeUnknown", err)
	}
	if took := time.Since(<-lost); took < leaderGrace*8/10 {
		t.Errorf("the call ended %v after the leader was lost, want %v", took, leaderGrace)
	}
	go func() { <-asked; s.end() }()
	if _, err := call(t.Context()); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("Run ends: error %v, want ErrOutcomeUnknown", err)
	}
	s.tasks.stop()
	if _, err := s.callRaw(t.Context(), "node2", methodAsk, nil); !errors.Is(err, ErrStopped) {
		t.Errorf("Run has ended: error %v, want ErrStopped", err)
	}
}
