package cluster

import (
	"bytes"
	"fmt"
	"sync"

	"palisade/ec2"
	"palisade/internal/peer"
)

// directory checks the nodes of TLS handshakes against the node table of the newest State.
//
// While a node was away, a node that joined later may have become the leader. With its old
// table it would refuse that leader for ever, and could never catch up. So until it is current
// (see runCatchUp), and again whenever it loses its leader, it accepts every certificate of the
// cluster's authority, except those of fenced nodes. Once it is current it disconnects the
// nodes that the table does not confirm.
//
// The Cluster owns it. mu guards the fields below it; View may be called while it is held.
type directory struct {
	c *Cluster

	mu          sync.Mutex
	current     bool
	unconfirmed map[ec2.NodeID][]byte // keys of the nodes accepted by their certificate alone
}

// maxUnconfirmed bounds unconfirmed; one node more is refused. A cluster does not grow by so
// many while a node is away.
const maxUnconfirmed = 256

// Directory returns the directory for the Peer. It works before Run.
func (c *Cluster) Directory() peer.Directory { return &c.directory }

// Check accepts the members of the newest State and, while that is not current, other nodes
// with a certificate.
func (d *directory) Check(node string, publicKey []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := ec2.NodeID(node)
	err, fenced := d.checkMember(id, publicKey)
	if err == nil || fenced || d.current {
		return err
	}
	if len(d.unconfirmed) >= maxUnconfirmed {
		return fmt.Errorf("%w, and %d other unknown nodes are connected", err, maxUnconfirmed)
	}
	if d.unconfirmed == nil {
		d.unconfirmed = make(map[ec2.NodeID][]byte)
	}
	d.unconfirmed[id] = bytes.Clone(publicKey)
	return nil
}

func (d *directory) checkMember(id ec2.NodeID, publicKey []byte) (err error, fenced bool) {
	row, ok := d.c.View().Node(id)
	switch {
	case !ok:
		return fmt.Errorf("%s is no member", id), false
	case len(publicKey) == 0 || !bytes.Equal(row.PublicKey, publicKey):
		return fmt.Errorf("%s has another key", id), false
	case !row.Member():
		return fmt.Errorf("%s is fenced", id), true
	}
	return nil, false
}

// Address returns a node's address from the State, else from Raft, else from the nodes that
// admitted this one.
func (d *directory) Address(node string) (string, bool) {
	if row, ok := d.c.View().Node(ec2.NodeID(node)); ok && row.Address != "" {
		return row.Address, true
	}
	select {
	case <-d.c.started:
		for _, s := range d.c.servers().Servers {
			if string(s.ID) == node {
				return string(s.Address), true
			}
		}
	default:
	}
	for _, m := range d.c.cfg.Identity.Members() {
		if m.Node == node {
			return m.Address, true
		}
	}
	return "", false
}

// setCurrent sets whether the State is as new as the leader's. If so, it disconnects the
// unconfirmed nodes that are no members.
func (d *directory) setCurrent(current bool) {
	d.mu.Lock()
	var refused []ec2.NodeID
	if d.current = current; current {
		for id, key := range d.unconfirmed {
			if err, _ := d.checkMember(id, key); err != nil {
				refused = append(refused, id)
			}
		}
		d.unconfirmed = nil
	}
	d.mu.Unlock()
	for _, id := range refused {
		d.c.cfg.Logger.Warn("disconnected a node that is no member", "node", d.c.cfg.Node, "disconnected", id)
		d.c.cfg.Peer.Drop(string(id))
	}
}

func (d *directory) isCurrent() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current
}
