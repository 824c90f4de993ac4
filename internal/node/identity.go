package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/atomicfile"
	"palisade/internal/peer"
	"palisade/internal/secret"
)

func (c *Config) raftDir() string     { return filepath.Join(c.DataDir, "raft") }
func (c *Config) identityDir() string { return filepath.Join(c.DataDir, "peer") }

// founderFile marks the node that began the cluster, until its log says so itself. One
// that joined must never begin another.
func (c *Config) founderFile() string { return filepath.Join(c.DataDir, "founder") }

// InitCluster makes a cluster's certificate authority, and this node its first member. The
// cluster begins when the node is started.
func InitCluster(c Config) (*peer.Identity, error) {
	if err := c.wantsPeer(); err != nil {
		return nil, err
	}
	if _, err := peer.Load(c.identityDir()); !errors.Is(err, peer.ErrNoIdentity) {
		if err == nil {
			err = fmt.Errorf("%s is a member of a cluster already: its identity is in %s", c.Name, c.identityDir())
		}
		return nil, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	// First: a mark without an identity does nothing, an identity without it would wait
	// for ever to be called.
	if err := atomicfile.Write(c.founderFile(), nil, 0o600); err != nil {
		return nil, fmt.Errorf("begin a cluster: %w", err)
	}
	return peer.Init(c.identityDir(), string(c.Name), c.Peer.Listen)
}

// JoinCluster makes this node a member of the cluster that one of contacts belongs to, by
// a one-time token. A node that is a member already stays one, and the token unused.
func JoinCluster(ctx context.Context, c Config, contacts []string, token string) error {
	if err := c.wantsPeer(); err != nil {
		return err
	}
	if _, err := peer.Load(c.identityDir()); !errors.Is(err, peer.ErrNoIdentity) {
		return err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	_, err := peer.Join(ctx, peer.JoinConfig{
		Dir: c.identityDir(), Node: string(c.Name), Zone: c.Zone, Address: c.Peer.Listen, Contacts: contacts, Token: token,
		Keep: func(key []byte) error { return atomicfile.Write(c.clusterKeyFile(), key, 0o600) },
	})
	return err
}

// Joined reports whether the node has been a member of a cluster before.
func Joined(c Config) bool {
	_, err := peer.Load(c.identityDir())
	return !errors.Is(err, peer.ErrNoIdentity)
}

func (c *Config) wantsPeer() error {
	if c.Peer.Listen.IsValid() {
		return nil
	}
	return errors.New(`the configuration has no "peer.listen": say at which address the other nodes reach this one, as "192.0.2.11:7400"`)
}

// identity is this node's, and whether the node began the cluster. A cluster of one has
// none.
func (c *Config) identity() (id *peer.Identity, founder bool, err error) {
	if !c.Peer.Listen.IsValid() {
		return nil, true, nil
	}
	id, err = peer.Load(c.identityDir())
	if errors.Is(err, peer.ErrNoIdentity) {
		return nil, false, fmt.Errorf("%s belongs to no cluster: run palisade cluster init to begin one, or start it with --join and --token to join one", c.Name)
	}
	if err != nil {
		return nil, false, err
	}
	if id.Node() != string(c.Name) {
		return nil, false, fmt.Errorf("the identity in %s is that of %s, and the configuration says %s", c.identityDir(), id.Node(), c.Name)
	}
	_, err = os.Stat(c.founderFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	return id, err == nil, nil
}

// A Restoration says what to begin a cluster again from.
type Restoration struct {
	Backup io.ReadSeeker

	// ClusterKey is the file of the key that the backup's secrets are sealed under.
	// Default: the one in the node's data directory.
	ClusterKey string
	// WithoutSecrets begins without that key: the access keys are gone, the accounts stay.
	WithoutSecrets bool
}

// RestoreCluster makes of a backup the log of a new cluster, of which this node is the only
// member. It must not run, and must have no log yet.
func RestoreCluster(c Config, r Restoration) (cluster.Manifest, error) {
	as := state.Recover{Node: ec2.Node{ID: c.Name, Zone: c.Zone}, WithoutSecrets: r.WithoutSecrets}
	self := &as.Node
	identity, _, err := c.identity()
	if err != nil {
		return cluster.Manifest{}, err
	}
	if identity != nil {
		self.Role, self.Address, self.PublicKey = ec2.Voter, c.Peer.Listen.String(), identity.PublicKey()
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return cluster.Manifest{}, fmt.Errorf("make data directory: %w", err)
	}
	key, err := r.clusterKey(c)
	if err != nil {
		return cluster.Manifest{}, err
	}
	if key != nil {
		if err := atomicfile.Write(c.clusterKeyFile(), key.Encode(), 0o600); err != nil {
			return cluster.Manifest{}, fmt.Errorf("keep the cluster key: %w", err)
		}
	}
	return cluster.Restore(c.raftDir(), r.Backup, as)
}

// clusterKey is the one that the backup wants; nil if it wants none.
func (r *Restoration) clusterKey(c Config) (*secret.Key, error) {
	m, err := cluster.Inspect(r.Backup)
	if err != nil {
		return nil, err
	}
	if _, err := r.Backup.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if m.SealKey == "" || r.WithoutSecrets {
		return nil, nil
	}
	path := cmp.Or(r.ClusterKey, c.clusterKeyFile())
	key, err := readClusterKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the secrets in the backup are sealed under cluster key %s, and there is no %s: name the file with --cluster-key, from a node of that cluster or a copy, or begin --without-secrets", m.SealKey, path)
	}
	if err == nil && key.ID() != m.SealKey {
		err = fmt.Errorf("%s holds cluster key %s, and the secrets in the backup are sealed under %s", path, key.ID(), m.SealKey)
	}
	return key, err
}
