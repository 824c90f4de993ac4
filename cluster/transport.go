package cluster

//lint:file-ignore SA1019 Raft still uses the deprecated fields if a header has no name, so they are checked too.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/internal/peer"
)

// transport is Raft's transport. It calls other nodes as raft.NetworkTransport does. In addition it
// holds each node to what it may say:
//
//   - Only voters call (see directory.mayLead), and a voter speaks in its own name: every name in a
//     call must be that of the certificate. So the calls of each node arrive by an inbound of its own.
//   - The answer of a node that is no voter cannot end the leader's term.
//
// The Cluster owns it. mu guards the fields below it and is a leaf.
type transport struct {
	*raft.NetworkTransport // dials; its StreamLayer accepts nothing
	c                      *Cluster
	calls                  chan raft.RPC
	done                   chan struct{} // closed by Close

	mu        sync.Mutex
	closed    bool
	heartbeat func(raft.RPC)
	inbound   map[ec2.NodeID]*inbound
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

func (c *Cluster) newTransport() *transport {
	t := &transport{c: c, calls: make(chan raft.RPC), done: make(chan struct{}), inbound: make(map[ec2.NodeID]*inbound)}
	t.NetworkTransport = c.newNetworkTransport(dialing{c.stream, t.done})
	c.tasks.start(t.runAccept)
	return t
}

func (c *Cluster) newNetworkTransport(s raft.StreamLayer) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: c.stream,
		Logger:                c.raftLogger(),
		Stream:                s,
		MaxPool:               3,
		Timeout:               rpcTimeout,
	})
}

// dialing is the StreamLayer that only dials.
type dialing struct {
	*stream
	done <-chan struct{}
}

func (d dialing) Accept() (net.Conn, error) {
	<-d.done
	return nil, net.ErrClosed
}

// inbound is the StreamLayer of one calling node.
type inbound struct {
	*stream
	node  ec2.NodeID
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	calls *raft.NetworkTransport
}

func (i *inbound) Accept() (net.Conn, error) {
	select {
	case conn := <-i.conns:
		return conn, nil
	case <-i.done:
		return nil, net.ErrClosed
	}
}

func (i *inbound) Close() error {
	i.once.Do(func() { close(i.done) })
	return nil
}

// runAccept gives each connection to the inbound of its node, until Close.
func (t *transport) runAccept() {
	for {
		conn, node, err := t.c.stream.accept()
		if err != nil { // the listener is closed
			return
		}
		i := t.inboundOf(node)
		if i == nil {
			_ = conn.Close()
			return
		}
		select {
		case i.conns <- conn:
		case <-i.done:
			_ = conn.Close()
		}
	}
}

// inboundOf returns the inbound of a node, and makes it for the node's first connection; nil after
// Close.
func (t *transport) inboundOf(node ec2.NodeID) *inbound {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := t.inbound[node]; i != nil || t.closed {
		return i
	}
	i := &inbound{stream: t.c.stream, node: node, conns: make(chan net.Conn), done: make(chan struct{})}
	i.calls = t.c.newNetworkTransport(i)
	i.calls.SetHeartbeatHandler(func(rpc raft.RPC) {
		t.mu.Lock()
		handle := t.heartbeat
		t.mu.Unlock()
		switch {
		case !t.admits(node, rpc):
		case handle == nil:
			rpc.Respond(nil, errors.New("this node is starting"))
		default:
			handle(rpc)
		}
	})
	if !t.c.tasks.start(func() { t.runInbound(i) }) {
		_ = i.calls.Close()
		return nil
	}
	t.inbound[node] = i
	return i
}

// runInbound passes the calls of one node to Raft, until Close.
func (t *transport) runInbound(i *inbound) {
	for {
		select {
		case rpc := <-i.calls.Consumer():
			if !t.admits(i.node, rpc) {
				continue
			}
			select {
			case t.calls <- rpc:
			case <-t.done:
				return
			}
		case <-t.done:
			return
		}
	}
}

// admits reports whether node may make a call. If not, it answers the call with an error.
func (t *transport) admits(node ec2.NodeID, rpc raft.RPC) bool {
	err := t.c.directory.mayLead(node, nil)
	if err == nil {
		err = checkNames(node, rpc.Command)
	}
	if err != nil {
		t.c.refused.note(t.c.cfg.Logger, node, fmt.Sprintf("%T", rpc.Command), err)
		rpc.Respond(nil, err)
	}
	return err == nil
}

// checkNames returns an error if a call names another node than its caller as its sender.
func checkNames(caller ec2.NodeID, call any) error {
	h, ok := call.(raft.WithRPCHeader)
	if !ok {
		return fmt.Errorf("a call of an unknown kind %T", call)
	}
	header := h.GetRPCHeader()
	names := [][]byte{header.ID, header.Addr}
	switch r := call.(type) { // Raft uses these names if the header has no name
	case *raft.AppendEntriesRequest:
		names = append(names, r.Leader)
	case *raft.RequestVoteRequest:
		names = append(names, r.Candidate)
	case *raft.InstallSnapshotRequest:
		names = append(names, r.Leader)
	}
	for i, name := range names {
		if string(name) != string(caller) && (i < 2 || len(name) > 0) {
			return fmt.Errorf("%s calls in the name of %q", caller, ec2.Clip(string(name)))
		}
	}
	return nil
}

// Consumer returns the calls of all nodes.
func (t *transport) Consumer() <-chan raft.RPC { return t.calls }

// SetHeartbeatHandler sets the function that gets heartbeats. Raft calls it before it can have a
// leader.
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heartbeat = handle
}

// Close ends all inbounds. Connections end with the stream.
func (t *transport) Close() error {
	t.mu.Lock()
	all := t.inbound
	if !t.closed {
		t.closed, t.inbound = true, nil
		close(t.done)
	}
	t.mu.Unlock()
	var errs []error
	for _, i := range all {
		errs = append(errs, i.calls.Close())
	}
	return errors.Join(append(errs, t.NetworkTransport.Close(), t.c.stream.Close())...)
}

// AppendEntriesPipeline is for voters only. Raft calls AppendEntries for the others, because
// their answers are checked there.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, at raft.ServerAddress) (raft.AppendPipeline, error) {
	if !t.votes(id) {
		return nil, raft.ErrPipelineReplicationNotSupported
	}
	return t.NetworkTransport.AppendEntriesPipeline(id, at)
}

// AppendEntries returns an error if a node that is no voter answers with a later term, or refuses a
// heartbeat: either would make the leader step down.
func (t *transport) AppendEntries(id raft.ServerID, at raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := t.NetworkTransport.AppendEntries(id, at, args, resp); err != nil || t.votes(id) {
		return err
	}
	heartbeat := args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && len(args.Entries) == 0 && args.LeaderCommitIndex == 0
	return t.checkAnswer(id, args.Term, resp.Term, heartbeat && !resp.Success)
}

// InstallSnapshot returns an error if a node that is no voter answers with a later term.
func (t *transport) InstallSnapshot(id raft.ServerID, at raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if err := t.NetworkTransport.InstallSnapshot(id, at, args, resp, data); err != nil || t.votes(id) {
		return err
	}
	return t.checkAnswer(id, args.Term, resp.Term, false)
}

func (t *transport) checkAnswer(id raft.ServerID, ours, answered uint64, refuses bool) error {
	if answered <= ours && !refuses {
		return nil
	}
	err := fmt.Errorf("%s is no voter, and answered a call of term %d with term %d", id, ours, answered)
	t.c.refused.note(t.c.cfg.Logger, ec2.NodeID(id), "answer of a term", err)
	return err
}

// votes reports whether a node is a voter in the newest State.
func (t *transport) votes(id raft.ServerID) bool {
	n, ok := t.c.View().Node(ec2.NodeID(id))
	return ok && n.Votes()
}

// accept waits for a connection from another node.
func (s *stream) accept() (net.Conn, ec2.NodeID, error) {
	conn, err := s.Accept()
	if err != nil {
		return nil, "", err
	}
	return conn, ec2.NodeID(conn.(*accepted).Conn.(*peer.Conn).Node()), nil
}
