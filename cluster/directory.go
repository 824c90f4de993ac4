package cluster

import (
	"bytes"
	"fmt"
	"sync"

	"palisade/ec2"
	"palisade/internal/peer"
)

// directory is the node table that handshakes are checked against: the newest State's.
//
// A node that has been away may find that its leader joined meanwhile. If it believed
// its own table alone, it would refuse the only one that can bring it up to date, for
// ever. So until it is current (see runFollow), and again whenever it has lost its
// leader, it believes every certificate of the cluster's authority but those it knows to
// be fenced, and takes back what the table then does not confirm.
type directory struct {
	c *Cluster

	mu       sync.Mutex
	current  bool
	believed map[ec2.NodeID][]byte // by its certificate alone, and by which key
}

// maxBelieved bounds the nodes believed without a row. One more is refused: a cluster
// does not grow by so many while a node is away.
const maxBelieved = 256

// Directory is the table of nodes that Peer asks, from before Run on.
func (c *Cluster) Directory() peer.Directory { return &c.trust }

// Check accepts the members of the newest State, and before that is current, strangers
// with a certificate.
func (d *directory) Check(node string, publicKey []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := ec2.NodeID(node)
	err, fenced := d.judge(id, publicKey)
	if err == nil || fenced || d.current {
		return err
	}
	if len(d.believed) >= maxBelieved {
		return fmt.Errorf("%w, and %d others are not known either", err, maxBelieved)
	}
	if d.believed == nil {
		d.believed = make(map[ec2.NodeID][]byte)
	}
	d.believed[id] = bytes.Clone(publicKey)
	return nil
}

func (d *directory) judge(id ec2.NodeID, publicKey []byte) (err error, fenced bool) {
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

// Address is where a node is: by the State, else by Raft, else by those who admitted
// this node.
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

// setCurrent says whether the State is as new as the leader's. What was believed and
// turns out not to be so is dropped.
func (d *directory) setCurrent(current bool) {
	d.mu.Lock()
	var wrong []ec2.NodeID
	if d.current = current; current {
		for id, key := range d.believed {
			if err, _ := d.judge(id, key); err != nil {
				wrong = append(wrong, id)
			}
		}
		d.believed = nil
	}
	d.mu.Unlock()
	for _, id := range wrong {
		d.c.cfg.Logger.Warn("dropped a node that is no member", "node", d.c.cfg.Node, "dropped", id)
		d.c.cfg.Peer.Drop(string(id))
	}
}

func (d *directory) isCurrent() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current
}
