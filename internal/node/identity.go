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

// founderFile marks the node that begins the cluster, until the cluster has begun. A node that joined
// must never begin another cluster.
func (c *Config) founderFile() string { return filepath.Join(c.DataDir, "founder") }

// InitCluster makes a certificate authority and the identity of the first node. The cluster begins
// when that node is started.
func InitCluster(c Config) (*peer.Identity, error) {
	if err := c.requirePeer(); err != nil {
		return nil, err
	}
	if _, err := peer.Load(c.identityDir()); !errors.Is(err, peer.ErrNoIdentity) {
		if err == nil {
			err = fmt.Errorf("%s already is a member of a cluster: its identity is in %s", c.Name, c.identityDir())
		}
		return nil, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	// The founder file is written first. Without an identity it has no effect; a node with an identity
	// but without the file would wait for a cluster forever.
	if err := atomicfile.Write(c.founderFile(), nil, 0o600); err != nil {
		return nil, fmt.Errorf("begin a cluster: %w", err)
	}
	return peer.Init(c.identityDir(), string(c.Name), c.Peer.Listen)
}

// JoinCluster makes this node a member of the cluster to which the contacts belong, with a one-time
// token. If the node already is a member of a cluster, JoinCluster does nothing.
func JoinCluster(ctx context.Context, c Config, contacts []string, token string) error {
	if err := c.requirePeer(); err != nil {
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

// Joined reports whether the node is a member of a cluster.
func Joined(c Config) bool {
	_, err := peer.Load(c.identityDir())
	return !errors.Is(err, peer.ErrNoIdentity)
}

func (c *Config) requirePeer() error {
	if c.Peer.Listen.IsValid() {
		return nil
	}
	return errors.New(`the configuration has no "peer.listen": set the address at which the other nodes reach this node, such as "192.0.2.11:7400"`)
}

// identity returns this node's identity, nil in a cluster of one, and whether the node begins the
// cluster.
func (c *Config) identity() (id *peer.Identity, founder bool, err error) {
	if !c.Peer.Listen.IsValid() {
		return nil, true, nil
	}
	id, err = peer.Load(c.identityDir())
	if errors.Is(err, peer.ErrNoIdentity) {
		return nil, false, fmt.Errorf("%s is not a member of a cluster: run palisade cluster init to begin one, or start it with --join and --token to join one", c.Name)
	}
	if err != nil {
		return nil, false, err
	}
	if id.Node() != string(c.Name) {
		return nil, false, fmt.Errorf("the identity in %s is of node %s, but the configuration has the name %s", c.identityDir(), id.Node(), c.Name)
	}
	_, err = os.Stat(c.founderFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	return id, err == nil, nil
}

// A Restoration is the backup with which a new cluster begins, and what is done with its secrets.
type Restoration struct {
	Backup io.ReadSeeker

	// ClusterKey is the file of the key that seals the secrets in the backup.
	// Default: the one in the node's data directory.
	ClusterKey string
	// WithoutSecrets drops all access keys, so that no key is needed. The accounts stay.
	WithoutSecrets bool
}

// RestoreCluster makes the log of a new cluster from a backup, with this node as its only member. The
// node must not run, and must have no log.
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
	keys := &gossipKeys{path: c.gossipKeysFile()} // the keys of the lost cluster are not used any more
	if as.Gossip, err = keys.first(); err != nil {
		return cluster.Manifest{}, err
	}
	return cluster.Restore(c.raftDir(), r.Backup, as)
}

// clusterKey returns the key that seals the secrets in the backup; nil if the backup has no sealed
// secrets, or WithoutSecrets drops them.
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
		return nil, fmt.Errorf("the secrets in the backup are sealed with cluster key %s, and there is no %s: name a copy of the key file with --cluster-key, or drop all access keys with --without-secrets", m.SealKey, path)
	}
	if err == nil && key.ID() != m.SealKey {
		err = fmt.Errorf("%s has cluster key %s, but the secrets in the backup are sealed with %s", path, key.ID(), m.SealKey)
	}
	return key, err
}
