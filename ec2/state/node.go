package state

import (
	"bytes"
	"net/netip"
	"regexp"
	"slices"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// PutNode adds a node or changes the zone, role, address or key of a member. The node's Number
// stays, and so do the fields that are empty in the request. PutNode needs no join token: it is for
// the first node of a cluster, and for a member that updates its own row. Result: Node.
type PutNode struct {
	Node ec2.Node
}

func (r *PutNode) apply(t *tx) (Result, error) {
	if r.Node.ID == "" || r.Node.Zone == "" {
		return Result{}, ec2.Errorf("MissingParameter", "a node needs an id and a zone")
	}
	was := first[ec2.Node](t.Txn, tableNode, indexID, key(r.Node.ID))
	if was == nil {
		n := r.Node
		t.admit(&n)
		return t.putNode(&n)
	}
	if !was.Member() {
		return Result{}, ec2.Errorf("IncorrectState", "node %s is fenced; it needs a join token to come back", was.ID)
	}
	n := *was
	n.Zone = r.Node.Zone
	if r.Node.Role != "" {
		n.Role = r.Node.Role
	}
	if r.Node.Address != "" {
		n.Address = r.Node.Address
	}
	if len(r.Node.PublicKey) > 0 {
		n.PublicKey = r.Node.PublicKey
	}
	return t.putNode(&n)
}

// putNode checks the row of a node and puts it into its table. No two members may have the same
// address, no two nodes the same key, and one voter must remain.
func (t *tx) putNode(n *ec2.Node) (Result, error) {
	switch {
	case n.Role != "" && n.Role != ec2.Voter && n.Role != ec2.NonVoter:
		return Result{}, ec2.Errorf("InvalidParameterValue", "a node is a %s or a %s, not a %q", ec2.Voter, ec2.NonVoter, ec2.Clip(string(n.Role)))
	case n.Address != "" && !isAddrPort(n.Address):
		return Result{}, ec2.Errorf("InvalidParameterValue", "node %s: %q is not an address and a port", n.ID, ec2.Clip(n.Address))
	}
	for o := range rows[ec2.Node](t.Txn, tableNode, indexID, "") {
		switch {
		case o.ID == n.ID:
		case n.Address != "" && o.Address == n.Address && o.Member():
			return Result{}, ec2.Errorf("EntityAlreadyExists", "node %s has the address %s already", o.ID, o.Address)
		case len(n.PublicKey) > 0 && bytes.Equal(o.PublicKey, n.PublicKey):
			return Result{}, ec2.Errorf("EntityAlreadyExists", "node %s has that public key already", o.ID)
		}
	}
	if !n.Votes() && !t.hasOtherVoter(n.ID) {
		return Result{}, lastVoter(n.ID)
	}
	isNewZone := !t.hasZone(n.Zone)
	t.put(tableNode, n)
	if isNewZone {
		t.addDefaultSubnets(n.Zone)
	}
	return Result{Node: n}, nil
}

// admit makes n a member with a new number and admission, so that n is not taken for an earlier
// node of the same name.
func (t *tx) admit(n *ec2.Node) {
	t.meta.NodeNumber++
	n.Number, n.Admitted, n.State = t.meta.NodeNumber, uint64(t.meta.NodeNumber), ""
}

// FenceNode excludes a node that is lost or not trusted any more, without its help. Its leases end,
// their addresses go into quarantine, and the keys that it had are replaced. A second fence of the node
// changes nothing. The last voter cannot be fenced. Result: Node, Instances.
//
// The running instances of the node become Stopped, not Terminated, so that users can start them
// on another node with the same ids, groups and user data. Pending instances become Stopped too.
// EC2 would terminate them, but the node may have started them without having reported it yet.
type FenceNode struct {
	Node      ec2.NodeID
	GossipKey []byte // the new key, in a command of an earlier release; empty keeps the old one

	// Rotate replaces the keys that the node had, and refuses its identity for good. It is false in
	// a command of an earlier release.
	Rotate bool `json:",omitempty"`
}

const reasonFenced = "Server.NodeFenced: the node the instance was on has been fenced"

func (r *FenceNode) apply(t *tx) (Result, error) {
	was := first[ec2.Node](t.Txn, tableNode, indexID, key(r.Node))
	if was == nil {
		return Result{}, noSuchNode(r.Node)
	}
	if !was.Member() {
		return Result{Node: was}, nil
	}
	if was.Votes() && !t.hasOtherVoter(was.ID) {
		return Result{}, lastVoter(was.ID)
	}
	if err := t.setGossipKey(r.GossipKey); err != nil {
		return Result{}, err
	}
	t.expel(was, r.Rotate, "fenced")
	n := *was
	n.State = ec2.Fenced
	t.put(tableNode, &n)
	t.moveNATsFrom(n.ID)
	return Result{Node: &n, Instances: t.loseNode(n.ID)}, nil
}

// loseNode ends the leases and attachments at a node that will not report any more.
func (t *tx) loseNode(id ec2.NodeID) []Change[ec2.Instance] {
	var lost []Change[ec2.Instance]
	for _, lease := range slices.Collect(rows[ec2.Interface](t.Txn, tableInterface, indexNode, key(id))) {
		lease = first[ec2.Interface](t.Txn, tableInterface, indexID, key(lease.ID))
		switch {
		case lease == nil || lease.Node != id: // deleted or moved with an instance above
		case lease.External != nil:
			t.deleteOrDetach(lease)
		default:
			lost = append(lost, t.loseInstance(lease.Instance))
		}
	}
	return lost
}

func (t *tx) loseInstance(id ec2.InstanceID) Change[ec2.Instance] {
	was := first[ec2.Instance](t.Txn, tableInstance, indexID, key(id))
	i := *was
	switch i.State {
	case ec2.ShuttingDown:
		i.State, i.Ended = ec2.Terminated, t.meta.Time
	case ec2.Stopping:
		i.State = ec2.Stopped
	default:
		i.State, i.StateReason = ec2.Stopped, reasonFenced
	}
	t.disconnect(&i)
	t.put(tableInstance, &i)
	return Change[ec2.Instance]{Before: was, After: &i}
}

// RemoveNode deletes the row of a node and replaces the keys that it had. A member with leases cannot be
// removed, nor can the last voter.
type RemoveNode struct {
	Node      ec2.NodeID
	GossipKey []byte // the new key, in a command of an earlier release; empty keeps the old one
	Rotate    bool   `json:",omitempty"` // as in FenceNode
}

func (r *RemoveNode) apply(t *tx) (Result, error) {
	was := first[ec2.Node](t.Txn, tableNode, indexID, key(r.Node))
	if was == nil {
		return Result{}, noSuchNode(r.Node)
	}
	if was.Votes() && !t.hasOtherVoter(was.ID) {
		return Result{}, lastVoter(was.ID)
	}
	t.moveNATsFrom(was.ID)
	leases := 0
	for range rows[ec2.Interface](t.Txn, tableInterface, indexNode, key(was.ID)) {
		leases++
	}
	if leases > 0 {
		return Result{}, ec2.Errorf("DependencyViolation", "node %s carries %d interfaces; stop or terminate their instances, or fence the node", was.ID, leases)
	}
	if err := t.setGossipKey(r.GossipKey); err != nil {
		return Result{}, err
	}
	var here []*ec2.Instance
	for i := range rows[ec2.Instance](t.Txn, tableInstance, indexID, "") {
		if i.Node == was.ID {
			here = append(here, i)
		}
	}
	for _, i := range here { // store the zone, because the node's row will be gone
		now := *i
		now.Node = ""
		if i.VPC == "" && i.Zone == "" {
			now.Zone = was.Zone
		}
		t.put(tableInstance, &now)
	}
	t.expel(was, r.Rotate, "removed")
	t.del(tableNode, was)
	return Result{}, nil
}

// ZoneOf returns the availability zone that an instance is in or was in last: the zone of its
// subnet or, in EC2-Classic, the zone of its node.
func (v *View) ZoneOf(i *ec2.Instance) string { return zoneOf(v.txn(), i) }

func zoneOf(t *memdb.Txn, i *ec2.Instance) string {
	if n := first[ec2.Node](t, tableNode, indexID, key(i.Node)); n != nil && i.Zone == "" {
		return n.Zone
	}
	return i.Zone
}

// chooseNode sets another node for a starting instance whose own node is not a member any more. The
// new node is in the same zone. If the zone has no member, only an EC2-Classic instance may move to
// another zone, because a subnet is in one zone.
func (t *tx) chooseNode(i *ec2.Instance) error {
	zone := i.Zone
	if n := first[ec2.Node](t.Txn, tableNode, indexID, key(i.Node)); n != nil {
		if n.Member() && (i.VPC == "" && zone == "" || t.carries(n, i.Region, zone)) {
			return nil
		}
		if zone == "" {
			zone = n.Zone
		}
	}
	s, err := t.newSpread(i.Region, zone)
	if err != nil && i.VPC != "" {
		return ec2.Errorf("InsufficientInstanceCapacity", "There is no node in zone %s to start instance '%s' on", zone, i.ID)
	}
	if err != nil {
		if s, err = t.newSpread(i.Region, ""); err != nil {
			return err
		}
	}
	i.Node = s.next()
	if i.VPC == "" {
		i.Zone = s.zone[i.Node]
	}
	return nil
}

func (t *tx) hasOtherVoter(id ec2.NodeID) bool {
	for n := range rows[ec2.Node](t.Txn, tableNode, indexID, "") {
		if n.ID != id && n.Votes() {
			return true
		}
	}
	return false
}

func (t *tx) setGossipKey(k []byte) error {
	switch len(k) {
	case 0:
	case 16, 24, 32:
		t.meta.GossipKey = bytes.Clone(k)
	default:
		return ec2.Errorf("InvalidParameterValue", "a gossip key is 16, 24 or 32 bytes, not %d", len(k))
	}
	return nil
}

var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func isAddrPort(s string) bool {
	a, err := netip.ParseAddrPort(s)
	return err == nil && a.Port() != 0 && !a.Addr().IsUnspecified()
}

func noSuchNode(id ec2.NodeID) *ec2.Error {
	return ec2.Errorf("InvalidNode.NotFound", "there is no node %q", ec2.Clip(string(id)))
}

func lastVoter(id ec2.NodeID) *ec2.Error {
	return ec2.Errorf("IncorrectState", "node %s is the last voter; without it the cluster could not commit anything", id)
}
