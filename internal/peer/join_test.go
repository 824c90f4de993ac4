package peer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type admission = func(context.Context, JoinRequest) (JoinAnswer, error)

// admitter starts a node that judges requests to join with admit. It returns the node and a token
// of its cluster.
func admitter(t *testing.T, id *Identity, d *table, admit admission) (*Peer, Token) {
	t.Helper()
	p := prepare(t, id, d)
	p.HandleJoin(admit)
	run(t, p)
	token, err := NewToken(id.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	return p, token
}

func joinConfig(t *testing.T, token Token, contacts ...string) JoinConfig {
	return JoinConfig{
		Dir: filepath.Join(t.TempDir(), "peer"), Node: "node2", Zone: "zone-a",
		Address: netip.MustParseAddrPort("192.0.2.12:7400"), Contacts: contacts, Token: token.String(), Patience: patience,
	}
}

func TestJoinedNodeIsAdmitted(t *testing.T) {
	for _, role := range []string{"voter", "nonvoter", ""} {
		t.Run(role, func(t *testing.T) {
			d := newTable()
			one := founder(t, "node1")
			members := []Member{{Node: "node1", Address: "192.0.2.11:7400", PublicKey: one.PublicKey()}}
			asked := make(chan JoinRequest, 10)
			server, token := admitter(t, one, d, func(_ context.Context, r JoinRequest) (JoinAnswer, error) {
				asked <- r
				return JoinAnswer{Role: role, Members: members}, nil
			})
			c := joinConfig(t, token, server.Addr().String())
			joined, err := Join(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			r := <-asked
			if r.Token != token.ID || r.SecretHash != token.SecretHash() || r.Node != "node2" || r.Zone != "zone-a" ||
				r.Address != c.Address || !bytes.Equal(r.PublicKey, joined.PublicKey()) {
				t.Errorf("the callback got %+v; want token %s, node2, zone-a, address %s and the joined node's key", r, token.ID, c.Address)
			}
			id, err := Load(c.Dir)
			if err != nil {
				t.Fatal(err)
			}
			if id.Node() != "node2" || id.Cluster() != one.Cluster() || !bytes.Equal(id.PublicKey(), joined.PublicKey()) {
				t.Errorf("the saved identity is %s of cluster %s; want node2 of cluster %s, with the key that Join returned", id.Node(), id.Cluster(), one.Cluster())
			}
			if id.HasAuthority() != (role == "voter") {
				t.Errorf("role %q: HasAuthority is %t, want %t", role, id.HasAuthority(), role == "voter")
			}
			for _, name := range []string{nodeKeyFile, authorityFile} {
				if info, err := os.Stat(filepath.Join(c.Dir, name)); err == nil && info.Mode().Perm() != 0o600 {
					t.Errorf("mode of %s is %04o, want 0600", name, info.Mode().Perm())
				}
			}
			if got := id.Members(); len(got) != 1 || got[0].Node != "node1" || got[0].Address != members[0].Address || !bytes.Equal(got[0].PublicKey, one.PublicKey()) {
				t.Errorf("Members returned %v, want %v", got, members)
			}

			// The certificate alone does not admit the node: the directory must have the node too.
			two, err := New(Config{Identity: id, Listen: loopback, Nodes: d})
			if err != nil {
				t.Fatal(err)
			}
			defer two.Close()
			if c, err := two.Dial(t.Context(), "node1", ProtocolRPC); err == nil {
				c.Close()
				t.Error("a node that the directory does not know was admitted")
			}
			d.add(id, two.Addr())
			conn, err := two.Dial(t.Context(), "node1", ProtocolRPC)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if _, err := Join(t.Context(), c); err == nil {
				t.Error("a second Join with the same directory succeeded")
			}
		})
	}
}

// A joined voter has the authority's key, so it can admit a third node.
func TestJoinedVoterCanAdmit(t *testing.T) {
	d := newTable()
	admit := func(context.Context, JoinRequest) (JoinAnswer, error) { return JoinAnswer{Role: "voter"}, nil }
	one, token := admitter(t, founder(t, "node1"), d, admit)
	two, err := Join(t.Context(), joinConfig(t, token, one.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	second, token := admitter(t, two, d, admit)
	c := joinConfig(t, token, second.Addr().String())
	c.Node = "node3"
	three, err := Join(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checkChain(three.cert(), one.id.authority().root, x509.ExtKeyUsageClientAuth); err != nil {
		t.Errorf("the certificate that the second node signed for the third: %v", err)
	}
}

func TestJoinReturnsTheRefusal(t *testing.T) {
	var asked atomic.Int32
	server, token := admitter(t, founder(t, "node1"), newTable(), func(context.Context, JoinRequest) (JoinAnswer, error) {
		asked.Add(1)
		return JoinAnswer{}, &RemoteError{Code: "TokenExpired", Text: "the token expired 5 minutes ago"}
	})
	c := joinConfig(t, token, server.Addr().String())
	_, err := Join(t.Context(), c)
	remote, ok := errors.AsType[*RemoteError](err)
	if !ok || remote.Code != "TokenExpired" || remote.Text != "the token expired 5 minutes ago" {
		t.Errorf("got %v; want code TokenExpired with the callback's text", err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the callback was asked %d times, want once, because the refusal is final", n)
	}
	if _, err := Load(c.Dir); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("load after the refusal: got %v; want ErrNoIdentity", err)
	}
}

func TestJoinTriesTheNextContactWithoutAuthority(t *testing.T) {
	d := newTable()
	one := founder(t, "node1")
	admit := func(context.Context, JoinRequest) (JoinAnswer, error) { return JoinAnswer{Role: "nonvoter"}, nil }
	edge, _ := admitter(t, member(t, one, "edge"), d, func(context.Context, JoinRequest) (JoinAnswer, error) {
		t.Error("the callback of a node without the authority's key was called")
		return JoinAnswer{}, nil
	})
	voter, token := admitter(t, one, d, admit)
	_, err := Join(t.Context(), joinConfig(t, token, edge.Addr().String()))
	if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Code != CodeNoAuthority {
		t.Errorf("the only contact has no authority's key: got %v; want code %s", err, CodeNoAuthority)
	}
	// Now the second contact is a voter.
	if _, err := Join(t.Context(), joinConfig(t, token, edge.Addr().String(), voter.Addr().String())); err != nil {
		t.Errorf("join with a voter as second contact: %v", err)
	}
}

// One contact is down, and the other has no leader at first. Join asks again with the same key, so
// that the cluster recognizes a request whose answer was lost.
func TestJoinRetriesWithTheSameKey(t *testing.T) {
	var keys [][]byte
	server, token := admitter(t, founder(t, "node1"), newTable(), func(_ context.Context, r JoinRequest) (JoinAnswer, error) {
		keys = append(keys, r.PublicKey)
		if len(keys) < 3 {
			return JoinAnswer{}, fmt.Errorf("no leader: %w", ErrUnavailable)
		}
		return JoinAnswer{Role: "voter"}, nil
	})
	down, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down.Close()
	c := joinConfig(t, token, down.Addr().String(), server.Addr().String())
	c.Patience = 100 * time.Millisecond // the first Join gives up
	if _, err := Join(t.Context(), c); err == nil {
		t.Fatal("joined without a leader")
	}
	c.Patience = patience
	id, err := Join(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if !bytes.Equal(key, id.PublicKey()) {
			t.Error("the node asked again with another key")
		}
	}
}

// An attacker between the node and the cluster may have all certificates of the cluster, but none
// of the keys.
func TestJoinTellsTheSecretOnlyToTheCluster(t *testing.T) {
	one, other := founder(t, "node1"), founder(t, "node1")
	token, err := NewToken(one.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	mixed := other.Certificate()
	mixed.Certificate[1] = one.authority().root.Raw
	client, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "node1"}, URIs: one.cert().URIs,
		NotBefore: notBefore, NotAfter: one.cert().NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, one.authority().root, one.key.Public(), one.authority().key)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cert      tls.Certificate
		protocols []string
		version   uint16
		received  bool
	}{
		"the cluster":                {one.Certificate(), []string{ProtocolJoin}, tls.VersionTLS13, true},
		"another cluster":            {other.Certificate(), []string{ProtocolJoin}, tls.VersionTLS13, false},
		"the root beside another's":  {mixed, []string{ProtocolJoin}, tls.VersionTLS13, false},
		"no root":                    {tls.Certificate{Certificate: [][]byte{one.cert().Raw}, PrivateKey: one.key}, []string{ProtocolJoin}, tls.VersionTLS13, false},
		"a certificate for a client": {tls.Certificate{Certificate: [][]byte{client, one.authority().root.Raw}, PrivateKey: one.key}, []string{ProtocolJoin}, tls.VersionTLS13, false},
		"no protocol":                {one.Certificate(), nil, tls.VersionTLS13, false},
		"TLS 1.2":                    {one.Certificate(), []string{ProtocolJoin}, tls.VersionTLS12, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			received := make(chan []byte, 1)
			go func() {
				raw, err := l.Accept()
				l.Close() // accept only one connection
				if err != nil {
					return
				}
				defer raw.Close()
				c := tls.Server(raw, &tls.Config{MaxVersion: test.version, Certificates: []tls.Certificate{test.cert}, NextProtos: test.protocols})
				c.SetDeadline(time.Now().Add(patience))
				b := make([]byte, 1<<16)
				n, _ := c.Read(b)
				received <- b[:n]
			}()
			c := joinConfig(t, token, l.Addr().String())
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			joined := make(chan error, 1)
			go func() {
				_, err := Join(ctx, c)
				joined <- err
			}()
			b := <-received
			cancel() // ends Join, because the server sends no answer
			if err := <-joined; err == nil {
				t.Error("Join succeeded without an answer")
			}
			if (len(b) > 0) != test.received {
				t.Errorf("the server received %d bytes of the request, want some: %t", len(b), test.received)
			}
		})
	}
}

// The answer's root must be the token's root, and its certificate and keys must belong to it.
func TestJoinRefusesAnswersOfAnotherCluster(t *testing.T) {
	one, other := founder(t, "node1"), founder(t, "node1")
	token, err := NewToken(one.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	key, _ := newKey()
	certify := func(a authority, node string, of *ecdsa.PrivateKey) []byte {
		cert, err := a.certify(node, address, of.Public())
		if err != nil {
			t.Fatal(err)
		}
		return encodeCertificate(cert)
	}
	otherKey, _ := encodeKey(other.authority().key)
	good := certify(one.authority(), "node2", key)
	for name, test := range map[string]struct {
		result joinResult
		valid  bool
	}{
		"good":                {joinResult{Certificate: good, Root: one.RootPEM()}, true},
		"another root":        {joinResult{Certificate: certify(other.authority(), "node2", key), Root: other.RootPEM()}, false},
		"another signer":      {joinResult{Certificate: certify(other.authority(), "node2", key), Root: one.RootPEM()}, false},
		"another name":        {joinResult{Certificate: certify(one.authority(), "node3", key), Root: one.RootPEM()}, false},
		"another key":         {joinResult{Certificate: certify(one.authority(), "node2", one.key), Root: one.RootPEM()}, false},
		"another's authority": {joinResult{Certificate: good, Root: one.RootPEM(), Authority: otherKey}, false},
		"nothing":             {joinResult{}, false},
	} {
		if _, err := test.result.identity("node2", key, token); (err == nil) != test.valid {
			t.Errorf("%s: got error %v; want a valid answer: %t", name, err, test.valid)
		}
	}
}

func TestJoinJudgesAtMostEightAtOnce(t *testing.T) {
	var now, most atomic.Int32
	full, release := make(chan struct{}), make(chan struct{})
	reached := sync.OnceFunc(func() { close(full) })
	server, token := admitter(t, founder(t, "node1"), newTable(), func(ctx context.Context, r JoinRequest) (JoinAnswer, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if n == maxJoining {
			reached()
		}
		<-release
		return JoinAnswer{Role: "nonvoter"}, nil
	})
	var wg sync.WaitGroup
	for i := range 2 * maxJoining {
		c := joinConfig(t, token, server.Addr().String())
		c.Node = fmt.Sprintf("node%d", i+2)
		wg.Go(func() {
			if _, err := Join(t.Context(), c); err != nil {
				t.Error(err)
			}
		})
	}
	select {
	case <-full:
	case <-time.After(patience):
		t.Errorf("after %s, eight requests are not yet judged at the same time", patience)
	}
	// Eight other requests wait, and their connections are in pending.
	late := time.After(patience)
	for arrived := 0; arrived < maxJoining && most.Load() <= maxJoining; {
		server.pending.Lock()
		arrived = server.pending.order.Len()
		server.pending.Unlock()
		select {
		case <-late:
			t.Fatalf("%d connections are pending; want %d, one for each request that waits", arrived, maxJoining)
		case <-time.After(time.Millisecond):
		}
	}
	close(release)
	wg.Wait()
	if n := most.Load(); n != maxJoining {
		t.Errorf("%d requests were judged at the same time; want %d", n, maxJoining)
	}
}

// The test sends requests that Join never sends.
func TestJoinRefusesLargeAndMalformedRequests(t *testing.T) {
	one := founder(t, "node1")
	server, token := admitter(t, one, newTable(), func(context.Context, JoinRequest) (JoinAnswer, error) {
		t.Error("the callback got a malformed request")
		return JoinAnswer{}, errors.New("no")
	})
	post := func(path string, body []byte) int {
		transport := &http.Transport{DialContext: func(ctx context.Context, _, a string) (net.Conn, error) {
			return (&tls.Dialer{Config: joinClientConfig(token)}).DialContext(ctx, "tcp", a)
		}, DisableKeepAlives: true}
		request, err := http.NewRequest(http.MethodPost, "http://"+server.Addr().String()+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		io.Copy(io.Discard, response.Body)
		return response.StatusCode
	}
	for _, test := range []struct {
		name, path string
		body       []byte
		want       int
	}{
		{"too long", joinPath, bytes.Repeat([]byte(" "), maxJoinBody+1), http.StatusRequestEntityTooLarge},
		{"nothing", joinPath, nil, http.StatusBadRequest},
		{"a call", rpcPath + "apply", []byte("{}"), http.StatusNotFound},
	} {
		if got := post(test.path, test.body); got != test.want {
			t.Errorf("%s: status %d; want %d", test.name, got, test.want)
		}
	}
}

// requestToJoin returns the JSON of a valid joinBody after change has edited it.
func requestToJoin(t testing.TB, change func(b *joinBody)) []byte {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	c := JoinConfig{Node: "node2", Zone: "zone-a", Address: address}
	data, err := c.body(Token{ID: "0011223344556677"}, key)
	if err != nil {
		t.Fatal(err)
	}
	var b joinBody
	if err := json.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	change(&b)
	data, err = json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDecodeJoinRefusesInvalidRequests(t *testing.T) {
	for name, test := range map[string]struct {
		change func(b *joinBody)
		valid  bool
	}{
		"good":             {func(b *joinBody) {}, true},
		"no token":         {func(b *joinBody) { b.Token = "" }, false},
		"token not hex":    {func(b *joinBody) { b.Token = "zz11223344556677" }, false},
		"short secret":     {func(b *joinBody) { b.Secret = b.Secret[:8] }, false},
		"bad name":         {func(b *joinBody) { b.Node = "../node2" }, false},
		"another's name":   {func(b *joinBody) { b.Node = "node1" }, false},
		"bad address":      {func(b *joinBody) { b.Address = "192.0.2.12" }, false},
		"any address":      {func(b *joinBody) { b.Address = "0.0.0.0:7400" }, false},
		"long zone":        {func(b *joinBody) { b.Zone = string(make([]byte, 65)) }, false},
		"no request":       {func(b *joinBody) { b.Request = nil }, false},
		"forged request":   {func(b *joinBody) { b.Request[len(b.Request)-1] ^= 1 }, false},
		"trailing request": {func(b *joinBody) { b.Request = append(b.Request, 0) }, false},
	} {
		request, key, err := decodeJoin(requestToJoin(t, test.change))
		if (err == nil) != test.valid {
			t.Errorf("%s: got request %+v, error %v; want a valid request: %t", name, request, err, test.valid)
		}
		if (key != nil) != test.valid {
			t.Errorf("%s: decodeJoin returned a key: %t, want %t", name, key != nil, test.valid)
		}
	}
}

func FuzzDecodeJoin(f *testing.F) {
	f.Add(requestToJoin(f, func(*joinBody) {}))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"token":"0011223344556677","secret":"AAAA"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, key, err := decodeJoin(data)
		if err != nil {
			return
		}
		public, err := x509.MarshalPKIXPublicKey(key)
		if err != nil || !slices.Equal(public, r.PublicKey) || checkName(r.Node) != nil || checkAddress(r.Address) != nil || len(r.SecretHash) != 64 {
			t.Fatalf("decodeJoin accepted an invalid request or returned another key: request %+v, key error %v", r, err)
		}
	})
}
