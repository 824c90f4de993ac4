package clients

import (
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"os/exec"
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
	return ec2.New(ec2.Options{
		Region:       lab.Region,
		BaseEndpoint: aws.String(l.Endpoint),
		Credentials:  credentials.NewStaticCredentialsProvider(a.AccessKey, a.SecretKey, ""),
		APIOptions:   options,
	})
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
