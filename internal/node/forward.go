package node

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/query/wire"
	"palisade/internal/peer"
)

// Only the leader carries out a user's request that changes something: it checks the signature itself, and
// makes the command and its audit record itself. Every other node passes the request on unread. A voter
// answers requests that only read; other nodes cannot, because they do not have the cluster key that
// signatures are checked with.

// methodAPI is a call between nodes that passes on a user's request.
const methodAPI = "node.api"

const (
	// maxForwarded bounds the requests that this node passes on at the same time; more wait. It leaves some
	// of the calls to one node (peer) to the cluster itself.
	maxForwarded = 48
	// staleWait bounds the wait for one voter's answer to a stale read.
	staleWait = time.Second
	// packFrom is the length from which the body of a message is compressed, because peer bounds messages.
	packFrom = 256 << 10
	// The largest body of a reply after decompression, and the largest head of a message, in bytes.
	maxReplyBody = 256 << 20
	maxHead      = 256 << 10
)

// forward answers a request of this node's API: here, or by the leader, or for a stale read by any voter.
func (n *Node) forward(ctx context.Context, q *query.Received, here func(context.Context) (*query.Reply, error)) (*query.Reply, error) {
	reads := q.OnlyReads()
	if leader, _ := n.cluster.Leader(); leader == n.config.Name || reads && n.checksSignatures() {
		if reply, err := here(ctx); !errors.Is(err, query.ErrElsewhere) {
			return reply, err
		}
	}
	select {
	case n.forwards <- struct{}{}:
		defer func() { <-n.forwards }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	body, err := packMessage(q, q.Body)
	if err != nil {
		return nil, err
	}
	if reads && q.Stale() {
		return n.askVoters(ctx, body)
	}
	var reply *query.Reply
	answer, err := n.cluster.AtLeader(ctx, methodAPI, body, reads, func() (err error) {
		if reply, err = here(ctx); errors.Is(err, query.ErrElsewhere) {
			return cluster.ErrNotLeader
		}
		return err
	})
	if err != nil || reply != nil {
		return reply, leaderless(err)
	}
	if reply, err = unpackReply(answer); err == nil && !reads {
		n.awaitEnforced(ctx, reply.Index())
	}
	return reply, err
}

// askVoters asks one voter after another for the answer to a stale read.
func (n *Node) askVoters(ctx context.Context, body []byte) (*query.Reply, error) {
	failures := []error{errors.New("this node cannot check signatures, and no voter answers")}
	for m := range n.cluster.View().Nodes() {
		if !m.Votes() || m.ID == n.config.Name {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, staleWait)
		answer, err := n.peer.Call(ctx, string(m.ID), methodAPI, body)
		cancel()
		if err == nil {
			return unpackReply(answer)
		}
		failures = append(failures, err)
	}
	return nil, unavailable{errors.Join(failures...)}
}

// checksSignatures reports whether this node is a voter and has the cluster key, so that it can answer
// requests that only read.
func (n *Node) checksSignatures() bool {
	view := n.cluster.View()
	self, ok := view.Node(n.config.Name)
	return ok && self.Votes() && (view.SealKey() == "" || n.keys.has(view.SealKey()))
}

// passedOn handles methodAPI. It checks the request as if this node had received it from the client: nothing
// that the other node says about it counts, but the client's address, which the audit record shows beside
// the node's name.
func (n *Node) passedOn(ctx context.Context, from string, body []byte) ([]byte, error) {
	if m, ok := n.cluster.View().Node(ec2.NodeID(from)); !ok || !m.Member() {
		return nil, fmt.Errorf("%s is not a member in the state of %s", from, n.config.Name)
	}
	q := &query.Received{}
	var err error
	if q.Body, err = unpackMessage(body, q, wire.MaxBody); err != nil {
		return nil, err
	}
	if !n.checksSignatures() {
		return nil, &peer.RemoteError{Code: cluster.CodeNotLeader, Text: fmt.Sprintf("%s cannot check signatures", n.config.Name)}
	}
	reply, err := n.api.Answer(ctx, q, ec2.NodeID(from))
	if errors.Is(err, query.ErrElsewhere) {
		return nil, &peer.RemoteError{Code: cluster.CodeNotLeader, Text: fmt.Sprintf("%s does not lead", n.config.Name)}
	}
	if err != nil {
		return nil, err
	}
	return packMessage(reply, reply.Body)
}

func unpackReply(data []byte) (*query.Reply, error) {
	reply := &query.Reply{}
	var err error
	reply.Body, err = unpackMessage(data, reply, maxReplyBody)
	return reply, err
}

// packMessage returns a message with a head, as JSON, and a body: the length of the head, the head, a byte
// that says whether the body is compressed, the body.
func packMessage(head any, body []byte) ([]byte, error) {
	encoded, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(binary.BigEndian.AppendUint32(nil, uint32(len(encoded))))
	b.Write(encoded)
	if len(body) < packFrom {
		b.WriteByte(0)
		b.Write(body)
		return b.Bytes(), nil
	}
	b.WriteByte(1)
	w, err := gzip.NewWriterLevel(b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(body); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// unpackMessage decodes the head of a message, and returns its body of at most most bytes.
func unpackMessage(data []byte, head any, most int) ([]byte, error) {
	if len(data) < 5 || uint64(binary.BigEndian.Uint32(data)) > uint64(min(len(data)-5, maxHead)) {
		return nil, fmt.Errorf("a message of %d bytes is not complete, or its head is longer than %d bytes", len(data), maxHead)
	}
	end := 4 + binary.BigEndian.Uint32(data)
	if err := json.Unmarshal(data[4:end], head); err != nil {
		return nil, fmt.Errorf("decode message: %w", err)
	}
	body := data[end+1:]
	if data[end] != 0 {
		r, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("decompress message: %w", err)
		}
		if body, err = io.ReadAll(io.LimitReader(r, int64(most)+1)); err != nil {
			return nil, fmt.Errorf("decompress message: %w", err)
		}
	}
	if len(body) > most {
		return nil, fmt.Errorf("the body of a message is longer than %d bytes", most)
	}
	return body, nil
}
