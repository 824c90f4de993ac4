package state

import (
	"bytes"
	"net/netip"
	"regexp"
	"slices"

	"palisade/ec2"
)

// PutNode adds a node, or moves it to another zone or address: a member's Number, and
// each field left empty, stays. It asks for no token, so it is for a cluster's first
// node and for what a node says of itself. Result: Node.
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
		return Result{}, ec2.Errorf("IncorrectState", "node %s is fenced; it comes back with a join token", was.ID)
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

// putNode checks what every row of the table must keep.
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
			return Result{}, ec2.Errorf("EntityAlreadyExists", "node %s is at %s already", o.ID, o.Address)
		case len(n.PublicKey) > 0 && bytes.Equal(o.PublicKey, n.PublicKey):
			return Result{}, ec2.Errorf("EntityAlreadyExists", "node %s has that key", o.ID)
		}
	}
	if !n.Votes() && !t.hasOtherVoter(n.ID) {
		return Result{}, lastVoter(n.ID)
	}
	opens := !t.hasZone(n.Zone)
	t.put(tableNode, n)
	if opens {
		t.addDefaultSubnets(n.Zone)
	}
	return Result{Node: n}, nil
}

// admit makes n a member of its own: what knows an earlier bearer of the name by its
// number or its admission does not know this one.
func (t *tx) admit(n *ec2.Node) {
	t.meta.NodeNumber++
	n.Number, n.Admitted, n.State = t.meta.NodeNumber, uint64(t.meta.NodeNumber), ""
}

// FenceNode puts a node out that is lost or not trusted any more, without its help: its
// leases end here, their addresses rest, and the gossip key is replaced. Again it
// changes nothing. The last voter cannot be fenced. Result: Node, Instances.
//
// Its running instances are stopped, not terminated: their ids, groups and user-data are
// decisions of their users, who start them elsewhere or terminate them. So are pending
// ones, at which EC2 would give up: the node may have had them up and not said so yet,
// and one that was started again after a stop was somebody's before.
type FenceNode struct {
	Node      ec2.NodeID
	GossipKey []byte // the new one; empty keeps the old
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
	n := *was
	n.State = ec2.Fenced
	t.put(tableNode, &n)
	return Result{Node: &n, Instances: t.loseNode(n.ID)}, nil
}

// loseNode ends all that was at a node which will not report any more.
func (t *tx) loseNode(id ec2.NodeID) []Change[ec2.Instance] {
	var lost []Change[ec2.Instance]
	for _, lease := range slices.Collect(rows[ec2.Interface](t.Txn, tableInterface, indexNode, key(id))) {
		lease = first[ec2.Interface](t.Txn, tableInterface, indexID, key(lease.ID))
		switch {
		case lease == nil || lease.Node != id: // gone with its instance
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

// RemoveNode takes a node's row away, and replaces the gossip key. A member must have
// given up its leases first; a fenced node has none. The last voter stays.
type RemoveNode struct {
	Node      ec2.NodeID
	GossipKey []byte // the new one; empty keeps the old
}

func (r *RemoveNode) apply(t *tx) (Result, error) {
	was := first[ec2.Node](t.Txn, tableNode, indexID, key(r.Node))
	if was == nil {
		return Result{}, noSuchNode(r.Node)
	}
	if was.Votes() && !t.hasOtherVoter(was.ID) {
		return Result{}, lastVoter(was.ID)
	}
	leases := 0
	for range rows[ec2.Interface](t.Txn, tableInterface, indexNode, key(was.ID)) {
		leases++
	}
	if leases > 0 {
		return Result{}, ec2.Errorf("DependencyViolation", "node %s carries %d instances; stop or terminate them, or fence the node", was.ID, leases)
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
	for _, i := range here { // their zone is not to be looked up any more
		now := *i
		now.Node = ""
		if i.VPC == "" {
			now.Zone = was.Zone
		}
		t.put(tableInstance, &now)
	}
	t.del(tableNode, was)
	return Result{}, nil
}

// ZoneOf is the availability zone an instance is in, or was in last: its subnet's, or in
// EC2-Classic its node's.
func (v *View) ZoneOf(i *ec2.Instance) string {
	if i.VPC != "" {
		return i.Zone
	}
	if n, ok := v.Node(i.Node); ok {
		return n.Zone
	}
	return i.Zone
}

// placeAnew finds a node for an instance whose own is no member any more: in its zone if
// there is one, else, in EC2-Classic, wherever there is. A subnet is in one zone, and so is
// what is in it.
func (t *tx) chooseNode(i *ec2.Instance) error {
	zone := i.Zone
	if n := first[ec2.Node](t.Txn, tableNode, indexID, key(i.Node)); n != nil {
		if n.Member() && (i.VPC == "" || n.Zone == zone) {
			return nil
		}
		if i.VPC == "" {
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
		i.Zone = ""
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
	return ec2.Errorf("IncorrectState", "node %s is the last voter: without it nobody could decide anything", id)
}
