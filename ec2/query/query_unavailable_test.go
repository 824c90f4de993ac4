package query_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"golang.org/x/crypto/ssh"

	"palisade/cluster"
	"palisade/ec2/query"
	"palisade/ec2/state"
)

// A noLeader is the error of a Backend without a leader.
type noLeader struct{ text string }

func (e noLeader) Error() string       { return "no leader" }
func (e noLeader) Unavailable() string { return e.text }

// failures has the errors that the next calls of a failingBackend return.
type failures struct {
	sync.Mutex
	apply, read []error
}

func (f *failures) next(list *[]error) error {
	f.Lock()
	defer f.Unlock()
	if len(*list) == 0 {
		return nil
	}
	err := (*list)[0]
	*list = (*list)[1:]
	return err
}

// A failingBackend is a cluster whose calls return errors chosen by the test.
type failingBackend struct {
	cluster  *cluster.Cluster
	failures *failures
}

func (l failingBackend) Apply(ctx context.Context, cmd state.Command) (state.Result, uint64, error) {
	if err := l.failures.next(&l.failures.apply); err != nil {
		return state.Result{}, 0, err
	}
	return l.cluster.Apply(ctx, cmd)
}

func (l failingBackend) ReadView(ctx context.Context) (*state.View, error) {
	if err := l.failures.next(&l.failures.read); err != nil {
		return nil, err
	}
	return l.cluster.ReadView(ctx)
}

func (l failingBackend) View() *state.View { return l.cluster.View() }

func newFailingWorld(t *testing.T) (*world, *failures) {
	f := new(failures)
	return newWorldBehind(t, func(c *cluster.Cluster) query.Backend { return failingBackend{c, f} }), f
}

func TestRequestWithoutLeaderIsUnavailable(t *testing.T) {
	w, f := newFailingWorld(t)
	const cutOff = "this node knows no leader: it reaches 1 of 3 voters (node1)"
	const lost = "the leader was lost while it decided: the change may or may not take effect"
	wrapped := fmt.Errorf("apply: %w", noLeader{cutOff})
	create := &sdk.CreateSecurityGroupInput{GroupName: aws.String("web"), Description: aws.String("x")}

	f.read = []error{wrapped}
	_, err := w.as("albert").DescribeInstances(t.Context(), nil)
	wantCode(t, "read without a leader", err, "Unavailable", cutOff)
	f.apply = []error{wrapped}
	_, err = w.as("albert").CreateSecurityGroup(t.Context(), create)
	wantCode(t, "write without a leader", err, "Unavailable", cutOff)
	f.apply = []error{noLeader{lost}}
	_, err = w.as("albert").CreateSecurityGroup(t.Context(), create)
	wantCode(t, "write, leader lost", err, "Unavailable", lost)
	f.apply = []error{noLeader{cutOff}}
	if status, code := answer(t, w.post(t, "Action=CreateSecurityGroup&GroupName=a&GroupDescription=x&Version=2016-11-15", nil)); status != 503 || code != "Unavailable" {
		t.Errorf("a change without a leader: got %d %s, want 503 Unavailable", status, code)
	}
	f.read = []error{errors.New("disk full: /var/lib")} // the caller must not see this
	_, err = w.as("albert").DescribeInstances(t.Context(), nil)
	wantCode(t, "any other error", err, "InternalError", "An internal error has occurred")

	// An SDK retries by itself, and succeeds when there is a leader.
	f.apply = []error{wrapped, wrapped}
	_, err = w.as("albert").CreateSecurityGroup(t.Context(), create, func(o *sdk.Options) {
		o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.Backoff = retry.NewExponentialJitterBackoff(1) })
	})
	if err != nil || len(f.apply) != 0 {
		t.Errorf("an SDK that tries again got %v with %d failures left, want success and 0", err, len(f.apply))
	}
}

// The answer to a change comes from the state of the node that got the request. If that
// node asked the leader again, an error could make the caller repeat a change that was
// already made.
func TestAnswerToChangeDoesNotAskLeader(t *testing.T) {
	w, f := newFailingWorld(t)
	api := w.as("albert")
	f.read = []error{nil, noLeader{"no leader"}}
	made := ok[*sdk.RunInstancesOutput](t)(api.RunInstances(t.Context(), &sdk.RunInstancesInput{ImageId: aws.String("ami-eca54085"), MinCount: aws.Int32(2), MaxCount: aws.Int32(2)}))
	if len(made.Instances) != 2 || *made.Instances[0].Placement.AvailabilityZone != "us-east-1a" {
		t.Fatalf("launched %+v, want two instances in us-east-1a", made.Instances)
	}
	for _, i := range made.Instances { // not in the state before the launch
		if len(i.SecurityGroups) != 1 || *i.SecurityGroups[0].GroupName != "default" || aws.ToString(i.PrivateIpAddress) == "" {
			t.Errorf("instance %s has the groups %+v and the address %q, want the group default and an address", *i.InstanceId, i.SecurityGroups, aws.ToString(i.PrivateIpAddress))
		}
	}
	if len(f.read) != 1 {
		t.Errorf("the leader was asked for its state %d times, want once", 2-len(f.read))
	}
}

// publicKeyParam returns a new public key as a parameter of ImportKeyPair.
func publicKeyParam(t *testing.T) string {
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return url.QueryEscape(base64.StdEncoding.EncodeToString(ssh.MarshalAuthorizedKey(key)))
}

func stale(r *http.Request) { r.Header.Set(query.ReadHeader, "stale") }

// The answer to a stale read has the index of the state that it shows. Only actions
// that read accept the header.
func TestStaleReadNeedsNoLeader(t *testing.T) {
	w, f := newFailingWorld(t)
	const describe = "Action=DescribeSecurityGroups&Version=2016-11-15"
	f.read = []error{noLeader{"cut off"}, noLeader{"cut off"}}
	if status, code := answer(t, w.post(t, describe, nil)); status != 503 || code != "Unavailable" {
		t.Fatalf("a normal read: got %d %s, want 503 Unavailable", status, code)
	}
	res := w.post(t, describe, stale)
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	index, err := strconv.ParseUint(res.Header.Get(query.IndexHeader), 10, 64)
	if res.StatusCode != 200 || err != nil || index == 0 || !strings.Contains(string(body), "<groupName>default</groupName>") {
		t.Errorf("a stale read: got status %d, index %d (%v), want 200, an index and the group default: %s", res.StatusCode, index, err, body)
	}
	if len(f.read) != 1 {
		t.Errorf("a stale read asked the leader")
	}
	create := "Action=CreateSecurityGroup&GroupName=a&GroupDescription=x&Version=2016-11-15"
	if _, code := answer(t, w.post(t, create, stale)); code != "InvalidParameterCombination" {
		t.Errorf("a stale change: got %s, want InvalidParameterCombination", code)
	}
	if _, code := answer(t, w.post(t, describe, func(r *http.Request) { r.Header.Set(query.ReadHeader, "old") })); code != "InvalidParameterValue" {
		t.Errorf("an unknown value of the header: got %s, want InvalidParameterValue", code)
	}
}
