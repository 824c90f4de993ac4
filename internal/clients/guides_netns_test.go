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

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// debianAWS is Debian's aws 2.9.19; what is first on PATH may be another.
const debianAWS = "/usr/bin/aws"

// awsOne returns the path of an aws 1.x on PATH, "" if there is none.
func awsOne(t *testing.T) string {
	t.Helper()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "aws")
		if out, err := exec.Command(path, "--version").Output(); err == nil && strings.HasPrefix(string(out), "aws-cli/1.") {
			return path
		}
	}
	return ""
}

// A command of a guide, as the guide has it but for what is lost there: an identifier is a
// variable of the shell. It must end with exit, and print what matches want, whose first
// group is kept in the variable as.
type command struct {
	line string
	want string
	as   string
	exit int // of aws
}

// How an aws ends: version 1 says 255 where version 2 says which.
const (
	refusedByService = 254
	refusedLine      = 252
	exitOfVersion1   = 255
)

// A typist is a person at a shell with an aws and the keys of an account.
type typist struct {
	lab     *labtest.Lab
	account lab.Account
	environ []string
	*hosts
	vars map[string]string
}

// newTypist uses the aws at path.
func newTypist(t *testing.T, l *labtest.Lab, path, account string) *typist {
	t.Helper()
	own := t.TempDir()
	launcher := fmt.Sprintf("#!/bin/sh\nexec %s --endpoint-url \"$AWS_ENDPOINT_URL\" \"$@\"\n", path)
	if err := os.WriteFile(filepath.Join(own, "aws"), []byte(launcher), 0o755); err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, l, account)
	return &typist{lab: l, account: a, environ: l.Environ(a, own, own), hosts: newHosts(t), vars: map[string]string{}}
}

// types runs the commands one after the other.
func (p *typist) types(t *testing.T, commands ...command) {
	t.Helper()
	for _, c := range commands {
		p.run(t, c)
	}
}

func (p *typist) run(t *testing.T, c command) string {
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
		t.Fatalf("%s\nexit %d, want %d\n%s", c.line, got, c.exit, out)
	}
	m := regexp.MustCompile(`(?s)` + c.want).FindStringSubmatch(string(out))
	if m == nil {
		t.Fatalf("%s\nprints no match for %s:\n%s", c.line, c.want, out)
	}
	if c.as != "" {
		p.vars[c.as] = m[1]
	}
	return string(out)
}

// instance is the one whose id is in a variable, as soon as it runs.
func (p *typist) instance(t *testing.T, variable string) instance {
	t.Helper()
	return running(t, p.lab, newClient(p.lab, p.account), []string{p.vars[variable]}, variable)[0]
}

// TestClients has one lab for all clients, each with an account of its own.
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
		{"SDK for JavaScript v2", testJavaScript2},
		{"SDK for JavaScript v3", testJavaScript3},
		{"SDK for Go", testGo},
		{"Terraform", testTerraform},
		{"recorded calls of Terraform", testRecordedCalls},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l.ReportFailure(t)
			c.test(t, l)
		})
	}
}

// testGuidesByAWS1 is for machines that have an aws 1.x; Debian has none.
func testGuidesByAWS1(t *testing.T, l *labtest.Lab) {
	if one := awsOne(t); one != "" {
		testGuides(t, l, one, "awsone")
	} else {
		t.Log("there is no aws 1.x on PATH")
	}
}

// testGuides types every aws command of the guides of 2023 and 2024. What is lost in them
// is put back here and listed in docs/FIDELITY.md: identifiers, CIDRs, and an option that
// the command line itself does not know.
func testGuides(t *testing.T, l *labtest.Lab, path, account string) {
	p := newTypist(t, l, path, account)
	p.guideOf2024(t)
	p.guideOf2023(t)
}

const (
	sg  = `"GroupId": "(sg-[0-9a-f]{17})"`
	sgr = `"SecurityGroupRuleId": "sgr-[0-9a-f]{17}"`
)

func (p *typist) guideOf2024(t *testing.T) {
	p.types(t,
		command{line: `aws ec2 describe-vpcs --filters Name=is-default,Values=true`, want: `"VpcId": "(vpc-[0-9a-f]{17})"`, as: "vpc"},
		command{line: `aws ec2 create-security-group \
--group-name web-server-sg \
--description "Security group for web servers" \
--vpc-id $vpc`, want: sg, as: "web"},
	)
	// The guide's other groups are there already.
	for _, name := range []string{"bastion", "database", "application", "loadbalancer", "monitoring", "management"} {
		p.types(t, command{line: `aws ec2 create-security-group --group-name ` + name + ` --description "` + name + `" --vpc-id $vpc`, want: sg, as: name})
	}
	p.types(t,
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
		// The command line refuses --description; only --ip-permissions has one.
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
		// There is no peering: a group of a VPC that is not peered is as good as none.
		command{line: `aws ec2 authorize-security-group-ingress \
--group-id $web \
--ip-permissions "IpProtocol=tcp,FromPort=443,ToPort=443,UserIdGroupPairs=[{GroupId=sg-0123456789abcdef0,VpcId=vpc-0123456789abcdef0,UserId=987654321098}]"`,
			exit: refusedByService, want: `InvalidGroup.NotFound`},
	)

	// What packets say, before the instances of several groups and the egress rules.
	p.types(t,
		command{line: `aws ec2 run-instances --instance-type t3.micro --image-id ami-0123456789abcdef0 --security-group-ids $bastion`, want: `"InstanceId": "(i-[0-9a-f]{17})"`, as: "jump"},
		command{line: `aws ec2 run-instances --instance-type t3.micro --image-id ami-0123456789abcdef0 --security-group-ids $database`, want: `"InstanceId": "(i-[0-9a-f]{17})"`, as: "db"},
		command{line: `aws ec2 run-instances \
--instance-type t3.micro \
--image-id ami-0123456789abcdef0 \
--security-group-ids $web $monitoring $management`, want: `"InstanceId": "(i-[0-9a-f]{17})"`, as: "server"},
	)
	server, jump, db := p.instance(t, "server"), p.instance(t, "jump"), p.instance(t, "db")
	s := &stage{lab: p.lab, hosts: p.hosts, laptop: host{"laptop", p.lab.Namespace("laptop")}, stranger: host{"stranger", p.lab.Namespace("stranger")}}
	http, https := toAddress(s.laptop, server.public, server, "tcp/80"), toAddress(s.stranger, server.public, server, "tcp/443")
	s.passes(t, "web-server-sg", http, https, to(db.host, server, "tcp/80"))
	s.stops(t, "web-server-sg", toAddress(s.laptop, server.public, server, "tcp/8080"), to(jump.host, db, "tcp/3306"), to(server.host, db, "tcp/3306"))
	answers(t, jump.host, server.private, "open/22")
	answers(t, s.laptop, jump.public, "open/22")
	silent(t, s.stranger, jump.public, "open/22")
	silent(t, s.laptop, server.public, "open/22")

	p.types(t,
		command{line: `aws ec2 describe-security-groups \
--group-ids $web \
--query 'SecurityGroups[0].{Inbound:IpPermissions,Outbound:IpPermissionsEgress}'`, want: `"Inbound": \[.*"FromPort": 443.*"Outbound": \[\s*\{\s*"IpProtocol": "-1".*"CidrIp": "0.0.0.0/0"`},
		// Nobody may log in from everywhere, so there is nothing to remove yet.
		command{line: `aws ec2 authorize-security-group-ingress --group-id $web --protocol tcp --port 22 --cidr 0.0.0.0/0`, want: sgr},
	)
	answers(t, s.laptop, server.public, "open/22")
	p.types(t,
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
	silent(t, s.laptop, server.public, "open/22")

	out := ray{from: server.host, to: netip.MustParseAddr("203.0.113.25"), kind: "tcp/443", at: s.laptop}
	other := ray{from: server.host, to: netip.MustParseAddr("203.0.113.25"), kind: "tcp/8443", at: s.laptop}
	s.passes(t, "all may leave", out, other)
	for _, group := range []string{"web", "monitoring", "management"} {
		p.types(t, command{line: `aws ec2 revoke-security-group-egress \
--group-id $` + group + ` \
--protocol all \
--cidr 0.0.0.0/0`, want: `"Return": true`})
	}
	s.stops(t, "nothing may leave", out, other)
	s.passes(t, "answers may", http, https)
	p.types(t,
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
	s.passes(t, "what is necessary may leave", out, to(server.host, db, "tcp/5432"))
	s.stops(t, "what is necessary may leave", other, to(server.host, db, "tcp/5433"))

	p.types(t,
		command{line: "aws ec2 describe-security-groups \\\n--query 'SecurityGroups[*].{Name:GroupName,OpenPorts:IpPermissions[?IpRanges[?CidrIp==`0.0.0.0/0`]]}' \\\n--output table", want: `web-server-sg.*OpenPorts`},
		command{line: `aws ec2 describe-security-groups \
--group-ids $web \
--query 'SecurityGroups[0].IpPermissions'`, want: `"FromPort": 443`},
		// The placeholders as they stand are no ids.
		command{line: `aws ec2 authorize-security-group-ingress --group-id sg-bastion123 --protocol tcp --port 22 --cidr 203.0.113.0/24`, exit: refusedByService, want: `InvalidGroup(Id.Malformed|.NotFound)`},
		command{line: `aws ec2 authorize-security-group-ingress --group-id $web --protocol tcp --port 80 --cidr 0.0.0.0/0`, exit: refusedByService, want: `InvalidPermission.Duplicate.*already exists`},
		command{line: `aws ec2 delete-security-group --group-id $web`, exit: refusedByService, want: `DependencyViolation`},
		command{line: `aws ec2 terminate-instances --instance-ids $server $jump $db`, want: `"shutting-down"`},
	)
}

// answers fails the test if nobody answers: an image's own server, whose words are its own.
func answers(t *testing.T, from host, to netip.Addr, kind string) {
	t.Helper()
	if who, err := reach(from, to, kind, answerWithin); who == "" || err != nil {
		t.Errorf("%s from %s to %v is answered by %q, %v", kind, from.name, to, who, err)
	}
}

func silent(t *testing.T, from host, to netip.Addr, kind string) {
	t.Helper()
	if who, err := reach(from, to, kind, silenceFor); who != "" || err != nil {
		t.Errorf("%s from %s to %v is answered by %q, %v", kind, from.name, to, who, err)
	}
}

// guideOf2023 has lost the CIDRs, and a blank stands behind one of its backslashes. It
// says that port 21 is opened and opens 21 to 80.
func (p *typist) guideOf2023(t *testing.T) {
	p.types(t,
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
	s := &stage{lab: p.lab, hosts: p.hosts, laptop: host{"laptop", p.lab.Namespace("laptop")}}
	s.passes(t, "ftp-sg", toAddress(s.laptop, in.public, in, "tcp/21"), toAddress(s.laptop, in.public, in, "tcp/80"))
	s.stops(t, "ftp-sg", toAddress(s.laptop, in.public, in, "tcp/81"), toAddress(s.laptop, in.public, in, "tcp/20"))
	p.types(t,
		command{line: `aws ec2 terminate-instances --instance-ids $ftpd`, want: `"shutting-down"`},
		command{line: `aws ec2 wait instance-terminated --instance-ids $ftpd`},
		command{line: `aws ec2 delete-security-group --group-id $ftp`},
		command{line: `aws ec2 describe-security-groups --group-ids $ftp`, exit: refusedByService, want: `InvalidGroup.NotFound`},
	)
}
