//go:build soak

package scenarios

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// A soakAPI calls the Query API as one account, on one connection, which stays open. Only one goroutine
// may use it. It does not retry, so that the test learns the result of each call.
type soakAPI struct {
	credentials aws.Credentials
	endpoint    string
	client      *http.Client
	signer      *v4.Signer
	network     *soakNetwork // nil: EC2-Classic
}

// api returns a client that calls the lab's front door as an account.
func (l *soakLab) api(account string) *soakAPI {
	l.t.Helper()
	out, err := exec.Command(l.Palisade, "lab", "env", "--name", l.Name, "--account", account).Output()
	if err != nil {
		l.t.Fatalf("lab env --account %s: %v", account, err)
	}
	env := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		name, value, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		env[name] = strings.Trim(value, "'")
	}
	return newSoakAPI(l.t, env["AWS_ENDPOINT_URL"], env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], nil)
}

// at returns a client with the same credentials that calls one node at its socket, not the front door.
func (a *soakAPI) at(t *testing.T, socket string) *soakAPI {
	return a.again(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	})
}

// again returns a client with the same credentials on another connection.
func (a *soakAPI) again(t *testing.T, dial func(context.Context, string, string) (net.Conn, error)) *soakAPI {
	b := newSoakAPI(t, a.endpoint, a.credentials.AccessKeyID, a.credentials.SecretAccessKey, dial)
	b.network = a.network
	return b
}

// where says for the log whether the groups are in a VPC or in EC2-Classic.
func (a *soakAPI) where() string {
	if a.network != nil {
		return "a VPC"
	}
	return "EC2-Classic"
}

func newSoakAPI(t *testing.T, endpoint, access, secret string, dial func(context.Context, string, string) (net.Conn, error)) *soakAPI {
	transport := &http.Transport{MaxConnsPerHost: 1, DisableCompression: true, DialContext: dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &soakAPI{
		credentials: aws.Credentials{AccessKeyID: access, SecretAccessKey: secret},
		endpoint:    endpoint,
		client:      &http.Client{Transport: transport, Timeout: 10 * time.Second},
		signer:      v4.NewSigner(),
	}
}

// A refusal is an error answer of the API. With a status below 500 the request had no effect. With another
// status its effect is unknown.
type refusal struct {
	Status  int
	Code    string `xml:"Errors>Error>Code"`
	Message string `xml:"Errors>Error>Message"`
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s: %s", r.Status, r.Code, r.Message) }

// call performs an action and decodes the answer into answer, unless that is nil. It returns the time at
// which it had read the whole answer.
func (a *soakAPI) call(action string, params url.Values, answer any) (time.Time, error) {
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for name, values := range params {
		form[name] = values
	}
	body := []byte(form.Encode())
	req, err := http.NewRequest(http.MethodPost, a.endpoint, bytes.NewReader(body))
	if err != nil {
		return time.Now(), err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	sum := sha256.Sum256(body)
	err = a.signer.SignHTTP(context.Background(), a.credentials, req, hex.EncodeToString(sum[:]), "ec2", "us-east-1", time.Now())
	if err != nil {
		return time.Now(), err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return time.Now(), err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	at := time.Now()
	switch {
	case err != nil:
		return at, err
	case resp.StatusCode != http.StatusOK:
		r := &refusal{Status: resp.StatusCode}
		if xml.Unmarshal(data, r) != nil {
			r.Message = string(data)
		}
		return at, r
	case answer != nil:
		return at, xml.Unmarshal(data, answer)
	}
	return at, nil
}

// group makes a security group with this name.
func (a *soakAPI) group(name string) error {
	params := url.Values{"GroupName": {name}, "GroupDescription": {"soak"}}
	if a.network == nil {
		_, err := a.call("CreateSecurityGroup", params, nil)
		return err
	}
	var made struct {
		ID string `xml:"groupId"`
	}
	params.Set("VpcId", a.network.vpc)
	_, err := a.call("CreateSecurityGroup", params, &made)
	if err == nil {
		a.network.learn(name, made.ID)
	}
	return err
}

// A soakRule is one rule: a port, and a group of the account or a CIDR.
type soakRule struct {
	egress   bool
	protocol string // "tcp", "udp", "-1"
	port     int
	group    string // or
	cidr     string
}

// everythingLeaves is the initial egress rule of a group in a VPC.
var everythingLeaves = soakRule{egress: true, protocol: "-1", cidr: "0.0.0.0/0"}

// name adds the parameter that identifies a group to params: its id in a VPC, its name in EC2-Classic.
func (a *soakAPI) name(params url.Values, prefix, group string) {
	if a.network != nil {
		params.Set(prefix+"GroupId", a.network.id(group))
	} else {
		params.Set(prefix+"GroupName", group)
	}
}

// changeRules calls AuthorizeSecurityGroupIngress, RevokeSecurityGroupIngress or the same for egress. change is
// "Authorize" or "Revoke". All rules must have the same direction. It returns the time of the answer.
func (a *soakAPI) changeRules(change, group string, rules []soakRule) (time.Time, error) {
	params, direction := url.Values{}, "Ingress"
	if rules[0].egress {
		direction = "Egress"
	}
	a.name(params, "", group)
	for i, r := range rules {
		prefix := fmt.Sprintf("IpPermissions.%d.", i+1)
		params.Set(prefix+"IpProtocol", r.protocol)
		if r.protocol != "-1" {
			params.Set(prefix+"FromPort", fmt.Sprint(r.port))
			params.Set(prefix+"ToPort", fmt.Sprint(r.port))
		}
		if r.group != "" {
			a.name(params, prefix+"Groups.1.", r.group)
		} else {
			params.Set(prefix+"IpRanges.1.CidrIp", r.cidr)
		}
	}
	return a.call(change+"SecurityGroup"+direction, params, nil)
}

func (a *soakAPI) authorize(group string, rules ...soakRule) (time.Time, error) {
	return a.changeRules("Authorize", group, rules)
}

func (a *soakAPI) revoke(group string, rules ...soakRule) (time.Time, error) {
	return a.changeRules("Revoke", group, rules)
}

// rules returns those rules of all groups that have a CIDR. The keys are the group's name and the rule as
// ruleText writes it.
func (a *soakAPI) rules() (map[string]map[string]bool, error) {
	type permission struct {
		Protocol string `xml:"ipProtocol"`
		From     int    `xml:"fromPort"`
		Ranges   []struct {
			CIDR string `xml:"cidrIp"`
		} `xml:"ipRanges>item"`
	}
	var answer struct {
		Groups []struct {
			Name    string       `xml:"groupName"`
			Ingress []permission `xml:"ipPermissions>item"`
			Egress  []permission `xml:"ipPermissionsEgress>item"`
		} `xml:"securityGroupInfo>item"`
	}
	params := url.Values{}
	if a.network != nil {
		params = url.Values{"Filter.1.Name": {"vpc-id"}, "Filter.1.Value.1": {a.network.vpc}}
	}
	if _, err := a.call("DescribeSecurityGroups", params, &answer); err != nil {
		return nil, err
	}
	all := map[string]map[string]bool{}
	for _, g := range answer.Groups {
		all[g.Name] = map[string]bool{}
		for i, p := range append(g.Ingress, g.Egress...) {
			for _, r := range p.Ranges {
				all[g.Name][ruleText(soakRule{egress: i >= len(g.Ingress), protocol: p.Protocol, port: p.From, cidr: r.CIDR})] = true
			}
		}
	}
	return all, nil
}

func ruleText(r soakRule) string {
	direction := "from"
	if r.egress {
		direction = "to"
	}
	return fmt.Sprintf("%s %d %s %s", r.protocol, r.port, direction, r.cidr)
}

// groups makes security groups with these names.
func (l *soakLab) groups(api *soakAPI, names ...string) {
	l.t.Helper()
	for _, name := range names {
		if err := api.group(name); err != nil {
			l.t.Fatalf("make group %s: %v", name, err)
		}
	}
}
