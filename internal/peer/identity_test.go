package peer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var address = netip.MustParseAddrPort("192.0.2.11:7400")

func TestLoadReadsWhatInitWrote(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "peer")
	if _, err := Load(dir); !errors.Is(err, ErrNoIdentity) {
		t.Fatalf("load a directory that does not exist: got %v; want ErrNoIdentity", err)
	}
	made, err := Init(dir, "node1", address)
	if err != nil {
		t.Fatal(err)
	}
	id, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if id.Node() != "node1" || id.Cluster() != made.Cluster() || len(id.Cluster()) != 32 || !id.HasAuthority() {
		t.Errorf("loaded node %q, cluster %q, authority %t; want node1, cluster %q (32 letters), authority true", id.Node(), id.Cluster(), id.HasAuthority(), made.Cluster())
	}
	if !bytes.Equal(id.PublicKey(), made.PublicKey()) || !bytes.Equal(id.RootPEM(), made.RootPEM()) {
		t.Error("the loaded identity differs from the one that Init returned")
	}
	for name, mode := range map[string]os.FileMode{"": 0o700, rootFile: 0o644, nodeFile: 0o644, nodeKeyFile: 0o600, authorityFile: 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != mode {
			t.Errorf("mode of %q is %04o; want %04o", name, info.Mode().Perm(), mode)
		}
	}
	if _, err := Init(dir, "node1", address); err == nil {
		t.Error("Init succeeded in a directory with an identity")
	}
	if again, err := Load(dir); err != nil || again.Cluster() != id.Cluster() {
		t.Errorf("the second Init has changed the identity, or Load fails: %v", err)
	}
}

func TestCertificateNamesTheNode(t *testing.T) {
	id, err := Init(t.TempDir(), "node1", address)
	if err != nil {
		t.Fatal(err)
	}
	cert := id.Certificate().Leaf
	if cert.Subject.CommonName != "node1" || len(cert.URIs) != 1 || cert.URIs[0].String() != "palisade://"+id.Cluster()+"/node/node1" {
		t.Errorf("the certificate has name %q and URIs %v; want node1, and one URI with the cluster and node1", cert.Subject.CommonName, cert.URIs)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(id.RootPEM())
	for _, years := range []int{-9, 0, 9} { // the error of the verifier's clock
		_, err := cert.Verify(x509.VerifyOptions{
			Roots: roots, DNSName: "192.0.2.11", CurrentTime: time.Now().AddDate(years, 0, 0),
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		if err != nil {
			t.Errorf("a verifier whose clock is wrong by %d years refuses the certificate: %v", years, err)
		}
	}
}

func TestBadNamesAndAddressesAreRefused(t *testing.T) {
	for _, name := range []string{"", "Node1", "-a", ".a", "a b", "a/b", "../x", "node1\n", "é", string(bytes.Repeat([]byte("a"), 64))} {
		if _, err := Init(t.TempDir(), name, address); err == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
	for _, name := range []string{"a", "0", "node-1.example", string(bytes.Repeat([]byte("a"), 63))} {
		if _, err := Init(t.TempDir(), name, address); err != nil {
			t.Errorf("valid name %q was refused: %v", name, err)
		}
	}
	for _, a := range []netip.AddrPort{{}, netip.MustParseAddrPort("0.0.0.0:7400"), netip.MustParseAddrPort("192.0.2.1:0")} {
		if _, err := Init(t.TempDir(), "node1", a); err == nil {
			t.Errorf("address %v was accepted", a)
		}
	}
}

// If Init is interrupted before it has written its last file, there is no identity, and Init can
// be repeated.
func TestInitSucceedsAfterACrashedInit(t *testing.T) {
	id := founder(t, "node1")
	files, err := id.files()
	if err != nil {
		t.Fatal(err)
	}
	if files[len(files)-1].name != nodeFile {
		t.Fatalf("the last file is %s, want %s", files[len(files)-1].name, nodeFile)
	}
	for n := range len(files) {
		dir := t.TempDir()
		if err := save(dir, files[:n]); err != nil {
			t.Fatal(err)
		}
		torn := filepath.Join(dir, files[n].name+".123.tmp") // Init was interrupted while it wrote the next file
		if err := os.WriteFile(torn, files[n].data[:10], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("load after %d files were written: got %v; want ErrNoIdentity", n, err)
		}
		made, err := Init(dir, "node1", address)
		if err != nil {
			t.Errorf("Init after %d files were written: %v", n, err)
			continue
		}
		if loaded, err := Load(dir); err != nil || loaded.Cluster() != made.Cluster() {
			t.Errorf("load after Init was repeated over %d files: another cluster, or error %v", n, err)
		}
		if _, err := os.Stat(torn); err == nil {
			t.Errorf("%s was not removed", torn)
		}
	}
}

// A nonvoter joins in a directory in which an interrupted Init has left an authority's key.
func TestSaveRemovesTheAuthorityKeyOfAnEarlierInit(t *testing.T) {
	dir := t.TempDir()
	one := founder(t, "node1")
	files, err := one.files()
	if err != nil {
		t.Fatal(err)
	}
	if err := save(dir, files[:3]); err != nil {
		t.Fatal(err)
	}
	if err := member(t, one, "node2").save(dir); err != nil {
		t.Fatal(err)
	}
	id, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if id.HasAuthority() {
		t.Error("the nonvoter has loaded the authority's key of the interrupted Init")
	}
}

func TestDamagedIdentityIsRefused(t *testing.T) {
	other := founder(t, "node1")
	for name, damage := range map[string]func(t *testing.T, at func(string) string) error{
		"no root":            func(_ *testing.T, at func(string) string) error { return os.Remove(at(rootFile)) },
		"no key":             func(_ *testing.T, at func(string) string) error { return os.Remove(at(nodeKeyFile)) },
		"cut certificate":    func(_ *testing.T, at func(string) string) error { return os.Truncate(at(nodeFile), 100) },
		"empty certificate":  func(_ *testing.T, at func(string) string) error { return os.Truncate(at(nodeFile), 0) },
		"cut authority":      func(_ *testing.T, at func(string) string) error { return os.Truncate(at(authorityFile), 20) },
		"readable key":       func(_ *testing.T, at func(string) string) error { return os.Chmod(at(nodeKeyFile), 0o640) },
		"readable authority": func(_ *testing.T, at func(string) string) error { return os.Chmod(at(authorityFile), 0o604) },
		"another's root": func(_ *testing.T, at func(string) string) error {
			return os.WriteFile(at(rootFile), other.RootPEM(), 0o644)
		},
		"another's key": func(t *testing.T, at func(string) string) error { return copyKey(t, at(nodeKeyFile), other.key) },
		"another's authority": func(t *testing.T, at func(string) string) error {
			return copyKey(t, at(authorityFile), other.authority().key)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := Init(dir, "node1", address); err != nil {
				t.Fatal(err)
			}
			if err := damage(t, func(file string) string { return filepath.Join(dir, file) }); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir); err == nil || errors.Is(err, ErrNoIdentity) {
				t.Errorf("load: got %v; want an error other than ErrNoIdentity", err)
			}
			if _, err := Init(dir, "node1", address); err == nil {
				t.Error("Init replaced a damaged identity")
			}
		})
	}
}

func copyKey(t *testing.T, path string, key *ecdsa.PrivateKey) error {
	t.Helper()
	data, err := encodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return os.WriteFile(path, data, 0o600)
}

func TestVerifyAcceptsOnlyTheRightSignature(t *testing.T) {
	id, other := founder(t, "node1"), founder(t, "node1")
	data := []byte("presence of node1")
	signature, err := id.Sign(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(id.PublicKey(), data, signature); err != nil {
		t.Error(err)
	}
	bare := sha256.Sum256(data)
	foreign, err := ecdsa.SignASN1(rand.Reader, id.key, bare[:]) // without the signature domain
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another key":     Verify(other.PublicKey(), data, signature),
		"other data":      Verify(id.PublicKey(), append(data, '!'), signature),
		"no signature":    Verify(id.PublicKey(), data, nil),
		"another domain":  Verify(id.PublicKey(), data, foreign),
		"a malformed key": Verify([]byte("key"), data, signature),
		"no key":          Verify(nil, data, signature),
	} {
		if err == nil {
			t.Errorf("%s: the signature was accepted", name)
		}
	}
}
