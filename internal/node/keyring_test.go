package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/control"
	"palisade/internal/peer"
)

const plainText = "a secret that must not be in a log"

func secretConfig(t *testing.T) Config {
	c := nodeConfig(t)
	c.Account[0].SecretKey = plainText
	return c
}

// signIn sends an API request signed with an access key and returns the HTTP status.
func (n testNode) signIn(t *testing.T, id, secret string) int {
	t.Helper()
	const form = "Action=DescribeRegions&Version=2016-11-15"
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/", strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(form))
	key := aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}
	if err := v4.NewSigner().SignHTTP(t.Context(), key, r, hex.EncodeToString(sum[:]), "ec2", "us-east-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, r)
	return w.Code
}

// found lists the files below dir that contain a text.
func found(t *testing.T, dir, text string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Type()&fs.ModeSocket != 0 {
			return err
		}
		data, err := os.ReadFile(path)
		for _, form := range forms(text) {
			if bytes.Contains(data, form) {
				files = append(files, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// forms returns the forms in which a file may contain a text: as it is, or within base64 data. In
// base64 the text has three possible alignments, and the characters at each end also encode its
// neighbours, so they are left out.
func forms(text string) [][]byte {
	all := [][]byte{[]byte(text)}
	for lead := range 3 {
		coded := base64.StdEncoding.EncodeToString([]byte("xx"[:lead] + text + "xx"))
		all = append(all, []byte(coded[4:len(coded)-8]))
	}
	return all
}

func (n testNode) backup(t *testing.T) []byte {
	t.Helper()
	w := httptest.NewRecorder()
	n.control.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/cluster/snapshot", nil))
	return w.Body.Bytes()
}

// TestLogAndBackupContainNoSecret: the log, a snapshot and a backup contain neither a secret nor the
// cluster key.
func TestLogAndBackupContainNoSecret(t *testing.T) {
	c := secretConfig(t)
	n := newNode(t, c)
	stop := n.start(t)
	if got := n.signIn(t, "AKIDALBERT", plainText); got != 200 {
		t.Fatalf("sign in as albert: status %d, want 200", got)
	}
	answer, err := request[[]control.NewKey](t, n, "POST", "/v1/accounts", control.AccountRequest{Name: "carol"})
	if err != nil {
		t.Fatal(err)
	}
	carol := answer[0]
	if got := n.signIn(t, carol.AccessKey, carol.SecretKey); got != 200 {
		t.Errorf("sign in as carol: status %d, want 200", got)
	}
	if got := n.signIn(t, carol.AccessKey, plainText); got != 401 {
		t.Errorf("sign in as carol with another secret: status %d, want 401", got)
	}
	backup := n.backup(t)
	key, err := os.ReadFile(c.clusterKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	keyText := strings.TrimSpace(strings.TrimPrefix(string(key), "palisade-cluster-key "))
	rawKey, err := hex.DecodeString(keyText)
	if err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	if err := n.cluster.View().WriteSnapshot(&plain); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if len(found(t, c.raftDir(), "AKIDALBERT")) == 0 || !bytes.Contains(backup, []byte(carol.AccessKey)) {
		t.Error("the log or the backup lacks the ids of access keys, so the test checks nothing")
	}
	for _, text := range []string{plainText, carol.SecretKey, keyText, string(rawKey)} {
		if files := found(t, c.raftDir(), text); len(files) > 0 {
			t.Errorf("%q is in %v", text, files)
		}
		for _, form := range forms(text) {
			if bytes.Contains(backup, form) || bytes.Contains(plain.Bytes(), form) {
				t.Errorf("%q is in a snapshot", text)
			}
		}
	}
}

// oldLog writes a log as an earlier release did, with secrets in plain text.
func oldLog(t *testing.T, c Config, publicKey []byte, more ...state.Command) {
	t.Helper()
	bootstrap, err := c.bootstrap(publicKey, "")
	if err != nil {
		t.Fatal(err)
	}
	old, err := cluster.New(cluster.Config{Node: c.Name, Dir: c.raftDir(), Bootstrap: append(bootstrap, more...)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- old.Run(ctx) }()
	<-old.Ready()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if len(found(t, c.raftDir(), plainText)) == 0 {
		t.Fatal("the old log has no secret in plain text, so the test checks nothing")
	}
}

// sealed reports whether albert's secret is sealed with a key that this node has.
func (n testNode) sealed() bool {
	k, ok := n.cluster.View().AccessKey("AKIDALBERT")
	return ok && k.Secret == "" && n.keys.has(n.cluster.View().SealKey())
}

func TestPlainSecretsOfOldLogAreSealed(t *testing.T) {
	c := secretConfig(t)
	oldLog(t, c, nil)
	n := newNode(t, c)
	n.start(t)
	n.wait(t, "sealed secrets", n.sealed)
	if got := n.signIn(t, "AKIDALBERT", plainText); got != 200 {
		t.Errorf("sign in as albert: status %d, want 200", got)
	}
	if bytes.Contains(n.backup(t), []byte(plainText)) {
		t.Error("a backup contains albert's secret in plain text")
	}
}

func (n testNode) wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("no %s after %s", what, patience)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestNodeDoesNotReplaceLostClusterKey: a node whose key file is lost refuses all API requests until
// the file is back.
func TestNodeDoesNotReplaceLostClusterKey(t *testing.T) {
	c := secretConfig(t)
	if err := newNode(t, c).start(t)(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.clusterKeyFile(), c.clusterKeyFile()+".away"); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, c)
	stop := n.start(t)
	if got := n.signIn(t, "AKIDALBERT", plainText); got != 503 {
		t.Errorf("sign in without the key: status %d, want 503", got)
	}
	if _, err := request[[]control.NewKey](t, n, "POST", "/v1/accounts", control.AccountRequest{Name: "carol"}); err == nil || !strings.Contains(err.Error(), "cluster key") {
		t.Errorf("create an account without the key: error %v, want one about the cluster key", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.clusterKeyFile()+".away", c.clusterKeyFile()); err != nil {
		t.Fatalf("the key file cannot be put back: %v", err)
	}
	if err := os.Chmod(c.clusterKeyFile(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := New(c, discard); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("New with a key file that all users can read: error %v, want the advice to run chmod 600", err)
	}
}

func TestRestoreRequiresClusterKey(t *testing.T) {
	c := secretConfig(t)
	n := newNode(t, c)
	stop := n.start(t)
	backup := n.backup(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	m, err := cluster.Inspect(bytes.NewReader(backup))
	if err != nil || !n.keys.has(m.SealKey) || m.PlainSecrets != 0 {
		t.Fatalf("the backup is sealed with key %q and has %d plain secrets, error %v; want the node's key and 0", m.SealKey, m.PlainSecrets, err)
	}

	again := secretConfig(t)
	if _, err := RestoreCluster(again, Restoration{Backup: bytes.NewReader(backup)}); err == nil || !strings.Contains(err.Error(), "--cluster-key") {
		t.Errorf("restore without the key: error %v, want one that names --cluster-key", err)
	}
	other := filepath.Join(t.TempDir(), "other.key")
	if err := os.WriteFile(other, []byte("palisade-cluster-key "+strings.Repeat("00", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := RestoreCluster(again, Restoration{Backup: bytes.NewReader(backup), ClusterKey: other}); err == nil || !strings.Contains(err.Error(), m.SealKey) {
		t.Errorf("restore with another key: error %v, want one that names key %s", err, m.SealKey)
	}
	if _, err := RestoreCluster(again, Restoration{Backup: bytes.NewReader(backup), ClusterKey: c.clusterKeyFile()}); err != nil {
		t.Fatal(err)
	}
	restored := newNode(t, again)
	restored.start(t)
	if got := restored.signIn(t, "AKIDALBERT", plainText); got != 200 {
		t.Errorf("sign in after a restore: status %d, want 200", got)
	}

	without := secretConfig(t)
	if _, err := RestoreCluster(without, Restoration{Backup: bytes.NewReader(backup), WithoutSecrets: true}); err != nil {
		t.Fatal(err)
	}
	bare := newNode(t, without)
	bare.start(t)
	if got := bare.signIn(t, "AKIDALBERT", plainText); got != 401 {
		t.Errorf("sign in with an access key that was dropped: status %d, want 401", got)
	}
	bare.wait(t, "key of its own", func() bool { return bare.cluster.View().SealKey() != "" })
	answer, err := request[control.NewKey](t, bare, "POST", "/v1/accounts/keys", control.KeyRequest{Account: "albert", Do: control.AddKey})
	if err != nil {
		t.Fatal(err)
	}
	if made := answer; bare.signIn(t, made.AccessKey, made.SecretKey) != 200 {
		t.Error("albert's new access key does not work")
	}
}

// freePorts finds a loopback address with three unused ports in a row.
func freePorts(t *testing.T) netip.AddrPort {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		first := l.Addr().(*net.TCPAddr).AddrPort()
		free := first.Port() < 65000
		for i := uint16(1); i < 3 && free; i++ {
			next := netip.AddrPortFrom(first.Addr(), first.Port()+i).String()
			t1, err1 := net.Listen("tcp4", next)
			u1, err2 := net.ListenPacket("udp4", next)
			for _, c := range []io.Closer{t1, u1} {
				if c != nil && err1 == nil && err2 == nil {
					c.Close()
				}
			}
			free = err1 == nil && err2 == nil
		}
		l.Close()
		if free {
			return first
		}
	}
	t.Fatal("no three ports in a row are unused")
	return netip.AddrPort{}
}

// twoNodes runs the first node of a cluster, and makes a second node a member without running it.
func twoNodes(t *testing.T, role ec2.NodeRole) (first, second Config, one testNode, stop func() error) {
	t.Helper()
	first, second = secretConfig(t), secretConfig(t)
	first.Peer.Listen, second.Peer.Listen = freePorts(t), freePorts(t)
	second.Name, second.Zone = "node2", "us-east-1b"
	if _, err := InitCluster(first); err != nil {
		t.Fatal(err)
	}
	one = newNode(t, first)
	stop = one.start(t)
	made, err := request[map[string]string](t, one, "POST", "/v1/cluster/token", control.TokenRequest{Role: role, TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := JoinCluster(t.Context(), second, []string{first.Peer.Listen.String()}, made["token"]); err != nil {
		t.Fatal(err)
	}
	return first, second, one, stop
}

// TestJoiningVoterGetsClusterKey: a voter gets the key when it joins, and again when it starts without
// its key file.
func TestJoiningVoterGetsClusterKey(t *testing.T) {
	_, second, one, _ := twoNodes(t, ec2.Voter)
	if _, err := os.Stat(second.clusterKeyFile()); err != nil {
		t.Fatalf("the joined node has no key: %v", err)
	}
	two := newNode(t, second)
	stop := two.start(t)
	one.wait(t, "second voter", func() bool { return strings.Contains(two.cluster.String(), "node2]") })
	if got := two.signIn(t, "AKIDALBERT", plainText); got != 200 {
		t.Errorf("sign in at the second node: status %d, want 200", got)
	}
	if files := found(t, second.raftDir(), plainText); len(files) > 0 {
		t.Errorf("files %v contain albert's secret in plain text", files)
	}

	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(second.clusterKeyFile()); err != nil {
		t.Fatal(err)
	}
	two = newNode(t, second)
	two.start(t)
	two.wait(t, "key again", func() bool { return two.signIn(t, "AKIDALBERT", plainText) == 200 })
}

// TestOnlyVotersHaveClusterKey: a node without a vote gets no key, deletes one that it has, and gets it with
// a vote.
func TestOnlyVotersHaveClusterKey(t *testing.T) {
	first, second, one, _ := twoNodes(t, ec2.NonVoter)
	if _, err := os.Stat(second.clusterKeyFile()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a node that joined without a vote has a key file: %v", err)
	}
	key, err := os.ReadFile(first.clusterKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(second.clusterKeyFile(), key, 0o600); err != nil { // as an earlier release did
		t.Fatal(err)
	}
	two := newNode(t, second)
	two.start(t)
	gone := func() bool {
		_, err := os.Stat(second.clusterKeyFile())
		return errors.Is(err, fs.ErrNotExist) && len(two.keys.ids()) == 0
	}
	two.wait(t, "end of the key", gone)
	id := one.cluster.View().SealKey()
	body, err := json.Marshal(rotationKeyRequest{ec2.ClusterKey, id})
	if err != nil {
		t.Fatal(err)
	}
	for method, q := range map[string][]byte{methodKey: []byte("{}"), methodRotationKey: body} {
		if _, err := two.peer.Call(t.Context(), "node1", method, q); err == nil || !strings.Contains(err.Error(), "no voter") {
			t.Errorf("%s of a node without a vote: error %v, want a refusal", method, err)
		}
	}
	if got := two.signIn(t, "AKIDALBERT", plainText); got != 200 {
		t.Errorf("sign in at the node without a key: status %d, want 200", got)
	}
	role := func(r ec2.NodeRole) {
		t.Helper()
		if _, _, err := one.cluster.Apply(t.Context(), state.Command{Request: &state.PutNode{Node: ec2.Node{ID: "node2", Zone: second.Zone, Role: r}}}); err != nil {
			t.Fatal(err)
		}
	}
	role(ec2.Voter)
	two.wait(t, "key of a voter", func() bool { return two.keys.has(id) })
	role(ec2.NonVoter)
	two.wait(t, "end of the former voter's key", gone)
}

func TestOldClusterGetsKeyOnceAllNodesRun(t *testing.T) {
	first, second, _, stop := twoNodes(t, ec2.Voter)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	keys := map[string][]byte{}
	for _, c := range []Config{first, second} {
		for _, file := range []string{c.raftDir(), c.clusterKeyFile(), filepath.Join(c.DataDir, "enforced")} {
			if err := os.RemoveAll(file); err != nil {
				t.Fatal(err)
			}
		}
		id, err := peer.Load(c.identityDir())
		if err != nil {
			t.Fatal(err)
		}
		keys[string(c.Name)] = id.PublicKey()
	}
	oldLog(t, first, keys["node1"], state.Command{Request: &state.PutNode{Node: ec2.Node{
		ID: "node2", Zone: second.Zone, Role: ec2.Voter, Address: second.Peer.Listen.String(), PublicKey: keys["node2"],
	}}})

	one := newNode(t, first)
	one.start(t)
	one.wait(t, "key to give", func() bool { return one.keys.key.Load() != nil })
	if got := one.signIn(t, "AKIDALBERT", plainText); got != 200 || one.cluster.View().SealKey() != "" {
		t.Errorf("before the second node runs: sign-in status %d, cluster key %q; want 200 and no key", got, one.cluster.View().SealKey())
	}
	if _, err := request[[]control.NewKey](t, one, "POST", "/v1/accounts", control.AccountRequest{Name: "carol"}); err == nil || !strings.Contains(err.Error(), "every node") {
		t.Errorf("create an account without the key: error %v, want one that says every node must be reachable", err)
	}
	two := newNode(t, second)
	two.start(t)
	one.wait(t, "sealed secrets", func() bool { return one.sealed() && two.sealed() })
	for _, n := range []testNode{one, two} {
		if got := n.signIn(t, "AKIDALBERT", plainText); got != 200 {
			t.Errorf("sign in at %s: status %d, want 200", n.config.Name, got)
		}
	}
}
