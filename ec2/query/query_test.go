package query_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
)

const (
	albert = "598916040194"
	mary   = "495219933132"
	dev    = "123456789012"
	region = "us-east-1"
)

// A world is a cluster of one voter and an HTTP server with the API.
type world struct {
	cluster *cluster.Cluster
	url     string

	mu      sync.Mutex
	refused []ec2.AuditRecord // calls that were refused
	counted map[string]int    // calls of unknown callers, by error code
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldWith(t, ec2.Settings{}, func(c *cluster.Cluster) query.Backend { return c })
}

// newWorldBehind returns a world. Its API has the Backend that the function backend makes
// of the cluster.
func newWorldBehind(t testing.TB, backend func(*cluster.Cluster) query.Backend) *world {
	t.Helper()
	return newWorldWith(t, ec2.Settings{}, backend)
}

func newWorldWith(t testing.TB, settings ec2.Settings, backend func(*cluster.Cluster) query.Backend) *world {
	t.Helper()
	return newWorldConfigured(t, settings, func(c *query.Config, cl *cluster.Cluster) { c.Backend = backend(cl) })
}

// newWorldConfigured returns a world whose API has the Config that configure changes.
func newWorldConfigured(t testing.TB, settings ec2.Settings, configure func(*query.Config, *cluster.Cluster)) *world {
	t.Helper()
	account := func(id ec2.AccountID, name string, platform ec2.Platform) state.Command {
		return state.Command{Request: &state.CreateAccount{ID: id, Name: name, Platform: platform, AccessKey: "AKID" + strings.ToUpper(name), Secret: "secret of " + name}}
	}
	c, err := cluster.New(cluster.Config{
		Node: "node1",
		Dir:  t.TempDir(),
		Bootstrap: []state.Command{
			{Request: &state.Bootstrap{Seed: "a seed of the API's tests", Settings: settings}},
			{Request: &state.PutNode{Node: ec2.Node{ID: "node1", Zone: "us-east-1a"}}},
			{Request: &state.PutNetwork{Network: ec2.Network{
				VNI:         1,
				Region:      region,
				Prefix:      netip.MustParsePrefix("10.0.0.0/8"),
				Pools:       []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")},
				PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
			}}},
			account(albert, "albert", ec2.Classic),
			account(mary, "mary", ec2.Classic),
			account(dev, "dev", ec2.VPCOnly),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- c.Run(ctx) }()
	select {
	case <-c.Ready():
	case err := <-stopped:
		t.Fatalf("the cluster stopped with %v", err)
	}
	w := &world{cluster: c, counted: map[string]int{}}
	config := query.Config{Backend: c, Refused: w.refuse}
	configure(&config, c)
	api, err := query.New(config)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api)
	t.Cleanup(func() {
		server.Close()
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("the cluster stopped with %v", err)
		}
	})
	w.url = server.URL
	return w
}

func (w *world) refuse(account ec2.AccountID, call *ec2.Audit, e *ec2.Error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if call == nil {
		w.counted[string(account)+" "+e.Code]++
		return
	}
	w.refused = append(w.refused, ec2.AuditRecord{Audit: *call, Time: time.Now(), Error: e.Code, Message: e.Message})
}

// The method as returns an SDK client of the named account.
func (w *world) as(name string) *sdk.Client {
	return sdk.New(sdk.Options{
		BaseEndpoint: &w.url,
		Region:       region,
		Credentials:  credentials.NewStaticCredentialsProvider("AKID"+strings.ToUpper(name), "secret of "+name, ""),
		Retryer:      aws.NopRetryer{},
		HTTPClient:   &http.Client{Transport: wholeBodies{}},
	})
}

// wholeBodies sends each request with a body of its own. The SDK closes its body as soon as the answer
// begins; if the transport has not seen the end of the body by then, it takes the request for broken and
// closes the connection, in the middle of an answer of more than some kilobytes.
type wholeBodies struct{}

func (wholeBodies) RoundTrip(r *http.Request) (*http.Response, error) {
	own := r.Clone(r.Context())
	if r.Body != nil {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		own.Body = io.NopCloser(bytes.NewReader(data))
	}
	return http.DefaultTransport.RoundTrip(own)
}

// accessKey returns the access key of the named account.
func accessKey(account string) aws.Credentials {
	return aws.Credentials{AccessKeyID: "AKID" + strings.ToUpper(account), SecretAccessKey: "secret of " + strings.ToLower(account)}
}

// sign signs a request with the key of an account, for a service and the test's region.
func sign(t testing.TB, r *http.Request, body, account, service string, at time.Time) {
	t.Helper()
	signIn(t, r, body, account, service, region, at)
}

func signIn(t testing.TB, r *http.Request, body, account, service, region string, at time.Time) {
	t.Helper()
	r.Header.Set("Amz-Sdk-Invocation-Id", rand.Text()) // as the SDKs do, so that two equal requests have two signatures
	if err := v4.NewSigner().SignHTTP(t.Context(), accessKey(account), r, hashOf(body), service, region, at); err != nil {
		t.Fatal(err)
	}
}

func hashOf(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

// report acts as node1: it reports that each of its instances has reached the state that it
// is changing to, and that each of its draining interfaces is gone.
func (w *world) report(t *testing.T) {
	t.Helper()
	apply := func(r state.Request) {
		if _, _, err := w.cluster.Apply(t.Context(), state.Command{Request: r}); err != nil {
			t.Fatal(err)
		}
	}
	view := w.cluster.View()
	for i := range view.Instances() {
		eni, ok := view.Interface(i.Interface)
		if !ok || eni.Node != "node1" {
			continue
		}
		reached := ec2.Running
		switch i.State {
		case ec2.Stopping:
			reached = ec2.Stopped
		case ec2.ShuttingDown:
			reached = ec2.Terminated
		}
		apply(&state.ReportInstance{Instance: i.ID, InterfaceEpoch: eni.Epoch, State: reached})
	}
	for eni := range view.Interfaces() {
		if eni.State == ec2.Draining && eni.Node == "node1" {
			apply(&state.ReportInterface{Interface: eni.ID, Epoch: eni.Epoch})
		}
	}
}

func wantCode(t *testing.T, what string, err error, code, message string) {
	t.Helper()
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Errorf("%s: got error %v, want %s", what, err, code)
		return
	}
	if e.ErrorCode() != code || message != "" && e.ErrorMessage() != message {
		t.Errorf("%s:\n got %s: %s\nwant %s: %s", what, e.ErrorCode(), e.ErrorMessage(), code, message)
	}
}

func ok[T any](t *testing.T) func(T, error) T {
	return func(answer T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
}

func TestAnswerHasIndexHeaderAndNamespace(t *testing.T) {
	w := newWorld(t)
	form := "Action=CreateSecurityGroup&Version=2012-05-01&GroupName=a&GroupDescription=b"
	res := w.post(t, form, nil)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK || res.Header.Get(query.IndexHeader) == "" || res.Header.Get("X-Amzn-Requestid") == "" {
		t.Errorf("got status %d and headers %v, want 200, an index and a request id", res.StatusCode, res.Header)
	}
	if want := `<CreateSecurityGroupResponse xmlns="http://ec2.amazonaws.com/doc/2012-05-01/"><requestId>`; !strings.Contains(string(body), want) {
		t.Errorf("answer %s\nlacks %s", body, want)
	}
	if !strings.Contains(string(body), "<tagSet/>") {
		t.Errorf("answer %s\nlacks the empty list <tagSet/>", body)
	}
}
