package clients

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// debianAWS is Debian's aws 2.9.19. The first aws on PATH may be another version.
const debianAWS = "/usr/bin/aws"

// aws1Path returns the path of an aws 1.x on PATH, or "".
func aws1Path(t *testing.T) string {
	t.Helper()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "aws")
		if out, err := exec.Command(path, "--version").Output(); err == nil && strings.HasPrefix(string(out), "aws-cli/1.") {
			return path
		}
	}
	return ""
}

// A command is a line of a guide, with shell variables in place of the guide's identifiers. It
// must end with the status exit and print text that matches the regular expression want. The text
// of the first group of want is stored in the shell variable whose name is in the field as.
type command struct {
	line string
	want string
	as   string
	exit int // exit status of aws
}

// Exit statuses of aws version 2 for an error that the service returned and for a wrong command
// line. Version 1 exits with 255 in both cases.
const (
	refusedByService = 254
	refusedLine      = 252
	exitOfVersion1   = 255
)

// A shell runs commands with one version of aws and the access key of one account.
type shell struct {
	lab     *labtest.Lab
	account lab.Account
	environ []string
	*hosts
	vars map[string]string
}

// newShell returns a shell that runs the program at path as aws.
func newShell(t *testing.T, l *labtest.Lab, path, account string) *shell {
	t.Helper()
	dir := t.TempDir()
	launcher := fmt.Sprintf("#!/bin/sh\nexec %s --endpoint-url \"$AWS_ENDPOINT_URL\" \"$@\"\n", path)
	if err := os.WriteFile(filepath.Join(dir, "aws"), []byte(launcher), 0o755); err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, l, account)
	return &shell{lab: l, account: a, environ: l.Environ(a, dir, dir), hosts: newHosts(t), vars: map[string]string{}}
}

// runAll runs the commands one after the other.
func (p *shell) runAll(t *testing.T, commands ...command) {
	t.Helper()
	for _, c := range commands {
		p.run(t, c)
	}
}

func (p *shell) run(t *testing.T, c command) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", c.line)
	cmd.Env = append([]string(nil), p.environ...)
	for name, value := range p.vars {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != c.exit && (c.exit == 0 || got != exitOfVersion1) {
		t.Fatalf("%s\nexit status %d, want %d; output:\n%s", c.line, got, c.exit, out)
	}
	m := regexp.MustCompile(`(?s)` + c.want).FindStringSubmatch(string(out))
	if m == nil {
		t.Fatalf("%s\nprinted no text that matches %s; output:\n%s", c.line, c.want, out)
	}
	if c.as != "" {
		p.vars[c.as] = m[1]
	}
	return string(out)
}

// instance waits until the instance whose id is in a shell variable runs, and returns it.
func (p *shell) instance(t *testing.T, variable string) instance {
	t.Helper()
	return running(t, p.lab, newClient(p.lab, p.account), []string{p.vars[variable]}, variable)[0]
}

// TestClients runs every client in one lab, each with its own account.
func TestClients(t *testing.T) {
	t.Parallel()
	l := labtest.Up(t, "clients")
	for _, c := range []struct {
		name string
		test func(*testing.T, *labtest.Lab)
	}{
		{"aws 2.9.19", func(t *testing.T, l *labtest.Lab) { testGuides(t, l, debianAWS, "awstwo") }},
		{"aws 1", testGuidesByAWS1},
		{"boto3", testBoto3},
		{"boto3, the second half of a VPC", testBoto3Network},
		{"SDK for JavaScript v2", testJavaScript2},
		{"SDK for JavaScript v3", testJavaScript3},
		{"SDK for Go", testGo},
		{"Terraform", testTerraform},
		{"recorded calls of Terraform", testRecordedCalls},
		{"Ansible", testAnsible},
		{"script that empties a VPC", testEmptyVPC},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l.ReportFailure(t)
			c.test(t, l)
		})
	}
}

// testGuidesByAWS1 does nothing on machines without aws 1.x, such as Debian.
func testGuidesByAWS1(t *testing.T, l *labtest.Lab) {
	if path := aws1Path(t); path != "" {
		testGuides(t, l, path, "awsone")
	} else {
		t.Log("aws 1.x is not on PATH, so the guides are not run with it")
	}
}

// testGuides runs every aws command of the two guides, of 2023 and of 2024. It corrects their
// mistakes, which docs/FIDELITY.md lists: missing identifiers and CIDRs, and an option that aws
// does not have.
func testGuides(t *testing.T, l *labtest.Lab, path, account string) {
	p := newShell(t, l, path, account)
	p.guideOf2024(t)
	p.guideOf2023(t)
}

const (
	sg  = `"GroupId": "(sg-[0-9a-f]{17})"`
	sgr = `"SecurityGroupRuleId": "sgr-[0-9a-f]{17}"`
)

func (p *shell) guideOf2024(t *testing.T) {
	p.createGroups(t)
	p.peer(t)
	p.authorizeIngress(t)
	s, server, db := p.launchInGroups(t)
	p.revokeIngress(t, s, server)
	p.restrictEgress(t, s, server, db)
	p.auditGroups(t)
}

func (p *shell) createGroups(t *testing.T) {
	p.runAll(t,
		command{line: `aws ec2 describe-vpcs --filters Name=is-default,Values=true`, want: `"VpcId": "(vpc-[0-9a-f]{17})"`, as: "vpc"},
		command{line: `aws ec2 create-security-group \
--group-name web-server-sg \
--description "Security group for web servers" \
--vpc-id $vpc`, want: sg, as: "web"},
	)
	// The guide uses these groups without creating them.
	for _, name := range []string{"bastion", "database", "application", "loadbalancer", "monitoring", "management"} {
		p.runAll(t, command{line: `aws ec2 create-security-group --group-name ` + name + ` --description "` + name + `" --vpc-id $vpc`, want: sg, as: name})
	}
}

// peer makes a VPC with a group in another account, and a peering of it with the default VPC.
func (p *shell) peer(t *testing.T) {
	t.Helper()
	other := newAccount(t, p.lab, p.account.Name+"peer")
	c, ctx := newClient(p.lab, other), t.Context()
	vpc, err := c.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.65.0.0/16")})
	check(t, err)
	group, err := c.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{VpcId: vpc.Vpc.VpcId, GroupName: aws.String("peer"), Description: aws.String("of the peer")})
	check(t, err)
	asked, err := newClient(p.lab, p.account).CreateVpcPeeringConnection(ctx, &ec2.CreateVpcPeeringConnectionInput{
		VpcId: aws.String(p.vars["vpc"]), PeerVpcId: vpc.Vpc.VpcId, PeerOwnerId: aws.String(other.ID)})
	check(t, err)
	_, err = c.AcceptVpcPeeringConnection(ctx, &ec2.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: asked.VpcPeeringConnection.VpcPeeringConnectionId})
	check(t, err)
	p.vars["peer_group"], p.vars["peer_vpc"], p.vars["peer_account"] = *group.GroupId, *vpc.Vpc.VpcId, other.ID
}

func (p *shell) authorizeIngress(t *testing.T) {
	p.runAll(t,
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $web \
--protocol tcp \
--port 80 \
--cidr 0.0.0.0/0`, want: sgr},
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $web \
--protocol tcp \
--port 443 \
--cidr 0.0.0.0/0`, want: sgr},
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $web \
--protocol tcp \
--port 22 \
--source-group $bastion`, want: `"ReferencedGroupInfo": \{\s*"GroupId": "sg-`},
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $database \
--protocol tcp \
--port 3306 \
--source-group $application`, want: sgr},
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $database \
--protocol tcp \
--port 5432 \
--source-group $application`, want: sgr},
		// The guide uses the option --description, which aws does not have. A description is a
		// part of --ip-permissions.
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $bastion \
--protocol tcp \
--port 22 \
--cidr 203.0.113.0/24 \
--description "Office network"`, exit: refusedLine, want: `Unknown options: --description`},
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $bastion \
--ip-permissions "IpProtocol=tcp,FromPort=22,ToPort=22,IpRanges=[{CidrIp=203.0.113.0/24,Description='Office network'}]"`, want: `"Description": "Office network"`},
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $application \
--protocol tcp \
--port 8080 \
--source-group $loadbalancer`, want: sgr},
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $application \
--protocol tcp \
--port 8081 \
--source-group $loadbalancer`, want: sgr},
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $application \
--protocol tcp \
--port 8080 \
--source-group $web`, want: sgr},
		// The guide's peer is a VPC of another account, which peer makes.
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $web \
--ip-permissions "IpProtocol=tcp,FromPort=443,ToPort=443,UserIdGroupPairs=[{GroupId=$peer_group,VpcId=$peer_vpc,UserId=$peer_account}]"`,
			want: `"ReferencedGroupInfo": \{[^}]*"VpcPeeringConnectionId": "pcx-[0-9a-f]{17}"`},
		command{line: `aws ec2 describe-security-groups --group-ids $web --output text \
--query "SecurityGroups[].IpPermissions[].UserIdGroupPairs[].[PeeringStatus,VpcPeeringConnectionId]"`, want: `active\s+pcx-[0-9a-f]{17}`},
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $web \
--ip-permissions "IpProtocol=tcp,FromPort=443,ToPort=443,UserIdGroupPairs=[{GroupId=sg-0123456789abcdef0,VpcId=vpc-0123456789abcdef0,UserId=987654321098}]"`,
			exit: refusedByService, want: `InvalidGroup.NotFound`},
	)
}

// launchInGroups launches three instances: server in the web, monitoring and management groups,
// jump in the bastion group and db in the database group. It checks with probes which packets
// pass.
func (p *shell) launchInGroups(t *testing.T) (s *testbed, server, db instance) {
	p.runAll(t,
		command{line: `aws ec2 run-instances --instance-type t3.micro --image-id ami-0123456789abcdef0 --security-group-ids $bastion`, want: `"InstanceId": "(i-[0-9a-f]{17})"`, as: "jump"},
		command{line: `aws ec2 run-instances --instance-type t3.micro --image-id ami-0123456789abcdef0 --security-group-ids $database`, want: `"InstanceId": "(i-[0-9a-f]{17})"`, as: "db"},
		command{line: `aws ec2 run-instances \
--instance-type t3.micro \
--image-id ami-0123456789abcdef0 \
--security-group-ids $web $monitoring $management`, want: `"InstanceId": "(i-[0-9a-f]{17})"`, as: "server"},
	)
	server, db = p.instance(t, "server"), p.instance(t, "db")
	jump := p.instance(t, "jump")
	s = &testbed{lab: p.lab, hosts: p.hosts, laptop: host{"laptop", p.lab.Namespace("laptop")}, stranger: host{"stranger", p.lab.Namespace("stranger")}}
	http, https := toAddress(s.laptop, server.public, server, "tcp/80"), toAddress(s.stranger, server.public, server, "tcp/443")
	s.wantAnswers(t, "web-server-sg", http, https, to(db.host, server, "tcp/80"))
	s.wantSilence(t, "web-server-sg", toAddress(s.laptop, server.public, server, "tcp/8080"), to(jump.host, db, "tcp/3306"), to(server.host, db, "tcp/3306"))
	wantOpen(t, jump.host, server.private, "open/22")
	wantOpen(t, s.laptop, jump.public, "open/22")
	wantClosed(t, s.stranger, jump.public, "open/22")
	wantClosed(t, s.laptop, server.public, "open/22")
	return s, server, db
}

func (p *shell) revokeIngress(t *testing.T, s *testbed, server instance) {
	p.runAll(t,
		command{line: `aws ec2 describe-security-groups \
--group-ids $web \
--query 'SecurityGroups[0].{Inbound:IpPermissions,Outbound:IpPermissionsEgress}'`, want: `"Inbound": \[.*"FromPort": 443.*"Outbound": \[\s*\{\s*"IpProtocol": "-1".*"CidrIp": "0.0.0.0/0"`},
		// The guide revokes this rule without creating it.
		command{line: `aws ec2 authorize-security-group-ingress --group-id $web --protocol tcp --port 22 --cidr 0.0.0.0/0`, want: sgr},
	)
	wantOpen(t, s.laptop, server.public, "open/22")
	p.runAll(t,
		command{line: `aws ec2 revoke-security-group-ingress \
--group-id $web \
--protocol tcp \
--port 22 \
--cidr 0.0.0.0/0`, want: `"Return": true`},
		command{line: `aws ec2 authorize-security-group-ingress --group-id $web --protocol tcp --port 22 --cidr 10.0.0.0/8`, want: sgr},
		command{line: `aws ec2 update-security-group-rule-descriptions-ingress \
--group-id $web \
--ip-permissions "IpProtocol=tcp,FromPort=22,ToPort=22,IpRanges=[{CidrIp=10.0.0.0/8,Description='Corporate network'}]"`, want: `"Return": true`},
		command{line: `aws ec2 describe-security-groups --group-ids $web`, want: `"CidrIp": "10.0.0.0/8",\s*"Description": "Corporate network"|"Description": "Corporate network",\s*"CidrIp": "10.0.0.0/8"`},
	)
	wantClosed(t, s.laptop, server.public, "open/22")
}

func (p *shell) restrictEgress(t *testing.T, s *testbed, server, db instance) {
	http, https := toAddress(s.laptop, server.public, server, "tcp/80"), toAddress(s.stranger, server.public, server, "tcp/443")
	out := probe{from: server.host, to: netip.MustParseAddr("203.0.113.25"), kind: "tcp/443", at: s.laptop}
	other := probe{from: server.host, to: netip.MustParseAddr("203.0.113.25"), kind: "tcp/8443", at: s.laptop}
	s.wantAnswers(t, "all egress admitted", out, other)
	for _, group := range []string{"web", "monitoring", "management"} {
		p.runAll(t, command{line: `aws ec2 revoke-security-group-egress \
--group-id $` + group + ` \
--protocol all \
--cidr 0.0.0.0/0`, want: `"Return": true`})
	}
	s.wantSilence(t, "no egress admitted", out, other)
	s.wantAnswers(t, "answers without egress rules", http, https)
	p.runAll(t,
		command{line: `aws ec2 authorize-security-group-egress \
--group-id $web \
--protocol tcp \
--port 443 \
--cidr 0.0.0.0/0`, want: `"IsEgress": true`},
		command{line: `aws ec2 authorize-security-group-egress \
--group-id $web \
--protocol tcp \
--port 5432 \
--source-group $database`, want: `"IsEgress": true`},
		command{line: `aws ec2 authorize-security-group-ingress --group-id $database --protocol tcp --port 5432 --source-group $web`, want: sgr},
	)
	s.wantAnswers(t, "two egress rules", out, to(server.host, db, "tcp/5432"))
	s.wantSilence(t, "two egress rules", other, to(server.host, db, "tcp/5433"))
}

// auditGroups runs the guide's queries and its commands that must fail.
func (p *shell) auditGroups(t *testing.T) {
	p.runAll(t,
		command{line: "aws ec2 describe-security-groups \\\n--query 'SecurityGroups[*].{Name:GroupName,OpenPorts:IpPermissions[?IpRanges[?CidrIp==`0.0.0.0/0`]]}' \\\n--output table", want: `web-server-sg.*OpenPorts`},
		command{line: `aws ec2 describe-security-groups \
--group-ids $web \
--query 'SecurityGroups[0].IpPermissions'`, want: `"FromPort": 443`},
		// The guide has a placeholder here that is not a valid group id.
		command{line: `aws ec2 authorize-security-group-ingress --group-id sg-bastion123 --protocol tcp --port 22 --cidr 203.0.113.0/24`, exit: refusedByService, want: `InvalidGroup(Id.Malformed|.NotFound)`},
		command{line: `aws ec2 authorize-security-group-ingress --group-id $web --protocol tcp --port 80 --cidr 0.0.0.0/0`, exit: refusedByService, want: `InvalidPermission.Duplicate.*already exists`},
		command{line: `aws ec2 delete-security-group --group-id $web`, exit: refusedByService, want: `DependencyViolation`},
		command{line: `aws ec2 terminate-instances --instance-ids $server $jump $db`, want: `"shutting-down"`},
	)
}

// wantOpen fails the test if a probe gets no answer. It is used with the servers of an instance's
// image, whose answers do not have the host's name.
func wantOpen(t *testing.T, from host, to netip.Addr, kind string) {
	t.Helper()
	if who, err := reach(from, to, kind, answerWithin); who == "" || err != nil {
		t.Errorf("probe %s from %s to %v got the answer %q (error %v), want any answer", kind, from.name, to, who, err)
	}
}

// wantClosed fails the test if a probe gets an answer.
func wantClosed(t *testing.T, from host, to netip.Addr, kind string) {
	t.Helper()
	if who, err := reach(from, to, kind, silenceFor); who != "" || err != nil {
		t.Errorf("probe %s from %s to %v got the answer %q (error %v), want none", kind, from.name, to, who, err)
	}
}

// guideOf2023 runs the commands of the guide of 2023. In the guide the CIDRs are missing, a space
// follows one backslash, and the text says port 21 where the command opens ports 21 to 80.
func (p *shell) guideOf2023(t *testing.T) {
	p.runAll(t,
		command{line: ` aws ec2 create-security-group \
 --group-name "ftp-sg" \
 --description "Rules for FTP traffic"`, want: sg, as: "ftp"},
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id "$ftp" \
--ip-permissions "IpProtocol=tcp,FromPort=21,ToPort=80,IpRanges=[{CidrIp=0.0.0.0/0},{CidrIp=10.0.0.0/16}]"`, want: `"CidrIpv4": "0.0.0.0/0".*"CidrIpv4": "10.0.0.0/16"`},
		command{line: `aws ec2 authorize-security-group-egress \
--group-id "$ftp" \
--ip-permissions "IpProtocol=tcp,FromPort=21,ToPort=80,IpRanges=[{CidrIp=10.0.0.0/16}]"`, want: `"IsEgress": true`},
		command{line: `aws ec2 describe-security-group-rules --filters Name=group-id,Values=$ftp --query 'length(SecurityGroupRules)'`, want: `^4\s*$`},
		command{line: `aws ec2 run-instances --image-id ami-0123456789abcdef0 --security-group-ids $ftp`, want: `"InstanceId": "(i-[0-9a-f]{17})"`, as: "ftpd"},
	)
	in := p.instance(t, "ftpd")
	s := &testbed{lab: p.lab, hosts: p.hosts, laptop: host{"laptop", p.lab.Namespace("laptop")}}
	s.wantAnswers(t, "ftp-sg", toAddress(s.laptop, in.public, in, "tcp/21"), toAddress(s.laptop, in.public, in, "tcp/80"))
	s.wantSilence(t, "ftp-sg", toAddress(s.laptop, in.public, in, "tcp/81"), toAddress(s.laptop, in.public, in, "tcp/20"))
	p.runAll(t,
		command{line: `aws ec2 terminate-instances --instance-ids $ftpd`, want: `"shutting-down"`},
		command{line: `aws ec2 wait instance-terminated --instance-ids $ftpd`},
		command{line: `aws ec2 delete-security-group --group-id $ftp`},
		command{line: `aws ec2 describe-security-groups --group-ids $ftp`, exit: refusedByService, want: `InvalidGroup.NotFound`},
	)
}
