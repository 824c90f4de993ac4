package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/atomicfile"
	"palisade/internal/secret"
)

// A keyring holds the cluster key, which seals the secrets of access keys. Only voters have it. The node
// that begins a cluster makes the key; a voter that joins gets it with its certificate, and a node that
// gets a vote asks a voter for it. A node that has lost its vote deletes it. The key is stored in a file of
// each voter's data directory, never in the log.
//
// The node owns the keyring. It has no lock: keys are read and replaced atomically, by runKeyring, runRotation
// and handlers. Once the state names a key, only that key and the one that will replace it are stored.
type keyring struct {
	path    string
	key     atomic.Pointer[secret.Key] // nil until this node has the key
	next    atomic.Pointer[secret.Key] // that will replace key, in a file beside it; nil if none will
	former  atomic.Pointer[secret.Key] // that key has replaced, for requests that began before; in no file
	changed chan struct{}              // capacity 1: filled when the state has changed
}

func (c *Config) clusterKeyFile() string { return filepath.Join(c.DataDir, "cluster.key") }

func (k *keyring) nextPath() string { return k.path + ".next" }

// openKeyring reads the key from its file. If there is none, and this node begins a cluster, it makes
// the key.
func openKeyring(c Config, founder bool) (*keyring, error) {
	k := &keyring{path: c.clusterKeyFile(), changed: make(chan struct{}, 1)}
	next, err := readClusterKey(k.nextPath())
	if err == nil {
		k.next.Store(next)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := readClusterKey(k.path)
	if err == nil {
		k.key.Store(key)
		return k, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_, err = os.Stat(c.raftDir())
	switch begins := errors.Is(err, fs.ErrNotExist); {
	case begins && founder:
		return k, k.set(secret.NewKey())
	case begins || err == nil: // settleKey asks the voters for the key
		return k, nil
	}
	return nil, err
}

// readKeyFile reads a file of keys. It returns an error if other users of this machine can read it.
func readKeyFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is a secret that other users can read (mode %04o): run chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return os.ReadFile(path)
}

func readClusterKey(path string) (*secret.Key, error) {
	data, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	key, err := secret.DecodeKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// set stores a key on disk and then uses it.
func (k *keyring) set(key *secret.Key) error {
	if err := atomicfile.Write(k.path, key.Encode(), 0o600); err != nil {
		return fmt.Errorf("keep the cluster key: %w", err)
	}
	k.key.Store(key)
	return nil
}

// setNext stores the key that will replace the present one.
func (k *keyring) setNext(key *secret.Key) error {
	if err := atomicfile.Write(k.nextPath(), key.Encode(), 0o600); err != nil {
		return fmt.Errorf("keep the next cluster key: %w", err)
	}
	k.next.Store(key)
	return nil
}

// follow makes the next key the present one once secrets are sealed with it. It deletes a next key that the
// state does not want any more, and the former key once all nodes use the present one.
func (k *keyring) follow(view *state.View) error {
	r, rotating := view.Rotation(ec2.ClusterKey)
	if !rotating {
		k.former.Store(nil)
	}
	next := k.next.Load()
	switch {
	case next == nil:
		return nil
	case next.ID() == view.SealKey():
		former := k.key.Load()
		if err := k.set(next); err != nil {
			return err
		}
		k.former.Store(former)
	case rotating && r.Step == ec2.RotationSpread && r.Key == next.ID():
		return nil
	}
	if err := os.Remove(k.nextPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete a cluster key that is not used: %w", err)
	}
	k.next.Store(nil)
	return nil
}

// drop deletes all keys.
func (k *keyring) drop() error {
	k.key.Store(nil)
	k.next.Store(nil)
	k.former.Store(nil)
	for _, path := range []string{k.path, k.nextPath()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete the cluster key: %w", err)
		}
	}
	return nil
}

// find returns the key with this id; nil if this node does not have it.
func (k *keyring) find(id string) *secret.Key {
	for _, p := range []*atomic.Pointer[secret.Key]{&k.key, &k.next, &k.former} {
		if key := p.Load(); key != nil && key.ID() == id {
			return key
		}
	}
	return nil
}

// has reports whether this node has the key with this id.
func (k *keyring) has(id string) bool { return k.find(id) != nil }

// ids returns the ids of the keys that this node has in files.
func (k *keyring) ids() (ids []string) {
	for _, p := range []*atomic.Pointer[secret.Key]{&k.key, &k.next} {
		if key := p.Load(); key != nil {
			ids = append(ids, key.ID())
		}
	}
	return ids
}

// open returns the secret of an access key. The error is an unavailable if this node does not have the
// key that sealed it.
func (k *keyring) open(a *ec2.AccessKey) (string, error) {
	if a.Secret != "" {
		return a.Secret, nil
	}
	key := k.find(a.Sealed.Key)
	if key == nil {
		return "", unavailable{fmt.Errorf("this node does not have cluster key %s, so it cannot check signatures", a.Sealed.Key)}
	}
	return key.Open(string(a.Account), a.ID, a.Sealed.Box)
}

// Seal seals a secret with the key that has the given id.
func (k *keyring) Seal(id string, account ec2.AccountID, accessKey, plain string) (ec2.SealedSecret, error) {
	if id == "" {
		return ec2.SealedSecret{}, errors.New("the cluster has no key yet: every node must be reachable first; see palisade cluster status")
	}
	key := k.find(id)
	if key == nil {
		return ec2.SealedSecret{}, fmt.Errorf("this node does not have cluster key %s; only voters have it, so ask a voter", id)
	}
	return ec2.SealedSecret{Key: id, Box: key.Seal(string(account), accessKey, plain)}, nil
}

// sealed returns the first commands of a cluster with their secrets sealed.
func (k *keyring) sealed(commands []state.Command) []state.Command {
	key := k.key.Load()
	if key == nil {
		return commands // the cluster has begun already, so the commands are not proposed
	}
	for i, c := range commands {
		a, ok := c.Request.(*state.CreateAccount)
		if !ok {
			continue
		}
		b := *a
		b.Sealed = ec2.SealedSecret{Key: key.ID(), Box: key.Seal(string(a.ID), a.AccessKey, a.Secret)}
		b.Secret = ""
		commands[i].Request = &b
	}
	// SealSecrets comes second, after Bootstrap.
	first := append(commands[:1:1], state.Command{Request: &state.SealSecrets{Key: key.ID()}})
	return append(first, commands[1:]...)
}

// notice tells runKeyring that the state has changed. It does not block.
func (k *keyring) notice() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// keyEvery is how often a node tries again to get the key.
const keyEvery = 2 * time.Second

// runKeyring fetches the cluster's key if this node does not have it. On the leader it also makes the
// key if there is none, and seals secrets that are in plain text. Once nothing is left to do, only a
// change of the state wakes it.
func (n *Node) runKeyring(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.cluster.Ready():
	}
	for logged := ""; ; {
		var again <-chan time.Time
		if err := n.settleKey(ctx); err != nil && ctx.Err() == nil {
			if err.Error() != logged {
				n.log.Warn("cluster key missing or not shared yet", "err", err)
			}
			logged = err.Error()
			again = time.After(keyEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.keys.changed:
		case <-again:
		}
	}
}

// settleKey does the work of runKeyring once. The error says what is still missing.
func (n *Node) settleKey(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	view := n.cluster.View()
	if self, ok := view.Node(n.config.Name); ok && !hasClusterKey(self) {
		return n.dropKey(ctx, view)
	}
	if id := view.SealKey(); id != "" && !n.keys.has(id) {
		return n.fetchKey(ctx, view, id)
	}
	leader, _ := n.cluster.Leader()
	if leader != n.config.Name {
		if view.SealKey() == "" {
			return errors.New("the cluster has no key yet; its leader makes one once every node is reachable")
		}
		return nil
	}
	if view.SealKey() == "" {
		// This node's view may be old: a former leader may already have given the cluster a key.
		var err error
		if view, err = n.cluster.ReadView(ctx); err != nil || view.SealKey() != "" {
			return err
		}
		if err := n.spreadKey(ctx, view); err != nil {
			return err
		}
	}
	return n.sealPlain(ctx, view)
}

// dropKey deletes the cluster key of a node that is no voter: one that lost its vote, or got the key from an
// earlier release. It keeps the key until a voter reports that it has the key too.
func (n *Node) dropKey(ctx context.Context, view *state.View) error {
	id := view.SealKey()
	if id == "" || len(n.keys.ids()) == 0 {
		return nil
	}
	for node, report := range n.rotationReports(ctx, view) {
		if m, ok := view.Node(node); ok && m.Votes() && slices.Contains(report.ClusterKeys, id) {
			n.log.Info("cluster key deleted: this node is no voter", "key", id)
			return n.keys.drop()
		}
	}
	return fmt.Errorf("this node is no voter, and keeps cluster key %s until a voter reports that it has it", id)
}

// spreadKey gives every voter the key that will be the cluster's, and makes it if this node has none. All
// voters must have it before a secret is sealed; otherwise the loss of one node could make all secrets
// unreadable.
func (n *Node) spreadKey(ctx context.Context, view *state.View) error {
	if n.keys.key.Load() == nil {
		if err := n.keys.set(secret.NewKey()); err != nil {
			return err
		}
	}
	key := n.keys.key.Load()
	for m := range view.Nodes() {
		if !hasClusterKey(m) || m.ID == n.config.Name {
			continue
		}
		got, err := n.askKey(ctx, m.ID, key.Encode())
		if err != nil {
			return fmt.Errorf("give the key to %s: %w", m.ID, err)
		}
		if got.ID() != key.ID() {
			return fmt.Errorf("give the key to %s: it has another key", m.ID)
		}
	}
	return nil
}

// sealPlain seals secrets that earlier releases stored in plain text, and records this node's key as the
// cluster's.
func (n *Node) sealPlain(ctx context.Context, view *state.View) error {
	key := n.keys.key.Load()
	r := &state.SealSecrets{Key: key.ID()}
	for a := range view.AccessKeys() {
		if a.Secret == "" {
			continue
		}
		if r.AccessKeys == nil {
			r.AccessKeys = make(map[string][]byte)
		}
		r.AccessKeys[a.ID] = key.Seal(string(a.Account), a.ID, a.Secret)
	}
	if len(r.AccessKeys) == 0 && view.SealKey() != "" {
		return nil
	}
	_, index, err := n.cluster.Apply(ctx, state.Command{Request: r})
	if err != nil {
		return fmt.Errorf("seal secrets: %w", err)
	}
	n.log.Info("secrets of access keys sealed", "key", r.Key, "sealed", len(r.AccessKeys), "index", index)
	return nil
}

// fetchKey asks the other voters for the cluster's key and stores it.
func (n *Node) fetchKey(ctx context.Context, view *state.View, id string) error {
	var failures []error
	for m := range view.Nodes() {
		if !hasClusterKey(m) || m.ID == n.config.Name {
			continue
		}
		key, err := n.askKey(ctx, m.ID, nil)
		if err == nil && key.ID() == id {
			n.log.Info("cluster key received", "key", id, "from", m.ID)
			return n.keys.set(key)
		}
		failures = append(failures, err)
	}
	return errors.Join(append(failures, fmt.Errorf("cluster key %s is not in %s: this node cannot check signatures until the file is copied from another node or a backup", id, n.keys.path))...)
}

// methodKey is a call between nodes that asks for the cluster key, or offers one.
const methodKey = "node.clusterkey"

type keyRequest struct {
	Offer []byte `json:"offer,omitempty"`
}

type keyAnswer struct {
	Key []byte `json:"key,omitempty"` // nil if the node has no key
}

func (n *Node) askKey(ctx context.Context, node ec2.NodeID, offer []byte) (*secret.Key, error) {
	if n.peer == nil {
		return nil, fmt.Errorf("%s is a cluster of one and cannot reach %s", n.config.Name, node)
	}
	body, err := json.Marshal(keyRequest{offer})
	if err != nil {
		return nil, err
	}
	data, err := n.peer.Call(ctx, string(node), methodKey, body)
	if err != nil {
		return nil, err
	}
	var a keyAnswer
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, err
	}
	return secret.DecodeKey(a.Key)
}

// handleKey registers the handler of methodKey. A node stores an offered key unless the state names
// another key. The leader stores none, because it offers its own.
func (n *Node) handleKey() {
	n.peer.Handle(methodKey, func(_ context.Context, from string, body []byte) ([]byte, error) {
		view := n.cluster.View()
		if m, ok := view.Node(ec2.NodeID(from)); !ok || !hasClusterKey(m) {
			return nil, fmt.Errorf("%s is no voter in the state of %s: it does not get the cluster key", from, n.config.Name)
		}
		var q keyRequest
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, err
		}
		if q.Offer != nil {
			if err := n.takeKey(view, q.Offer); err != nil {
				return nil, err
			}
		}
		var a keyAnswer
		if key := n.keys.key.Load(); key != nil {
			a.Key = key.Encode()
		}
		return json.Marshal(a)
	})
}

func (n *Node) takeKey(view *state.View, offer []byte) error {
	key, err := secret.DecodeKey(offer)
	if err != nil {
		return err
	}
	leader, _ := n.cluster.Leader()
	if id := view.SealKey(); leader == n.config.Name || id != "" && id != key.ID() || n.keys.has(key.ID()) {
		return nil
	}
	return n.keys.set(key)
}
