package state

import "palisade/ec2"

// limits are the settings in force.
func (t *tx) limits() ec2.Settings { return t.meta.Settings.WithDefaults() }

// Bootstrap gives a new cluster its identity. Ids are derived from Seed, which should
// be random; a second Bootstrap is refused.
type Bootstrap struct {
	Seed     string
	Settings ec2.Settings // zero fields are defaults

	// GossipKey seals the gossip of the members: 16, 24 or 32 bytes of AES. nil: a
	// cluster that does not gossip.
	GossipKey []byte `json:",omitempty"`
}

func (r *Bootstrap) apply(t *tx) (Result, error) {
	if t.meta.Seed != "" {
		return Result{}, ec2.Errorf("IncorrectState", "the cluster has been bootstrapped already")
	}
	if r.Seed == "" {
		return Result{}, ec2.Errorf("MissingParameter", "a cluster needs a seed")
	}
	if err := t.setGossipKey(r.GossipKey); err != nil {
		return Result{}, err
	}
	t.meta.Seed = r.Seed
	t.meta.Settings = r.Settings.WithDefaults()
	return Result{}, nil
}

// recoveredSerials and recoveredNumbers are what a recovered State leaves out, for what
// the lost cluster may have given out after its backup: an id, an epoch or a number of
// that time must never mean something else.
const (
	recoveredSerials = 1 << 20
	recoveredNumbers = 1 << 8
)

// Recover makes a backup's State that of a cluster with one member. No log holds it: it
// is applied to a State on its way from a backup to a new node's disk.
//
// The lost cluster's other nodes are fenced, for nobody knows what they did since: their
// leases end and their addresses rest. Its join tokens are void, because some may have
// been used since. Result: Node.
type Recover struct {
	Node      ec2.Node // the member. Its row stays what it was, where a field is empty
	GossipKey []byte   // the new one

	// WithoutSecrets is for who has the backup and not the key of its cluster: the access
	// keys that were sealed under it are deleted.
	WithoutSecrets bool
}

func (r *Recover) apply(t *tx) (Result, error) {
	if r.Node.ID == "" {
		return Result{}, ec2.Errorf("MissingParameter", "a recovered cluster needs a node")
	}
	if err := t.setGossipKey(r.GossipKey); err != nil {
		return Result{}, err
	}
	if r.WithoutSecrets {
		t.deleteSealedKeys()
	}
	t.meta.Serial += recoveredSerials
	t.meta.NodeNumber += recoveredNumbers
	t.meta.VNI += recoveredNumbers

	var tokens []*ec2.JoinToken
	for k := range rows[ec2.JoinToken](t.Txn, tableJoinToken, indexID, "") {
		tokens = append(tokens, k)
	}
	for _, k := range tokens {
		t.del(tableJoinToken, k)
	}
	var others []*ec2.Node
	n := r.Node
	n.Role = ec2.Voter
	for was := range rows[ec2.Node](t.Txn, tableNode, indexID, "") {
		if was.ID != n.ID {
			others = append(others, was)
			continue
		}
		if n.Zone == "" {
			n.Zone = was.Zone
		}
		if was.Member() {
			n.Number, n.Admitted = was.Number, was.Admitted
		}
	}
	if n.Zone == "" {
		return Result{}, ec2.Errorf("MissingParameter", "node %s is not in the backup, so it needs a zone", n.ID)
	}
	for _, was := range others {
		if !was.Member() {
			continue
		}
		fenced := *was
		fenced.State = ec2.Fenced
		t.put(tableNode, &fenced)
		t.loseNode(was.ID)
	}
	if n.Number == 0 {
		t.admit(&n)
	}
	return t.putNode(&n)
}
