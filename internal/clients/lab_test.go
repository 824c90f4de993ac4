package clients

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// TestMain lets all clients run in parallel, because they mostly wait.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", "12")
	os.Exit(m.Run())
}

// newAccount creates an account with its own default VPC, so that tests in one lab do not share
// groups and limits.
func newAccount(t *testing.T, l *labtest.Lab, name string) lab.Account {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), l.Palisade, "account", "create", "--lab", l.Name, "--name", name, "--json").Output()
	if err != nil {
		t.Fatalf("palisade account create: %v\n%s", err, out)
	}
	var made []struct {
		Account   string `json:"account"`
		AccessKey string `json:"access_key"`
		SecretKey string `json:"secret_key"`
	}
	if err := json.Unmarshal(out, &made); err != nil || len(made) != 1 {
		t.Fatalf("palisade account create printed %d accounts, want 1 (error %v):\n%s", len(made), err, out)
	}
	return lab.Account{Name: name, ID: made[0].Account, Platform: "vpc", AccessKey: made[0].AccessKey, SecretKey: made[0].SecretKey}
}

// newClient returns a client of the SDK for Go, for the lab and account a.
func newClient(l *labtest.Lab, a lab.Account, options ...func(*middleware.Stack) error) *ec2.Client {
	return newClientIn(lab.Region, l, a, options...)
}

// newClientIn returns a client for a region.
func newClientIn(region string, l *labtest.Lab, a lab.Account, options ...func(*middleware.Stack) error) *ec2.Client {
	return ec2.New(ec2.Options{
		Region:       region,
		BaseEndpoint: aws.String(l.Endpoint),
		Credentials:  credentials.NewStaticCredentialsProvider(a.AccessKey, a.SecretKey, ""),
		APIOptions:   options,
		HTTPClient:   &http.Client{Transport: wholeBodies{}},
	})
}

// wholeBodies gives the transport a body of its own. The SDK closes its body when the answer begins, and the transport
// may then close the connection in the middle of the answer.
type wholeBodies struct{}

func (wholeBodies) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	own := r.Clone(r.Context())
	own.Body = io.NopCloser(bytes.NewReader(body))
	return http.DefaultTransport.RoundTrip(own)
}

// code returns the AWS error code if the service returned the error, "" for no error, and the
// text of any other error.
func code(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return err.Error()
}

// An instance is a host with its ids and addresses.
type instance struct {
	host
	id      string
	private netip.Addr
	public  netip.Addr // invalid if the instance has no public address
	nic     string
}

// running waits until the instances with these ids run and returns them, with these names, in the
// same order.
func running(t *testing.T, l *labtest.Lab, c *ec2.Client, ids []string, names ...string) []instance {
	t.Helper()
	found := make(map[string]types.Instance)
	labtest.Eventually(t, strings.Join(ids, ", ")+" run", func() bool {
		got, err := c.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: ids})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got.Reservations {
			for _, i := range r.Instances {
				if i.State.Name == types.InstanceStateNameRunning {
					found[*i.InstanceId] = i
				}
			}
		}
		return len(found) == len(ids)
	})
	var list []instance
	for n, id := range ids {
		i := found[id]
		in := instance{host: host{name: id, namespace: l.Namespace(id)}, id: id, private: netip.MustParseAddr(*i.PrivateIpAddress)}
		if n < len(names) {
			in.name = names[n]
		}
		if i.PublicIpAddress != nil {
			in.public = netip.MustParseAddr(*i.PublicIpAddress)
		}
		if len(i.NetworkInterfaces) > 0 {
			in.nic = *i.NetworkInterfaces[0].NetworkInterfaceId
		}
		list = append(list, in)
	}
	return list
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantOnlyDefaults fails the test if the account has anything in a region that it did not have at first.
func wantOnlyDefaults(t *testing.T, l *labtest.Lab, a lab.Account, region string) {
	t.Helper()
	c, ctx := newClientIn(region, l, a), t.Context()
	vpcs, err := c.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{})
	check(t, err)
	groups, err := c.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{})
	check(t, err)
	interfaces, err := c.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{})
	check(t, err)
	addresses, err := c.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{})
	check(t, err)
	templates, err := c.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{})
	check(t, err)
	keys, err := c.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{})
	check(t, err)
	volumes, err := c.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{})
	check(t, err)
	// The default VPC and its group stay.
	got := []int{len(vpcs.Vpcs), len(groups.SecurityGroups), len(interfaces.NetworkInterfaces), len(addresses.Addresses), len(templates.LaunchTemplates), len(keys.KeyPairs), len(volumes.Volumes)}
	if !slices.Equal(got, []int{1, 1, 0, 0, 0, 0, 0}) {
		t.Errorf("%s has %d VPCs, groups, interfaces, addresses, launch templates, key pairs and volumes, want 1, 1 and 0 of the rest", region, got)
	}
}
