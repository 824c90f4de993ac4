package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/control"
	"palisade/internal/secret"
)

// members runs a cluster of n voters on loopback addresses.
type members struct {
	t     *testing.T
	nodes []testNode
	stop  []func() error
}

func newMembers(t *testing.T, n int) *members {
	t.Helper()
	m := &members{t: t}
	for i := range n {
		c := secretConfig(t)
		c.Name, c.Peer.Listen = ec2.NodeID(fmt.Sprintf("node%d", i+1)), freePorts(t)
		if i == 0 {
			if _, err := InitCluster(c); err != nil {
				t.Fatal(err)
			}
		} else {
			m.join(c, ec2.Voter)
		}
		m.run(c)
	}
	m.until("all vote and gossip", func() bool {
		for _, node := range m.nodes {
			alive := 0
			for _, g := range node.cluster.GossipMembers() {
				if g.Gossip == "alive" {
					alive++
				}
			}
			_, voters, _ := strings.Cut(fmt.Sprint(node.cluster), "voters ")
			if alive != n || strings.Count(voters, "node") < n {
				return false
			}
		}
		return true
	})
	return m
}

func (m *members) join(c Config, role ec2.NodeRole) {
	m.t.Helper()
	first := m.nodes[0]
	made, err := request[map[string]string](m.t, first, "POST", "/v1/cluster/token", control.TokenRequest{Role: role, TTL: time.Minute})
	if err != nil {
		m.t.Fatal(err)
	}
	if err := JoinCluster(m.t.Context(), c, []string{first.config.Peer.Listen.String()}, made["token"]); err != nil {
		m.t.Fatal(err)
	}
}

func (m *members) run(c Config) {
	m.t.Helper()
	n := newNode(m.t, c)
	m.nodes, m.stop = append(m.nodes, n), append(m.stop, n.start(m.t))
}

func (m *members) until(what string, holds func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			for _, n := range m.nodes {
				m.t.Logf("%v: rotations %+v\n%s", n.cluster, n.cluster.View().Rotations(), strings.Join(n.log.last(), "\n"))
			}
			m.t.Fatalf("after %s it is not true that %s", patience, what)
		}
	}
}

// rotate asks a node to replace a kind of key, and waits until this is done.
func (m *members) rotate(at testNode, kind ec2.KeyKind) {
	m.t.Helper()
	if _, err := request[control.RotateAnswer](m.t, at, "POST", "/v1/cluster/rotate", control.RotateRequest{Kind: kind}); err != nil {
		m.t.Fatal(err)
	}
	m.settled()
}

// settled waits until no key is being replaced, in the state of any node that runs.
func (m *members) settled() {
	m.t.Helper()
	m.until("no key is being replaced", func() bool {
		return !slices.ContainsFunc(m.nodes, func(n testNode) bool { return len(n.cluster.View().Rotations()) > 0 })
	})
}

// drop stops a node, and takes it out of the list.
func (m *members) drop(n testNode) {
	m.t.Helper()
	i := slices.IndexFunc(m.nodes, func(o testNode) bool { return o.Node == n.Node })
	if err := m.stop[i](); err != nil && !errors.Is(err, cluster.ErrExpelled) {
		m.t.Fatal(err)
	}
	m.nodes, m.stop = slices.Delete(m.nodes, i, i+1), slices.Delete(m.stop, i, i+1)
}

func (m *members) leader() (leader testNode) {
	m.t.Helper()
	m.until("there is a leader", func() bool {
		i := slices.IndexFunc(m.nodes, func(n testNode) bool { return n.cluster.Role() == "leader" })
		if i >= 0 {
			leader = m.nodes[i]
		}
		return i >= 0
	})
	return leader
}

// gossipFile returns the gossip keys in a node's file.
func (n testNode) gossipFile(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(n.config.gossipKeysFile())
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Each kind of key is replaced on every node: the new one is in use, and the old one in no file.
func TestRotationReplacesKeyOnEveryNode(t *testing.T) {
	m := newMembers(t, 3)
	first := m.nodes[0]
	oldGossip, oldKey := first.gossipFile(t), first.keys.key.Load()
	epoch, _ := first.overlay.Renewed()
	m.until("tunnels are up", func() bool { return first.overlay.Status()[0].Up && first.overlay.Status()[1].Up })

	m.rotate(m.nodes[1], ec2.GossipKey)
	for _, n := range m.nodes {
		m.until(string(n.config.Name)+" has the new gossip key alone", func() bool {
			now, keys := n.gossipFile(t), n.cluster.GossipKeysInUse()
			return now != oldGossip && strings.Count(now, "\n") == 1 && now == first.gossipFile(t) &&
				len(keys) == 1 && n.gossipKeys.idOf(keys[0]) == n.cluster.View().GossipRing()[0]
		})
	}
	m.rotate(first, ec2.TunnelKeys)
	for _, n := range m.nodes {
		if now, pending := n.overlay.Renewed(); now <= epoch || len(pending) > 0 {
			t.Errorf("%s has old tunnel keys with %v (epoch %d, before %d)", n.config.Name, pending, now, epoch)
		}
	}
	m.rotate(m.nodes[2], ec2.ClusterKey)
	for _, n := range m.nodes {
		m.until(string(n.config.Name)+" has only the new cluster key", func() bool { return n.keys.find(oldKey.ID()) == nil })
		if got := n.signIn(t, "AKIDALBERT", plainText); got != 200 {
			t.Errorf("sign in at %s with the new cluster key: status %d, want 200", n.config.Name, got)
		}
		if key, err := readClusterKey(n.config.clusterKeyFile()); err != nil || key.ID() != n.cluster.View().SealKey() || key.ID() == oldKey.ID() {
			t.Errorf("the key file of %s: %v, want the new key", n.config.Name, err)
		}
	}
	m.wantKeysInNoLog(oldKey.Raw(), first.keys.key.Load().Raw())
	records := 0
	for r := range first.cluster.View().AuditRecords() {
		if r.Action == "RotateKeys" {
			records++
		}
	}
	if records != 3 {
		t.Errorf("the audit log has %d records of rotations, want 3", records)
	}
}

// wantKeysInNoLog checks that a node's log and backups have none of the keys.
func (m *members) wantKeysInNoLog(keys ...[]byte) {
	m.t.Helper()
	n := m.nodes[0]
	for line := range strings.Lines(n.gossipFile(m.t)) {
		raw, err := hex.DecodeString(strings.Fields(line)[1])
		if err != nil {
			m.t.Fatal(err)
		}
		keys = append(keys, raw)
	}
	backup := n.backup(m.t)
	for _, key := range keys {
		for _, form := range forms(string(key)) {
			if files := found(m.t, n.config.raftDir(), string(form)); len(files) > 0 || bytes.Contains(backup, form) {
				m.t.Errorf("a key is in the log or a backup (%v)", files)
			}
		}
	}
}

// A rotation waits for a node that does not answer, names it, and goes on when it is back, also with another
// leader.
func TestRotationWaitsForNodeThatIsAway(t *testing.T) {
	m := newMembers(t, 3)
	old := m.nodes[0].gossipFile(t)
	leader := m.leader()
	i := slices.IndexFunc(m.nodes, func(n testNode) bool { return n.Node != leader.Node })
	away := m.nodes[i]
	m.drop(away)
	if _, err := request[control.RotateAnswer](t, leader, "POST", "/v1/cluster/rotate", control.RotateRequest{Kind: ec2.GossipKey}); err != nil {
		t.Fatal(err)
	}
	progress := func(at testNode) (p control.RotationProgress) {
		if all := at.Rotations(t.Context()); len(all) == 1 {
			p = all[0]
		}
		return p
	}
	m.until("all but one node have the new key", func() bool {
		p := progress(leader)
		done := 0
		for _, n := range p.Nodes {
			if n.Done {
				done++
			}
		}
		return p.Step == ec2.RotationSpread && done == 2
	})
	for _, n := range progress(leader).Nodes {
		if gone := n.Node == away.config.Name; n.Done == gone || gone && !strings.Contains(n.Why, "not reached") {
			t.Errorf("%s: done %t, %q; want only %s not reached", n.Node, n.Done, n.Why, away.config.Name)
		}
	}
	m.until("the leader's log says that it waits for "+string(away.config.Name), func() bool {
		return strings.Contains(strings.Join(leader.log.last(), "\n"), "waits for "+string(away.config.Name))
	})
	again, err := request[control.RotateAnswer](t, leader, "POST", "/v1/cluster/rotate", control.RotateRequest{Kind: ec2.GossipKey})
	if err != nil || !again.Resumed {
		t.Errorf("a second request: %+v, %v; want it to resume the rotation", again, err)
	}
	if got := m.nodes[0].cluster.View().GossipRing(); len(got) != 1 {
		t.Errorf("the new key is in use before all nodes have it: %v", got)
	}
	m.run(away.config)
	m.drop(leader)
	m.run(leader.config)
	m.settled()
	for _, n := range m.nodes {
		m.until(string(n.config.Name)+" has the new key alone", func() bool {
			now := n.gossipFile(t)
			return now != old && strings.Count(now, "\n") == 1
		})
	}
}

// After the fence of a voter all that it knew is replaced, although it is cut off only by the fence itself.
func TestFenceReplacesWhatTheNodeKnew(t *testing.T) {
	m := newMembers(t, 3)
	at := m.nodes[0]
	oldGossip, oldKey := at.gossipFile(t), at.keys.key.Load().ID()
	fenced := m.nodes[2]
	change, err := request[control.NodeChange](t, at, "POST", "/v1/cluster/fence", control.NodeRequest{Node: fenced.config.Name})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(change.Exposed, []string{"AKIDALBERT"}) {
		t.Errorf("the access keys to replace are %v, want [AKIDALBERT]", change.Exposed)
	}
	m.drop(fenced)
	m.settled()
	for _, n := range m.nodes {
		m.until(string(n.config.Name)+" has only new keys", func() bool {
			return n.gossipFile(t) != oldGossip && n.keys.find(oldKey) == nil && n.cluster.View().SealKey() != oldKey
		})
		if got := n.signIn(t, "AKIDALBERT", plainText); got != 200 {
			t.Errorf("sign in at %s: status %d, want 200", n.config.Name, got)
		}
	}
	// The fenced node asks for the new keys with its certificate: it gets none.
	key := rotationKeyRequest{ec2.ClusterKey, at.cluster.View().SealKey()}
	body, _ := json.Marshal(key)
	ghost := newNode(t, fenced.config)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := ghost.peer.Call(ctx, string(at.config.Name), methodRotationKey, body); err == nil {
		t.Error("the fenced node got the new cluster key")
	}
	if err := ghost.peer.Close(); err != nil {
		t.Fatal(err)
	}
}

// The leader that made a key is lost before anybody has the key: the next leader makes another.
func TestLostNewKeyIsMadeAgain(t *testing.T) {
	m := newMembers(t, 1)
	n := m.nodes[0]
	lost := "00112233445566aa"
	index := n.cluster.View().Index() + 1
	for ; ; index++ { // the batch is refused unless its own index is guessed right
		_, at, err := n.cluster.Apply(t.Context(), state.Command{Request: &state.Batch{Requests: []state.Request{
			&state.BeginRotation{Kind: ec2.GossipKey, Cause: "test"},
			&state.AdvanceRotation{Kind: ec2.GossipKey, Index: index, From: ec2.RotationDue, To: ec2.RotationSpread, Key: lost},
		}}})
		if err == nil {
			break
		}
		if index = at; at == 0 {
			t.Fatal(err)
		}
	}
	m.settled()
	if ring := n.cluster.View().GossipRing(); slices.Contains(ring, lost) {
		t.Errorf("the gossip keys are %v, with one that no node has", ring)
	}
}

// A cluster of one has no other node: it replaces its cluster key, and says that it has no other keys. The new
// key is used after a restart too.
func TestClusterOfOneReplacesClusterKey(t *testing.T) {
	c := secretConfig(t)
	n := newNode(t, c)
	stop := n.start(t)
	old := n.cluster.View().SealKey()
	for _, kind := range []ec2.KeyKind{ec2.GossipKey, ec2.TunnelKeys} {
		if _, err := request[control.RotateAnswer](t, n, "POST", "/v1/cluster/rotate", control.RotateRequest{Kind: kind}); err == nil || !strings.Contains(err.Error(), "cluster of one") {
			t.Errorf("rotate %s: error %v, want one that says this is a cluster of one", kind, err)
		}
	}
	if _, err := request[control.RotateAnswer](t, n, "POST", "/v1/cluster/rotate", control.RotateRequest{Kind: ec2.ClusterKey}); err != nil {
		t.Fatal(err)
	}
	n.wait(t, "new key", func() bool { return n.cluster.View().SealKey() != old && len(n.cluster.View().Rotations()) == 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.keys.nextPath()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file of the next key: %v, want none", err)
	}
	again := newNode(t, c)
	again.start(t)
	if got := again.signIn(t, "AKIDALBERT", plainText); got != 200 || again.keys.has(old) {
		t.Errorf("after a restart: sign-in status %d, want 200; the old key is there: %t, want false", got, again.keys.has(old))
	}
}

// The daemon is killed between the entry that seals all secrets with the new key and its change of the key
// files: the next daemon finishes.
func TestKeyFilesFollowStateAfterCrash(t *testing.T) {
	c := secretConfig(t)
	n := newNode(t, c)
	if err := n.start(t)(); err != nil {
		t.Fatal(err)
	}
	key, other := n.keys.key.Load(), secret.NewKey()
	for path, k := range map[string]*secret.Key{n.keys.path: other, n.keys.nextPath(): key} {
		if err := os.WriteFile(path, k.Encode(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again := newNode(t, c)
	again.start(t)
	again.wait(t, "key of the state alone", func() bool { return slices.Equal(again.keys.ids(), []string{key.ID()}) })
	if got := again.signIn(t, "AKIDALBERT", plainText); got != 200 {
		t.Errorf("sign in: status %d, want 200", got)
	}
}
