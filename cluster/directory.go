package cluster

import (
	"bytes"
	"fmt"
	"sync"

	"palisade/ec2"
	"palisade/internal/peer"
)

// directory decides in each TLS handshake whether the remote node is a member, by the node table
// of this node's newest State.
//
// While this node was away, a node that its table does not have may have joined and become the
// leader. This node would refuse that leader for ever, and could never catch up. So until this
// node is current (see runCatchUp), and again whenever it loses its leader, it accepts every
// certificate of the cluster's authority, except the certificates of fenced nodes. Once it is
// current, it disconnects the nodes that are not in its table.
//
// The Cluster owns it. mu guards the fields below it; Cluster.View may be called while it is held.
type directory struct {
	c *Cluster

	mu          sync.Mutex
	current     bool
	unconfirmed map[ec2.NodeID][]byte // public keys of the nodes accepted by their certificate alone
}

// maxUnconfirmed is how many unconfirmed nodes are accepted. A cluster does not grow by so many
// nodes while one is away.
const maxUnconfirmed = 256

// Directory returns the directory for Config.Peer. The directory may be used before Run.
func (c *Cluster) Directory() peer.Directory { return &c.directory }

// Check returns nil for a member of the newest State and, while this node is not current, also for
// a node that is not fenced, because Peer has checked its certificate.
func (d *directory) Check(node string, publicKey []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := ec2.NodeID(node)
	err, fenced := d.checkMember(id, publicKey)
	if err == nil || fenced || d.current {
		return err
	}
	if len(d.unconfirmed) >= maxUnconfirmed {
		return fmt.Errorf("%w, and the limit of %d unknown nodes is reached", err, maxUnconfirmed)
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
		return fmt.Errorf("%s has another key in the node table", id), false
	case !row.Member():
		return fmt.Errorf("%s is fenced", id), true
	}
	return nil, false
}

// Address returns a node's address from the State, else from Raft, else from the list of members
// that this node got when it joined.
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
