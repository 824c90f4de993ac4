package ec2tools

import (
	"context"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
)

// newServer starts the API on a cluster of one voter, with the accounts albert and dev.
func newServer(t *testing.T) *service {
	t.Helper()
	return newServerBehind(t, func(c *cluster.Cluster) query.Backend { return c })
}

// newServerBehind starts the API. The function backend makes the API's Backend from the cluster.
func newServerBehind(t *testing.T, backend func(*cluster.Cluster) query.Backend) *service {
	t.Helper()
	c, err := cluster.New(cluster.Config{
		Node: "node1",
		Dir:  t.TempDir(),
		Bootstrap: []state.Command{
			{Request: &state.Bootstrap{Seed: "a seed of the tools' tests"}},
			{Request: &state.PutNode{Node: ec2.Node{ID: "node1", Zone: "us-east-1a"}}},
			{Request: &state.PutNetwork{Network: ec2.Network{
				VNI:         1,
				Region:      "us-east-1",
				Prefix:      netip.MustParsePrefix("10.0.0.0/8"),
				Pools:       []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")},
				PublicPools: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
			}}},
			{Request: &state.CreateAccount{ID: "598916040194", Name: "albert", Platform: ec2.Classic, AccessKey: "AKIDALBERT", Secret: "secret"}},
			{Request: &state.CreateAccount{ID: "123456789012", Name: "dev", Platform: ec2.VPCOnly, AccessKey: "AKIDDEV", Secret: "secret"}},
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
		t.Fatalf("cluster stopped: %v", err)
	}
	api, err := query.New(query.Config{Backend: backend(c)})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api)
	t.Cleanup(func() {
		server.Close()
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("the cluster stopped with the error %v", err)
		}
	})
	return &service{url: server.URL}
}

// TestToolsPrintWhatTheServerAnswers runs tools against the API, one command line after another. A
// pattern must match the whole output, with tabs replaced by |; a pattern that begins with "error"
// must match stderr. $1 in a command line is what the first group matched in the last pattern with
// a group.
func TestToolsPrintWhatTheServerAnswers(t *testing.T) {
	svc := newServer(t)
	const sg = `sg-[0-9a-f]{8}`
	captured := ""
	for _, tc := range []struct{ env, line, want string }{
		{"", "ec2-describe-group", `GROUP\|(` + sg + `)\|598916040194\|default\|default group\|
PERMISSION\|598916040194\|default\|ALLOWS\|tcp\|0\|65535\|FROM\|USER\|598916040194\|NAME default\|ID ` + sg + `\|ingress
PERMISSION\|598916040194\|default\|ALLOWS\|udp\|0\|65535\|FROM\|USER\|598916040194\|NAME default\|ID ` + sg + `\|ingress
PERMISSION\|598916040194\|default\|ALLOWS\|icmp\|-1\|-1\|FROM\|USER\|598916040194\|NAME default\|ID ` + sg + `\|ingress
`},
		{"", "ec2-authorize $1 -p 22 -s203.0.113.25/32", `GROUP\|` + sg + `\|\|\|\|
PERMISSION\|\|\|ALLOWS\|tcp\|22\|22\|FROM\|CIDR\|203\.0\.113\.25/32\|ingress
`},
		{"2006", "ec2-describe-group default", `GROUP\|598916040194\|default\|default group
PERMISSION\|default\|ALLOWS\|all\|\|\|FROM\|USER\|598916040194\|GRPNAME\|default
PERMISSION\|default\|ALLOWS\|tcp\|22\|22\|FROM\|CIDR\|203\.0\.113\.25/32
`},
		{"", "ec2-authorize default -p 22 -s 203.0.113.25/32", `error Client\.InvalidPermission\.Duplicate: .*already exists\n`},
		{"", "ec2-revoke default -p 22 -s 203.0.113.25/32", `GROUP(?s:.*)ingress\n`},
		{"", "ec2-revoke default -p 22 -s 203.0.113.25/32", `error .*group default has no rule tcp 22 22 FROM CIDR 203\.0\.113\.25/32 ingress: nothing was removed.*\n`},
		{"", "ec2-create-group Apache -d web", `GROUP\|` + sg + `\|Apache\|web\n`},
		{"2006", "ec2-add-group MySQL -d db", `GROUP\|MySQL\|db\n`},
		{"", "ec2-authorize MySQL -P tcp -p 3306 -o Apache", `GROUP\|` + sg + `\|\|\|\|
PERMISSION\|\|\|ALLOWS\|tcp\|3306\|3306\|FROM\|USER\|598916040194\|NAME Apache\|ID ` + sg + `\|ingress
`},
		{"2006", "ec2-authorize MySQL -o default", `GROUP\|\|MySQL
PERMISSION\|\|MySQL\|ALLOWS\|all\|\|\|FROM\|USER\|598916040194\|GRPNAME\|default
`},
		{"", "ec2-authorize MySQL -t 8:-1", `GROUP(?s:.*)\|icmp\|8\|-1\|FROM\|CIDR\|0\.0\.0\.0/0\|ingress\n`},
		{"", "ec2-revoke MySQL -u 598916040194 -o default", `GROUP(?s:.*)\|icmp\|-1\|-1\|FROM\|USER\|598916040194\|NAME default\|ingress\n`},
		{"", "ec2-authorize nobody -p 22", `error Client\.InvalidGroup\.NotFound: The security group 'nobody' does not exist\n`},
		{"", "ec2-add-keypair albert", `KEYPAIR\|albert\|[0-9a-f:]+\n-----BEGIN (?s:.*)-----\n`},
		{"", "ec2-describe-keypairs", `KEYPAIR\|albert\|[0-9a-f:]+\n`},
		{"", "ec2-run-instances ami-eca54085 -k albert -g Apache -g default -t m1.small",
			`RESERVATION\|r-[0-9a-f]+\|598916040194\|(Apache,default|default,Apache)
INSTANCE\|i-[0-9a-f]+\|ami-eca54085\|\|[^|]*\|pending\|albert\|0\|\|m1\.small\|20..-..-..T..:..:..\+0000\|us-east-1a\|\|\|\|monitoring-disabled\|\|\|\|\|instance-store\|\|\|\|\|paravirtual\|[^|]*\|[^|]*\|sg-[0-9a-f]+,sg-[0-9a-f]+\|default
`},
		{"2006", "ec2-run-instances ami-eca54085 -n 2", `RESERVATION\|r-[0-9a-f]+\|598916040194
INSTANCE\|i-[0-9a-f]+\|ami-eca54085\|\|pending
INSTANCE\|(i-[0-9a-f]+)\|ami-eca54085\|\|pending
`},
		{"2006", "ec2-describe-instances $1", `RESERVATION\|r-[0-9a-f]+\|598916040194\nINSTANCE\|(i-[0-9a-f]+)\|ami-eca54085\|[^|]*\|pending\n`},
		{"", "ec2-terminate-instances $1", `INSTANCE\|(i-[0-9a-f]+)\|pending\|(shutting-down|terminated)\n`},
		{"", "ec2-stop-instances i-00000000", `error Client\.InvalidInstanceID\.NotFound: .*\n`},
		{"", "ec2-run-instances ami-banana", `error Client\.InvalidAMIID\.Malformed: .*\n`},
		{"", "ec2-delete-group Apache", `error Client\.(InvalidGroup\.InUse|DependencyViolation): .*\n`},
		{"", "ec2-delete-group default", `error Client\.(InvalidGroup\.Reserved|CannotDelete): .*\n`},
		{"", "ec2-delete-group MySQL", `RETURN\|true\n`},
		{"", "ec2-delete-keypair albert", `KEYPAIR\|albert\n`},
		{"", "ec2-describe-group -W wrong", `error Client\.(AuthFailure|SignatureDoesNotMatch): .*\n`},
	} {
		line := strings.ReplaceAll(tc.line, "$1", captured)
		got := svc.run(t, map[string]string{"EC2_TOOLS": tc.env}, strings.Fields(line)...)
		output, exit := got.stdout, 0
		want, refused := strings.CutPrefix(tc.want, "error ")
		if refused {
			output, exit = got.stderr, 1
		}
		output = strings.ReplaceAll(output, "\t", "|")
		m := regexp.MustCompile(`\A(?:` + want + `)\z`).FindStringSubmatch(output)
		if m == nil || got.exit != exit {
			t.Errorf("%s\n got exit %d:\n%s%s\nwant exit %d:\n%s", line, got.exit, output, got.stderr, exit, want)
			continue
		}
		if len(m) > 1 {
			captured = m[1]
		}
	}
}
