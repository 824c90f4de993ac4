package ec2

import "time"

// Settings are the limits and waiting times of a cluster. They are part of the State,
// so that every node decides alike.
type Settings struct {
	// GroupsPerRegion bounds the EC2-Classic groups of an account in a region.
	// Default 500 (EC2 User Guide 2012, "Using Security Groups").
	GroupsPerRegion int
	// RulesPerGroup bounds the rules of an EC2-Classic group. Default 100 (ibid.).
	RulesPerGroup int
	// InstancesPerRegion bounds the instances of an account in a region that are
	// not terminated. Default 5000.
	InstancesPerRegion int
	// Quarantine is how long an address rests between two leases. Default 60 s.
	Quarantine time.Duration
	// TerminatedFor is how long a terminated instance is still described. Default
	// one hour.
	TerminatedFor time.Duration
}

// DefaultSettings are those of a State that was told nothing else.
func DefaultSettings() Settings {
	return Settings{
		GroupsPerRegion:    500,
		RulesPerGroup:      100,
		InstancesPerRegion: 5000,
		Quarantine:         time.Minute,
		TerminatedFor:      time.Hour,
	}
}

// filled replaces what is zero by its default.
func (s Settings) filled() Settings {
	d := DefaultSettings()
	if s.GroupsPerRegion == 0 {
		s.GroupsPerRegion = d.GroupsPerRegion
	}
	if s.RulesPerGroup == 0 {
		s.RulesPerGroup = d.RulesPerGroup
	}
	if s.InstancesPerRegion == 0 {
		s.InstancesPerRegion = d.InstancesPerRegion
	}
	if s.Quarantine == 0 {
		s.Quarantine = d.Quarantine
	}
	if s.TerminatedFor == 0 {
		s.TerminatedFor = d.TerminatedFor
	}
	return s
}

// Bootstrap gives a new cluster its identity. Ids are derived from Seed, which should
// be random; a second Bootstrap is refused.
type Bootstrap struct {
	Seed     string
	Settings Settings // zero fields are defaults

	// GossipKey seals the gossip of the members: 16, 24 or 32 bytes of AES. nil: a
	// cluster that does not gossip.
	GossipKey []byte `json:",omitempty"`
}

func (r *Bootstrap) apply(t *tx) (Result, error) {
	if t.meta.Seed != "" {
		return Result{}, Errorf("IncorrectState", "the cluster has been bootstrapped already")
	}
	if r.Seed == "" {
		return Result{}, Errorf("MissingParameter", "a cluster needs a seed")
	}
	if err := t.setGossipKey(r.GossipKey); err != nil {
		return Result{}, err
	}
	t.meta.Seed = r.Seed
	t.meta.Settings = r.Settings.filled()
	return Result{}, nil
}

// PutSettings replaces the settings; zero fields are defaults. What exceeds a lowered
// limit stays.
type PutSettings struct {
	Settings Settings
}

func (r *PutSettings) apply(t *tx) (Result, error) {
	t.meta.Settings = r.Settings.filled()
	return Result{}, nil
}
