package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/atomicfile"
	"palisade/internal/secret"
)

// A keyring holds the cluster key, under which the secrets of access keys are sealed. The
// node that begins a cluster makes it; one that joins is given it with its certificate.
// It is in a file of each node's data directory and nowhere else.
type keyring struct {
	path    string
	key     atomic.Pointer[secret.Key] // nil: this node has none yet
	changed chan struct{}              // holds one: the state has moved, look again
}

func (c *Config) clusterKeyFile() string { return filepath.Join(c.DataDir, "cluster.key") }

// openKeyring reads the key, and makes one for a cluster that begins here and now.
func openKeyring(c Config, founder bool) (*keyring, error) {
	k := &keyring{path: c.clusterKeyFile(), changed: make(chan struct{}, 1)}
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
	case begins || err == nil: // a cluster with a log may have a key: settleKey looks for it
		return k, nil
	}
	return nil, err
}

func readClusterKey(path string) (*secret.Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is a secret that others may read (mode %04o): run chmod 600 %s", path, info.Mode().Perm(), path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := secret.DecodeKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// set puts a key on disk, then to use.
func (k *keyring) set(key *secret.Key) error {
	if err := atomicfile.Write(k.path, key.Encode(), 0o600); err != nil {
		return fmt.Errorf("keep the cluster key: %w", err)
	}
	k.key.Store(key)
	return nil
}

// holds reports whether this node has the key with an id.
func (k *keyring) holds(id string) bool {
	key := k.key.Load()
	return key != nil && key.ID() == id
}

// open tells the secret of an access key.
func (k *keyring) open(a *ec2.AccessKey) (string, error) {
	if a.Secret != "" {
		return a.Secret, nil
	}
	if !k.holds(a.Sealed.Key) {
		return "", unavailable{fmt.Errorf("this node has not got the cluster key %s, so it can check no signature", a.Sealed.Key)}
	}
	return k.key.Load().Open(string(a.Account), a.ID, a.Sealed.Box)
}

// Seal seals a secret for a cluster whose key is the one with that id.
func (k *keyring) Seal(id string, account ec2.AccountID, accessKey, plain string) (ec2.SealedSecret, error) {
	if id == "" {
		return ec2.SealedSecret{}, errors.New("the cluster has no key yet: it waits until every node can be reached; palisade cluster status says which cannot")
	}
	if !k.holds(id) {
		return ec2.SealedSecret{}, fmt.Errorf("this node has not got the cluster key %s yet", id)
	}
	return ec2.SealedSecret{Key: id, Box: k.key.Load().Seal(string(account), accessKey, plain)}, nil
}

// sealed makes of what a cluster begins with what its log may hold.
func (k *keyring) sealed(commands []state.Command) []state.Command {
	key := k.key.Load()
	if key == nil {
		return commands // they are in the log already, and this is not proposed
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
	// Behind the first, which is the cluster's birth.
	first := append(commands[:1:1], state.Command{Request: &state.SealSecrets{Key: key.ID()}})
	return append(first, commands[1:]...)
}

// notice is told of every state. It does not block.
func (k *keyring) notice() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// keyEvery is how often a node looks again for what it has not got.
const keyEvery = 2 * time.Second

// runKeyring sees to it that this node has the cluster's key, and that the cluster has
// one and nothing in plain text. Once that is so, only a change of the state wakes it.
func (n *Node) runKeyring(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.cluster.Ready():
	}
	for said := ""; ; {
		var again <-chan time.Time
		if err := n.settleKey(ctx); err != nil && ctx.Err() == nil {
			if err.Error() != said {
				n.log.Warn("cluster key", "err", err)
			}
			said = err.Error()
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

// settleKey takes the next steps; an error says what is still to be done.
func (n *Node) settleKey(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	view := n.cluster.View()
	if id := view.SealKey(); id != "" && !n.keys.holds(id) {
		return n.fetchKey(ctx, view, id)
	}
	leader, _ := n.cluster.Leader()
	if leader != n.config.Name {
		if view.SealKey() == "" {
			return errors.New("the cluster has none yet; its leader makes one as soon as every node is there")
		}
		return nil
	}
	if view.SealKey() == "" {
		// Of a state that has all that was decided: a key of another node's may be about
		// to be the cluster's.
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

// spreadKey gives every node the key that the cluster shall have. All must have it before
// anything is sealed: what the only node that has it takes with it is lost.
func (n *Node) spreadKey(ctx context.Context, view *state.View) error {
	if n.keys.key.Load() == nil {
		if err := n.keys.set(secret.NewKey()); err != nil {
			return err
		}
	}
	key := n.keys.key.Load()
	for m := range view.Nodes() {
		if !m.Member() || m.ID == n.config.Name {
			continue
		}
		got, err := n.askKey(ctx, m.ID, key.Encode())
		if err != nil {
			return fmt.Errorf("give it to %s: %w", m.ID, err)
		}
		if got.ID() != key.ID() {
			return fmt.Errorf("give it to %s: it has another", m.ID)
		}
	}
	return nil
}

// sealPlain seals what earlier releases left in plain text, and names the cluster's key.
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
	n.log.Info("secrets of access keys are sealed", "key", r.Key, "sealed", len(r.AccessKeys), "index", index)
	return nil
}

// fetchKey asks the others for the cluster's key.
func (n *Node) fetchKey(ctx context.Context, view *state.View, id string) error {
	var failures []error
	for m := range view.Nodes() {
		if !m.Member() || m.ID == n.config.Name {
			continue
		}
		key, err := n.askKey(ctx, m.ID, nil)
		if err == nil && key.ID() == id {
			n.log.Info("got the cluster key", "key", id, "from", m.ID)
			return n.keys.set(key)
		}
		failures = append(failures, err)
	}
	return errors.Join(append(failures, fmt.Errorf("%s is not in %s: no signature can be checked here until it is put there, from another node or a copy", id, n.keys.path))...)
}

// methodKey is a call between nodes: give me the cluster key, or take the one I offer.
const methodKey = "node.clusterkey"

type keyQuestion struct {
	Offer []byte `json:"offer,omitempty"`
}

type keyAnswer struct {
	Key []byte `json:"key,omitempty"` // nil: this node has none
}

func (n *Node) askKey(ctx context.Context, node ec2.NodeID, offer []byte) (*secret.Key, error) {
	if n.peer == nil {
		return nil, fmt.Errorf("%s is alone and reaches no %s", n.config.Name, node)
	}
	body, err := json.Marshal(keyQuestion{offer})
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

// handleKey answers methodKey. An offer is taken while the state names no other key, and
// from nobody by a leader: it offers its own.
func (n *Node) handleKey() {
	n.peer.Handle(methodKey, func(_ context.Context, from string, body []byte) ([]byte, error) {
		view := n.cluster.View()
		if m, ok := view.Node(ec2.NodeID(from)); !ok || !m.Member() {
			return nil, fmt.Errorf("%s is no member, as far as %s knows", from, n.config.Name)
		}
		var q keyQuestion
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
	if id := view.SealKey(); leader == n.config.Name || id != "" && id != key.ID() || n.keys.holds(key.ID()) {
		return nil
	}
	return n.keys.set(key)
}
