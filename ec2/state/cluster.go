package state

import (
	"crypto/sha256"
	"slices"

	"palisade/ec2"
)

// limits returns the settings in force, with the default of each zero field.
func (t *tx) limits() ec2.Settings { return t.meta.Settings.WithDefaults() }

// Bootstrap gives a new cluster its seed, settings and gossip key. Ids are derived from Seed,
// which should be random. A second Bootstrap is refused.
type Bootstrap struct {
	Seed     string
	Settings ec2.Settings // zero fields are defaults

	// GossipKey is the gossip key itself, in a command of an earlier release.
	GossipKey []byte `json:",omitempty"`
	// Gossip is the id of the key that encrypts the gossip of the members. It is "" in a cluster that
	// does not gossip.
	Gossip string `json:",omitempty"`
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
	if r.Gossip != "" {
		if !sealKeyID.MatchString(r.Gossip) {
			return Result{}, ec2.Errorf("InvalidParameterValue", "%q is not the id of a gossip key", ec2.Clip(r.Gossip))
		}
		t.meta.Gossip = []string{r.Gossip}
	}
	t.meta.Seed = r.Seed
	t.meta.Settings = r.Settings.WithDefaults()
	// A limit that an earlier release did not have is stored only if it is set, so that the log of
	// that release gives the same State as its snapshot. The method limits knows the default.
	t.meta.Settings.BlocksPerVPC = r.Settings.BlocksPerVPC
	t.meta.Settings.VolumesPerRegion = r.Settings.VolumesPerRegion
	return Result{}, nil
}

// A recovered State skips recoveredSerials serials and recoveredNumbers numbers of nodes and VNIs.
// The lost cluster may have assigned some of them after the backup, and a number must not get a
// second meaning.
const (
	recoveredSerials = 1 << 20
	recoveredNumbers = 1 << 8
)

// Recover turns the State of a backup into the State of a cluster with one member. No log contains
// a Recover: it is applied after the backup is read and before the disk of the new node is written.
//
// Recover fences the other nodes, because what they did after the backup is unknown: their leases
// end and their addresses go into quarantine. It deletes the join tokens, because some may have
// been used after the backup. Result: Node.
type Recover struct {
	Node   ec2.Node // the member; an empty Zone keeps the zone in the backup
	Gossip string   // id of the new gossip key

	// WithoutSecrets deletes the access keys that are sealed with the key of the lost cluster. It
	// is for operators who have the backup without that key.
	WithoutSecrets bool
}

func (r *Recover) apply(t *tx) (Result, error) {
	if r.Node.ID == "" {
		return Result{}, ec2.Errorf("MissingParameter", "a recovered cluster needs a node")
	}
	// No key of the lost cluster is being replaced any more: the nodes that had it are gone.
	t.meta.Gossip, t.meta.GossipKey, t.meta.Rotations, t.meta.Authority = nil, nil, nil, ""
	if r.Gossip != "" {
		t.meta.Gossip = []string{r.Gossip}
	}
	if r.WithoutSecrets {
		t.deleteSealedKeys()
	}
	t.meta.Serial += recoveredSerials
	t.meta.NodeNumber += recoveredNumbers
	t.meta.VNI += recoveredNumbers
	t.meta.Cuts = nil // the new node has none of the connections

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
	t.meta.Expelled = slices.DeleteFunc(slices.Clone(t.meta.Expelled), func(e ec2.Expelled) bool { return e.Key == sha256.Sum256(n.PublicKey) })
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
