package cluster

import (
	"bytes"
	"fmt"
	"sync"

	"palisade/ec2"
	"palisade/internal/peer"
)

// directory decides in each TLS handshake whether the remote node is a member, by the node table
// of this node's newest State, and which members may call Raft.
//
// While this node was away, a node that its table does not have may have joined and become the
// leader. So until this node is current (see runCatchUp), and again whenever it loses its leader, it
// asks the voters in its table who the members are, and also admits those that one of them names.
// A certificate alone admits no node. A node that has just joined has no table yet; it begins
// with the members that admitted it (Identity.Members). Once it is current, it disconnects the nodes
// that are not in its table.
//
// The Cluster owns it. mu guards the fields below it; Cluster.View may be called while it is held.
type directory struct {
	c *Cluster

	mu      sync.Mutex
	current bool
	vouched map[ec2.NodeID]vouchedNode // members that a voter named; nil while current
}

// A vouchedNode is a member that a voter of this node's table named.
type vouchedNode struct {
	Node      ec2.NodeID `json:"node"`
	PublicKey []byte     `json:"public_key"`
	Votes     bool       `json:"votes"`
	Address   string     `json:"address"`
}

// Directory returns the directory for Config.Peer. The directory may be used before Run.
func (c *Cluster) Directory() peer.Directory { return &c.directory }

// Check returns nil for a member of the newest State and, while this node is not current, also for
// a node that a voter named.
func (d *directory) Check(node string, publicKey []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := ec2.NodeID(node)
	err, fenced := d.checkMember(id, publicKey)
	if err == nil || fenced {
		return err
	}
	if v, ok := d.vouchedLocked(id); ok && bytes.Equal(v.PublicKey, publicKey) {
		return nil
	}
	return err
}

// mayLead returns nil if a member may call Raft: it is a voter in the newest State or, while this
// node is not current, a voter named it as one. Raft's own configuration does not decide this: it may
// be older than the role of a node that has lost its vote, and a node that has just got one may be the
// only node that can send the configuration to this node. publicKey is nil if Check has accepted it.
func (d *directory) mayLead(id ec2.NodeID, publicKey []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	row, ok := d.c.View().Node(id)
	if ok && row.Votes() && (publicKey == nil || bytes.Equal(row.PublicKey, publicKey)) {
		return nil
	}
	if v, ok := d.vouchedLocked(id); ok && v.Votes && (publicKey == nil || bytes.Equal(v.PublicKey, publicKey)) {
		return nil
	}
	return fmt.Errorf("%s is no voter, and only voters call Raft", id)
}

// vouchedLocked returns what a voter said about a node. A node without a State believes the members
// that admitted it.
func (d *directory) vouchedLocked(id ec2.NodeID) (vouchedNode, bool) {
	if d.current {
		return vouchedNode{}, false
	}
	if v, ok := d.vouched[id]; ok {
		return v, true
	}
	if d.c.View().Index() > 0 || d.c.cfg.Identity == nil {
		return vouchedNode{}, false
	}
	for _, m := range d.c.cfg.Identity.Members() {
		if ec2.NodeID(m.Node) == id {
			return vouchedNode{Node: id, PublicKey: m.PublicKey, Votes: m.Role != string(ec2.NonVoter), Address: m.Address}, true
		}
	}
	return vouchedNode{}, false
}

// vouch stores the members that a voter named. A later answer replaces an earlier one.
func (d *directory) vouch(all []vouchedNode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current {
		return
	}
	d.vouched = make(map[ec2.NodeID]vouchedNode, len(all))
	for _, v := range all {
		d.vouched[v.Node] = v
	}
}

func (d *directory) checkMember(id ec2.NodeID, publicKey []byte) (err error, fenced bool) {
	view := d.c.View()
	row, ok := view.Node(id)
	switch {
	case view.IsExpelled(publicKey): // also when the name has passed to another node
		return fmt.Errorf("%s was fenced or removed", id), true
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
	d.mu.Lock()
	v, ok := d.vouchedLocked(ec2.NodeID(node))
	d.mu.Unlock()
	if ok && v.Address != "" {
		return v.Address, true
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

// setCurrent sets whether the State is as new as the leader's. If so, it disconnects the named
// nodes that are no members.
func (d *directory) setCurrent(current bool) {
	d.mu.Lock()
	var refused []ec2.NodeID
	if d.current = current; current {
		for id, v := range d.vouched {
			if err, _ := d.checkMember(id, v.PublicKey); err != nil {
				refused = append(refused, id)
			}
		}
		d.vouched = nil
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
