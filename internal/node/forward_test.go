package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
	"palisade/internal/node/control"
)

const createWeb = "Action=CreateSecurityGroup&Version=2016-11-15&GroupName=web&GroupDescription=x"

// signed returns an API request of albert, signed with a secret.
func signed(t *testing.T, form, secret string) *http.Request {
	t.Helper()
	return signedBy(t, "AKIDALBERT", form, secret)
}

func signedBy(t testing.TB, accessKey, form, secret string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/", strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(form))
	key := aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secret}
	if err := v4.NewSigner().SignHTTP(t.Context(), key, r, hex.EncodeToString(sum[:]), "ec2", "us-east-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (n testNode) ask(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, r)
	return w
}

// withoutKey runs the second of two nodes, which is no voter, without the cluster key.
func withoutKey(t *testing.T) (one, two testNode) {
	t.Helper()
	_, second, one, _ := twoNodes(t, ec2.NonVoter)
	two = newNode(t, second)
	two.start(t)
	two.keys.key.Store(nil)
	if err := os.RemoveAll(second.clusterKeyFile()); err != nil {
		t.Fatal(err)
	}
	return one, two
}

// TestRequestAtAnotherNodeIsCheckedByTheLeader: a node that has no cluster key passes requests on. The leader
// checks the signature and writes the audit record. The node that received the request enforces the change
// when it answers.
func TestRequestAtAnotherNodeIsCheckedByTheLeader(t *testing.T) {
	one, two := withoutKey(t)
	if got := two.ask(signed(t, createWeb, "wrong")); got.Code != http.StatusUnauthorized {
		t.Errorf("a wrong signature: status %d with %s, want 401", got.Code, got.Body)
	}
	got := two.ask(signed(t, createWeb, plainText))
	if got.Code != http.StatusOK {
		t.Fatalf("create a group: status %d with %s, want 200", got.Code, got.Body)
	}
	if _, ok := two.plane.View().GroupNamed(albert, "us-east-1", "", "web"); !ok {
		t.Error("the node that received the request does not enforce the change when it answers")
	}
	records := slices.Collect(one.cluster.View().AuditRecords())
	last := records[len(records)-1]
	if last.Via != "node2" || last.Account != albert || last.RequestID != got.Header().Get("X-Amzn-Requestid") || last.Source != "192.0.2.1" {
		t.Errorf("the audit record is %+v, want albert's request %s of 192.0.2.1, passed on by node2", last, got.Header().Get("X-Amzn-Requestid"))
	}
	for _, stale := range []string{"", "stale"} {
		r := signed(t, "Action=DescribeSecurityGroups&Version=2016-11-15", plainText)
		r.Header.Set(query.ReadHeader, stale)
		if got := two.ask(r); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "<groupName>web</groupName>") {
			t.Errorf("read %q: status %d with %s, want the group", stale, got.Code, got.Body)
		}
	}
}

// TestNodePassesOnOnlyItsOwnRequests: of what another node says about a request, only the client's address
// is used.
func TestNodePassesOnOnlyItsOwnRequests(t *testing.T) {
	one, two := withoutKey(t)
	pass := func(q *query.Received) (*query.Reply, error) {
		body, err := packMessage(q, q.Body)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := two.peer.Call(t.Context(), "node1", methodAPI, body)
		if err != nil {
			return nil, err
		}
		return unpackReply(answer)
	}
	r := signed(t, createWeb, plainText)
	q := &query.Received{Method: r.Method, Host: r.Host, Header: r.Header, Source: "no address", Body: []byte(strings.ReplaceAll(createWeb, "web", "db"))}
	if reply, err := pass(q); err != nil || reply.Status != http.StatusUnauthorized {
		t.Errorf("a changed body: %+v, error %v; want status 401", reply, err)
	}
	q.Body = bytes.Repeat([]byte("a"), 2<<20)
	if reply, err := pass(q); err == nil {
		t.Errorf("a body of 2 MiB: status %d, want an error", reply.Status)
	}
	q.Body, q.Method = []byte(createWeb), http.MethodDelete
	if reply, err := pass(q); err != nil || reply.Status == http.StatusOK {
		t.Errorf("another method: %+v, error %v; want a refusal", reply, err)
	}
	if _, ok := one.cluster.View().GroupNamed(albert, "us-east-1", "", "web"); ok {
		t.Error("a refused request created the group")
	}
}

func TestMessagesAreBounded(t *testing.T) {
	large := bytes.Repeat([]byte("x"), packFrom)
	packed, err := packMessage(struct{}{}, large)
	if err != nil || len(packed) > 10_000 {
		t.Fatalf("%d bytes, error %v; want a compressed message", len(packed), err)
	}
	if got, err := unpackMessage(packed, &struct{}{}, len(large)); err != nil || !bytes.Equal(got, large) {
		t.Errorf("unpacked %d bytes, error %v; want the message", len(got), err)
	}
	for what, data := range map[string][]byte{
		"no message": nil, "too large a body": packed, "only a length": {0, 0, 0, 1}, "a head that is not complete": {0, 0, 1, 0, '{', '}', 0},
		"a head that is no JSON": {0, 0, 0, 1, '{', 0}, "a body that is not compressed": {0, 0, 0, 2, '{', '}', 1, 'x'},
	} {
		if _, err := unpackMessage(data, &struct{}{}, len(large)-1); err == nil {
			t.Errorf("%s was unpacked", what)
		}
	}
}

// TestForwardedRequestEndsWithItsClient: a request that waits for a leader ends when its client goes.
func TestForwardedRequestEndsWithItsClient(t *testing.T) {
	_, two := withoutKey(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := two.ask(signed(t, createWeb, plainText).WithContext(ctx)); got.Code == http.StatusOK {
		t.Error("the request of a client that is gone was answered")
	}
}

func TestFencedNodePassesNothingOn(t *testing.T) {
	one, two := withoutKey(t)
	if _, err := request[control.NodeChange](t, one, "POST", "/v1/cluster/fence", control.NodeRequest{Node: "node2"}); err != nil {
		t.Fatal(err)
	}
	r := signed(t, createWeb, plainText)
	body, err := packMessage(&query.Received{Method: r.Method, Host: r.Host, Header: r.Header}, []byte(createWeb))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.peer.Call(t.Context(), "node1", methodAPI, body); err == nil {
		t.Error("a fenced node passed a request on")
	}
	if _, err := one.passedOn(t.Context(), "node2", body); err == nil {
		t.Error("the handler took a request of a fenced node, whose connection was still open")
	}
	if _, ok := one.cluster.View().GroupNamed(albert, "us-east-1", "", "web"); ok {
		t.Error("the request of a fenced node created the group")
	}
}

// TestOnlyTheLeaderMakesCommands: the API's backend of a node that does not lead hands nothing in.
func TestOnlyTheLeaderMakesCommands(t *testing.T) {
	_, two := withoutKey(t)
	cmd := state.Command{Request: &state.CreateSecurityGroup{Account: albert, Region: "us-east-1", Name: "web", Description: "x"}}
	if _, _, err := (backend{two.Node}).Apply(t.Context(), cmd); !errors.Is(err, query.ErrElsewhere) {
		t.Errorf("apply at node2: error %v, want ErrElsewhere", err)
	}
}
