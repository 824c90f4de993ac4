package node

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/node/control"
	"palisade/internal/peer"
)

// beginAuthority asks for a new authority, and returns the old one.
func (m *members) beginAuthority() (old string) {
	m.t.Helper()
	old = m.nodes[0].id.Trusted()[0]
	if _, err := request[control.RotateAnswer](m.t, m.nodes[0], "POST", "/v1/cluster/rotate", control.RotateRequest{Kind: ec2.Authority}); err != nil {
		m.t.Fatal(err)
	}
	return old
}

// onlyAuthority waits until each node has only the authority of the state: in memory and in files.
func (m *members) onlyAuthority(old string) {
	m.t.Helper()
	m.settled()
	for _, n := range m.nodes {
		root := []string{n.cluster.View().Authority()}
		m.until(string(n.config.Name)+" has the new authority alone", func() bool {
			id, err := peer.Load(n.config.identityDir())
			return err == nil && slices.Equal(id.Trusted(), root) && slices.Equal(id.Signers(), root) &&
				slices.Equal(n.id.Trusted(), root) && slices.Equal(n.id.Signers(), root)
		})
		if root[0] == old || root[0] == "" {
			m.t.Errorf("the authority of %s is still the old one", n.config.Name)
		}
		key := n.id.AuthorityKey(root[0]) != nil
		self, _ := n.cluster.View().Node(n.config.Name)
		if key != self.Votes() {
			m.t.Errorf("%s votes: %t; it has the authority's key: %t", n.config.Name, self.Votes(), key)
		}
		for _, o := range m.nodes {
			if o.Node != n.Node {
				m.until(fmt.Sprint(n.config.Name, " can call ", o.config.Name), func() bool {
					return n.askRotation(m.t.Context(), o.config.Name).err == nil
				})
			}
		}
	}
}

// caFile is the file that clients of the API trust.
func (n testNode) caFile() string { return filepath.Join(n.config.identityDir(), "ca.pem") }

func (n testNode) trusts(pem []byte) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c, err := tls.Dial("tcp", n.config.APIListen.String(), &tls.Config{RootCAs: roots, ServerName: n.config.APIListen.Addr().String()})
	if err == nil {
		c.Close()
	}
	return err
}

// Each node gets a new certificate, also one without a vote, which does not get the authority's key. A client
// that reads ca.pem again trusts the API at each moment; one that does not, until the last step. Afterwards a
// certificate of the old authority opens nothing, although its name and key are in the node table.
func TestAuthorityIsReplacedOnEveryNode(t *testing.T) {
	m := newMembers(t, 3)
	c := secretConfig(t)
	c.Name, c.Peer.Listen = "node4", freePorts(t)
	c.APIListen = netip.AddrPortFrom(c.Peer.Listen.Addr(), freePorts(t).Port())
	m.join(c, ec2.NonVoter)
	m.run(c)
	first, api := m.nodes[0], m.nodes[3]
	m.until("node4 is up", func() bool {
		select {
		case <-api.cluster.Ready():
			return true
		default:
			return false
		}
	})
	was, oldFile := m.nodes[1].id.Certificate(), readFile(t, api.caFile())
	if err := api.trusts(oldFile); err != nil {
		t.Fatal(err)
	}
	token, err := request[map[string]string](t, first, "POST", "/v1/cluster/token", control.TokenRequest{Role: ec2.Voter, TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var ended atomic.Bool
	clients := make(chan error, 1)
	go func() { clients <- clientsDuringRotation(t, first, api, oldFile, &ended) }()
	old := m.beginAuthority()
	m.settled()
	m.onlyAuthority(old)
	ended.Store(true)
	if err := <-clients; err != nil {
		t.Error(err)
	}
	if err := api.trusts(oldFile); err == nil {
		t.Error("the API still shows a certificate of the old authority")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(readFile(t, api.caFile()))
	if _, err := was.Leaf.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
		t.Error("a client that trusts ca.pem accepts a certificate of the old authority")
	}
	if err := first.admits(was); err == nil {
		t.Error("a certificate of the old authority opens a connection")
	}
	if err := first.admits(m.nodes[1].id.Certificate()); err != nil {
		t.Errorf("a certificate of the new authority: %v", err)
	}
	late := secretConfig(t)
	late.Name, late.Peer.Listen = "node5", freePorts(t)
	if err := JoinCluster(t.Context(), late, []string{first.config.Peer.Listen.String()}, token["token"]); err == nil {
		t.Error("a machine joins with a token of the old authority")
	}
	body, _ := json.Marshal(rotationKeyRequest{ec2.Authority, ec2.AuthorityID(first.cluster.View().Authority())})
	if _, err := api.peer.Call(t.Context(), string(first.config.Name), methodRotationKey, body); err == nil || !strings.Contains(err.Error(), "no voter") {
		t.Errorf("a node without a vote asks for the authority's key: %v, want it refused", err)
	}
}

// clientsDuringRotation connects to the API until ended: as a client that reads ca.pem of another node again
// each time, and as one with the old file.
func clientsDuringRotation(t *testing.T, other, api testNode, oldFile []byte, ended *atomic.Bool) error {
	checks, oldChecks := 0, 0
	for early := true; !ended.Load(); checks++ {
		if err := api.trusts(readFile(t, other.caFile())); err != nil {
			return fmt.Errorf("a client that reads ca.pem again: %w", err)
		}
		if !early {
			continue
		}
		err := api.trusts(oldFile)
		r, rotating := api.cluster.View().Rotation(ec2.Authority)
		early = r.Step != ec2.RotationDrop && (rotating || api.cluster.View().Authority() == "")
		if early && err != nil {
			return fmt.Errorf("a client with the old ca.pem in step %q: %w", r.Step, err)
		}
		if early && rotating {
			oldChecks++
		}
	}
	t.Logf("%d handshakes of a client with the present ca.pem, %d with the old one during the rotation", checks, oldChecks)
	if checks == 0 || oldChecks == 0 {
		return errors.New("no client connected during the rotation, so the test checks nothing")
	}
	return nil
}

// A step of the rotation ends only when a node reports each part of it.
func TestAuthorityWaitsForEachPart(t *testing.T) {
	voter, other := &ec2.Node{ID: "node1", Role: ec2.Voter}, &ec2.Node{ID: "node4", Role: ec2.NonVoter}
	if !voter.Votes() || other.Votes() {
		t.Fatal("the nodes have other roles than the test needs")
	}
	both, old, now := []string{"old", "new"}, []string{"old"}, []string{"new"}
	has := func(trusts, keys, signers []string) rotationReport {
		return rotationReport{CATrusts: trusts, CAKeys: keys, CASigners: signers}
	}
	for _, test := range []struct {
		step   ec2.RotationStep
		node   *ec2.Node
		report rotationReport
		want   string // "" if the node is done
	}{
		{ec2.RotationSpread, other, has(old, nil, old), "does not trust"},
		{ec2.RotationSpread, other, has(both, nil, old), ""},
		{ec2.RotationSpread, voter, has(both, old, old), "does not have the new key"},
		{ec2.RotationSpread, voter, has(both, both, old), ""},
		{ec2.RotationUse, voter, has(both, both, old), "new certificate"},
		{ec2.RotationUse, other, has(both, nil, nil), "new certificate"},
		{ec2.RotationUse, voter, has(both, old, []string{"new", "old"}), "does not have the new key"},
		{ec2.RotationUse, other, has(both, nil, []string{"new", "old"}), ""},
		{ec2.RotationDrop, other, has(both, nil, []string{"new", "old"}), "to clients"},
		{ec2.RotationDrop, other, has(both, nil, now), ""},
	} {
		r := ec2.Rotation{Kind: ec2.Authority, Step: test.step, Key: "new"}
		got := authorityWaits(test.node, r, test.report)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("step %q, node %s with %+v: %q, want %q", test.step, test.node.ID, test.report, got, test.want)
		}
	}
}

func readFile(t *testing.T, path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return data
}

// admits returns nil if a node takes a certificate for calls.
func (n testNode) admits(c tls.Certificate) error {
	conn, err := tls.Dial("tcp", n.config.Peer.Listen.String(), &tls.Config{
		Certificates: []tls.Certificate{c}, InsecureSkipVerify: true, NextProtos: []string{peer.ProtocolRPC},
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	_, err = conn.Read(make([]byte, 1))
	return err
}

// The leader is stopped in each step of the rotation. Another leads, waits for it, and goes on when it is back.
func TestAuthorityIsReplacedByAnotherLeader(t *testing.T) {
	m := newMembers(t, 3)
	old := m.beginAuthority()
	steps := []ec2.RotationStep{ec2.RotationDue, ec2.RotationSpread, ec2.RotationUse, ec2.RotationDrop}
	for i := range steps {
		var at ec2.RotationStep
		m.until("the next step has begun", func() bool {
			for range 1000 {
				r, rotating := m.nodes[0].cluster.View().Rotation(ec2.Authority)
				if at = r.Step; !rotating || slices.Index(steps, at) >= i {
					return true
				}
				time.Sleep(100 * time.Microsecond)
			}
			return false
		})
		leader := m.leader()
		m.drop(leader)
		if next := m.leader(); next.Node == leader.Node {
			t.Fatal("the same node leads")
		}
		t.Logf("%s, the leader, was stopped at step %q", leader.config.Name, at)
		m.run(leader.config)
	}
	m.onlyAuthority(old)
}

// The fence of a voter replaces the authority, whose key it had, also while it is being replaced already.
func TestFenceReplacesTheAuthority(t *testing.T) {
	m := newMembers(t, 3)
	old := m.beginAuthority()
	fenced := m.nodes[2]
	if _, err := request[control.NodeChange](t, m.nodes[0], "POST", "/v1/cluster/fence", control.NodeRequest{Node: fenced.config.Name}); err != nil {
		t.Fatal(err)
	}
	m.drop(fenced)
	m.onlyAuthority(old)
	if id, err := peer.Load(fenced.config.identityDir()); err != nil || id.AuthorityKey(m.nodes[0].cluster.View().Authority()) != nil {
		t.Errorf("the fenced voter has the new authority's key (%v)", err)
	}
}

// A node comes back with the certificate and the authority of before the rotation. The others know its key,
// so it gets a new certificate, and from the state the new authority.
func TestNodeThatMissedTheRotationIsCertified(t *testing.T) {
	m := newMembers(t, 3)
	late := m.nodes[1]
	files := map[string][]byte{}
	for _, name := range []string{"ca.pem", "ca.key", "node.pem"} {
		files[name] = readFile(t, filepath.Join(late.config.identityDir(), name))
	}
	old := m.beginAuthority()
	m.onlyAuthority(old)
	m.drop(late)
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(late.config.identityDir(), name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.run(late.config)
	m.onlyAuthority(old)
}
