package peer

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// replacement makes a new authority for the cluster of id, which gets its key, and returns its root.
func replacement(t *testing.T, id *Identity) (root string) {
	t.Helper()
	root, key, err := id.NewAuthority()
	if err == nil {
		err = id.Trust(root)
	}
	if err == nil {
		err = id.SetAuthorityKey(root, key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// renew gives a node a certificate that one signs with the key of root.
func renew(t *testing.T, one, node *Identity, root string) {
	t.Helper()
	cert, err := one.Certify(root, node.Node(), address, node.PublicKey())
	if err == nil {
		err = node.Renew(root, cert, true)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// copyOf returns an identity with the present credentials of id, which later changes of id do not change.
func copyOf(id *Identity) *Identity {
	was := &Identity{node: id.node, cluster: id.cluster, key: id.key}
	was.now.Store(id.now.Load())
	return was
}

// While both authorities are trusted, nodes connect whichever certificate they have. Afterwards a
// certificate of the old authority opens nothing but a request for a new one, although the node table has
// its name and key. That request too needs a member's key.
func TestReplacedAuthorityIsRefused(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	two := member(t, one, "node2")
	late, stranger := copyOf(two), member(t, one, "node3")
	impostor := member(t, one, "node2") // another key
	a, b := prepare(t, one, d), prepare(t, two, d)
	for _, p := range []*Peer{a, b} {
		p.Handle("echo", func(_ context.Context, _ string, body []byte) ([]byte, error) { return body, nil })
		p.HandleRenew(func(_ context.Context, from string, _ []byte) ([]byte, error) { return []byte(from), nil })
		run(t, p)
	}
	connects := func(p *Peer, node string) error {
		c, err := p.Dial(t.Context(), node, ProtocolRPC)
		if err == nil {
			c.Close()
		}
		return err
	}
	both := func(when string) {
		t.Helper()
		if err := connects(a, "node2"); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if err := connects(b, "node1"); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	root := replacement(t, one)
	if err := two.Trust(root); err != nil {
		t.Fatal(err)
	}
	both("before a new certificate")
	renew(t, one, one, root)
	both("when one node has a new certificate")
	renew(t, one, two, root)
	both("when both have new certificates")
	if old := late.Trusted()[0]; string(one.RootPEM()) != old || one.PublicCertificate().Leaf == one.Certificate().Leaf {
		t.Error("clients and nodes that join see the new authority too early")
	}
	for _, id := range []*Identity{one, two} {
		if err := id.ShowOnly(root); err != nil {
			t.Fatal(err)
		}
		both("when one trusts only the new authority")
		if err := id.TrustOnly(root); err != nil {
			t.Fatal(err)
		}
	}
	both("at the end")
	if string(one.RootPEM()) != root || !one.HasAuthority() {
		t.Error("nodes that join do not see the new authority")
	}

	c := prepare(t, late, newTable())
	c.nodes = d // its own address is not in the table
	if err := connects(a, "node2"); err != nil {
		t.Fatal(err)
	}
	if err := late.Trust(root); err != nil { // so that only its own certificate is old
		t.Fatal(err)
	}
	if err := connects(c, "node1"); err == nil {
		t.Error("a certificate of the old authority opens a connection")
	}
	if from, err := c.AskRenewal(t.Context(), "node1", nil); err != nil || string(from) != "node2" {
		t.Errorf("ask for a certificate with an old one: %q, %v", from, err)
	}
	if _, err := c.call(t.Context(), c.renewals, "node1", "echo", nil); err == nil || !strings.Contains(err.Error(), "only renews") {
		t.Errorf("another method with an old certificate: %v, want it refused", err)
	}
	for who, id := range map[string]*Identity{"a node that is no member": stranger, "another key": impostor} {
		p := prepare(t, id, newTable())
		p.nodes = d
		if _, err := p.AskRenewal(t.Context(), "node1", nil); err == nil {
			t.Errorf("%s may ask for a certificate", who)
		}
	}
}

// A machine with a token of the old authority does not join once the authority is replaced.
func TestTokenOfReplacedAuthorityIsVoid(t *testing.T) {
	one := founder(t, "node1")
	asked := 0
	server, token := admitter(t, one, newTable(), func(context.Context, JoinRequest) (JoinAnswer, error) {
		asked++
		return JoinAnswer{Role: "voter"}, nil
	})
	root := replacement(t, one)
	renew(t, one, one, root)
	id, err := Join(t.Context(), joinConfig(t, token, server.Addr().String()))
	if err != nil {
		t.Fatalf("join with a token of the old authority before it is dropped: %v", err)
	}
	if !slices.Contains(id.Trusted(), root) {
		t.Error("the new node does not trust the new authority, which signs certificates of members")
	}
	if err := one.TrustOnly(root); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), joinConfig(t, token, server.Addr().String())); err == nil || asked != 1 {
		t.Errorf("join with a token of the dropped authority: %v, %d requests; want it to send no second one", err, asked)
	}
}

// A node does not take what is not for it or its cluster, and then keeps what it had.
func TestForeignAuthorityIsNotTaken(t *testing.T) {
	one, other := founder(t, "node1"), founder(t, "node1")
	two := member(t, one, "node2")
	root := replacement(t, one)
	foreign := other.Trusted()[0]
	if err := one.Trust(foreign); err == nil {
		t.Error("the authority of another cluster is trusted")
	}
	if err := two.Trust(root); err != nil {
		t.Fatal(err)
	}
	if err := two.SetAuthorityKey(root, other.AuthorityKey(foreign)); err == nil {
		t.Error("the key of another authority is taken")
	}
	for name, cert := range map[string]func() ([]byte, error){
		"another node": func() ([]byte, error) { return one.Certify(root, "node3", address, two.PublicKey()) },
		"another key":  func() ([]byte, error) { return one.Certify(root, "node2", address, one.PublicKey()) },
		"the old authority": func() ([]byte, error) {
			return one.Certify(one.Trusted()[0], "node2", address, two.PublicKey())
		},
	} {
		pem, err := cert()
		if err != nil {
			t.Fatal(err)
		}
		if err := two.Renew(root, pem, true); err == nil {
			t.Errorf("a certificate of %s is taken", name)
		}
	}
	if err := two.TrustOnly(root); err == nil || len(two.Trusted()) != 2 || len(two.Signers()) != 1 {
		t.Errorf("without a new certificate the old authority is dropped: %v", err)
	}
}

// The files of an identity are read in every state that a crash can leave.
func TestIdentityIsReadAfterCrashInRotation(t *testing.T) {
	dir := t.TempDir()
	id, err := Init(dir, "node1", address)
	if err != nil {
		t.Fatal(err)
	}
	read := func(from string) map[string][]byte {
		all := map[string][]byte{}
		for _, name := range []string{rootFile, authorityFile, nodeFile} {
			if all[name], err = os.ReadFile(filepath.Join(from, name)); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	old := id.Trusted()[0]
	root, key, err := id.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name   string
		change func(id *Identity) error
	}{
		{"Trust", func(id *Identity) error { return id.Trust(root) }},
		{"SetAuthorityKey", func(id *Identity) error { return id.SetAuthorityKey(root, key) }},
		{"Renew", func(id *Identity) error {
			cert, err := id.Certify(root, "node1", address, id.PublicKey())
			if err != nil {
				return err
			}
			return id.Renew(root, cert, true)
		}},
		{"ShowOnly", func(id *Identity) error { return id.ShowOnly(root) }},
		{"TrustOnly", func(id *Identity) error { return id.TrustOnly(root) }},
	} {
		before := read(dir)
		if err := step.change(id); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		after := read(dir)
		for written := range 3 { // update writes them in this order
			crashed := t.TempDir()
			for i, name := range []string{rootFile, authorityFile, nodeFile} {
				data := before[name]
				if i < written {
					data = after[name]
				}
				if err := os.WriteFile(filepath.Join(crashed, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := copyKey(t, filepath.Join(crashed, nodeKeyFile), id.key); err != nil {
				t.Fatal(err)
			}
			again, err := Load(crashed)
			if err != nil {
				t.Fatalf("%s, crash after %d files: %v", step.name, written, err)
			}
			if err := step.change(again); err != nil {
				t.Errorf("%s after a crash after %d files: %v", step.name, written, err)
			}
			if now := read(crashed); step.name != "Renew" && string(now[rootFile])+string(now[nodeFile]) != string(after[rootFile])+string(after[nodeFile]) {
				t.Errorf("%s after a crash after %d files leaves other files", step.name, written)
			}
		}
	}
	again, err := Load(dir)
	if err != nil || !slices.Equal(again.Trusted(), []string{root}) || !slices.Equal(again.Signers(), []string{root}) || again.AuthorityKey(old) != nil {
		t.Errorf("at the end the identity is %v, %v; want the new authority alone", again, err)
	}
	if files := read(dir); strings.Count(string(files[authorityFile]), "BEGIN") != 1 {
		t.Error("the key of the old authority is still in the file")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(read(dir)[rootFile])
	if _, err := again.PublicCertificate().Leaf.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		t.Errorf("a client that trusts the file of the root: %v", err)
	}
}
