package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/atomicfile"
	"palisade/internal/secret"
)

// gossipKeys holds the keys that encrypt gossip: one, and while it is being replaced two or three. The
// state has their ids; the keys are in a file of each node's data directory, never in the log. The node
// that begins a cluster makes the first key; others get it by a call, see runRotation.
//
// The node owns it. Any goroutine may call its methods: mu guards keys. The lock is a leaf.
type gossipKeys struct {
	path    string
	changed chan struct{} // capacity 1: filled when keys has changed, for the cluster

	mu   sync.Mutex
	keys []*secret.Key
}

func (c *Config) gossipKeysFile() string { return filepath.Join(c.DataDir, "gossip.keys") }

// openGossipKeys reads the keys from their file.
func openGossipKeys(path string) (*gossipKeys, error) {
	k := &gossipKeys{path: path, changed: make(chan struct{}, 1)}
	data, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(data) {
		key, err := secret.DecodeKey(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		k.keys = append(k.keys, key)
	}
	return k, nil
}

// first returns the id of the first key of a cluster that this node begins, and makes the key.
func (k *gossipKeys) first() (string, error) {
	k.mu.Lock()
	keys := k.keys
	k.mu.Unlock()
	if len(keys) > 0 { // the daemon ended before the cluster had begun
		return keys[0].ID(), nil
	}
	key := secret.NewKey()
	return key.ID(), k.add(key)
}

// find returns the key with an id; nil if this node does not have it.
func (k *gossipKeys) find(id string) *secret.Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range k.keys {
		if key.ID() == id {
			return key
		}
	}
	return nil
}

// idOf returns the id of a key that gossip uses. One that an earlier release kept in the state has none: for
// it, idOf returns "state".
func (k *gossipKeys) idOf(raw []byte) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range k.keys {
		if bytes.Equal(key.Raw(), raw) {
			return key.ID()
		}
	}
	return "state"
}

// ids returns the ids of all keys.
func (k *gossipKeys) ids() (ids []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range k.keys {
		ids = append(ids, key.ID())
	}
	return ids
}

// add stores a key on disk and then uses it.
func (k *gossipKeys) add(key *secret.Key) error {
	if k.find(key.ID()) != nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.storeLocked(append(slices.Clone(k.keys), key))
}

// keepOnly deletes the keys that are not in ids.
func (k *gossipKeys) keepOnly(ids []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	stay := slices.DeleteFunc(slices.Clone(k.keys), func(key *secret.Key) bool { return !slices.Contains(ids, key.ID()) })
	if len(stay) == len(k.keys) {
		return nil
	}
	return k.storeLocked(stay)
}

func (k *gossipKeys) storeLocked(keys []*secret.Key) error {
	var data []byte
	for _, key := range keys {
		data = append(data, key.Encode()...)
	}
	if err := atomicfile.Write(k.path, data, 0o600); err != nil {
		return fmt.Errorf("keep the gossip keys: %w", err)
	}
	k.keys = keys
	select {
	case k.changed <- struct{}{}:
	default:
	}
	return nil
}

// wantedGossipKeys returns the ids of the keys that gossip needs in a state: those in force, the one in
// use first, and one that is to be used next.
func wantedGossipKeys(view *state.View) []string {
	ids := slices.Clone(view.GossipRing())
	if r, ok := view.Rotation(ec2.GossipKey); ok && r.Step == ec2.RotationSpread {
		ids = append(ids, r.Key)
	}
	return ids
}

// ring returns the keys of a state that this node has, the one to encrypt with first. It is empty if
// this node does not have that one.
func (k *gossipKeys) ring(view *state.View) [][]byte {
	var ring [][]byte
	old := view.GossipKey() // of an earlier release, which kept it in the state
	if len(old) > 0 && len(view.GossipRing()) == 0 {
		ring = append(ring, old)
	}
	for i, id := range wantedGossipKeys(view) {
		key := k.find(id)
		if key == nil && i == 0 && len(ring) == 0 {
			return nil
		}
		if key != nil {
			ring = append(ring, key.Raw())
		}
	}
	if len(old) > 0 && len(view.GossipRing()) > 0 {
		ring = append(ring, old)
	}
	return ring
}
