package state

import (
	"palisade/ec2"
)

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
