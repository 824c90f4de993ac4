package clients

import (
	"encoding/json"
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

// ansiblePlaybook is Debian's ansible 7.7.0, with version 5 of the collection amazon.aws.
const ansiblePlaybook = "/usr/bin/ansible-playbook"

// An ansible runs the playbooks of testdata/ansible for one region.
type ansible struct {
	environ []string
	vars    []string
	result  string // the file to which present.yml writes the instances
}

func newAnsible(t *testing.T, l *labtest.Lab, a lab.Account, region string) *ansible {
	t.Helper()
	if _, err := os.Stat(ansiblePlaybook); err != nil {
		t.Fatalf("ansible is missing (%v); install it with: make setup-clients", err)
	}
	home := t.TempDir()
	result := filepath.Join(home, "result.json")
	vars, err := json.Marshal(map[string]string{"ansible_python_interpreter": "/usr/bin/python3", "region": region, "image": "ami-0123456789abcdef0", "public_key": publicKey(t), "result": result})
	check(t, err)
	environ := append(l.Environ(a, home), "ANSIBLE_LOCALHOST_WARNING=0", "ANSIBLE_DEPRECATION_WARNINGS=0", "ANSIBLE_NOCOLOR=1")
	return &ansible{environ: environ, vars: []string{"-i", "localhost,", "-e", string(vars)}, result: result}
}

var recap = regexp.MustCompile(`localhost +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0 `)

// run runs a playbook and returns the number of tasks that changed something.
func (p *ansible) run(t *testing.T, playbook string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), ansiblePlaybook, append(append(p.vars, args...), "testdata/ansible/"+playbook)...)
	cmd.Env = p.environ
	out, err := cmd.CombinedOutput()
	m := recap.FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("ansible-playbook %s %s: %v\n%s", playbook, strings.Join(args, " "), err, out)
	}
	return string(m[1])
}

// instances returns the instances that present.yml found, by name.
func (p *ansible) instances(t *testing.T, l *labtest.Lab) map[string]instance {
	t.Helper()
	data, err := os.ReadFile(p.result)
	check(t, err)
	var list []struct {
		ID      string            `json:"instance_id"`
		Private string            `json:"private_ip_address"`
		Public  string            `json:"public_ip_address"`
		Tags    map[string]string `json:"tags"`
	}
	check(t, json.Unmarshal(data, &list))
	made := make(map[string]instance)
	for _, i := range list {
		in := instance{host: host{i.Tags["Name"], l.Namespace(i.ID)}, id: i.ID, private: netip.MustParseAddr(i.Private)}
		in.public, _ = netip.ParseAddr(i.Public)
		made[in.name] = in
	}
	if len(made) != 2 {
		t.Fatalf("present.yml found %d instances, want 2: %s", len(made), data)
	}
	return made
}

func testAnsible(t *testing.T, l *labtest.Lab) {
	testPlaybooks(t, l, newAccount(t, l, "ansible"), lab.Region)
}

// testPlaybooks makes a network, a gateway, subnets, a route table, groups, an interface and instances, makes them
// again, which must change nothing, changes two rules, and removes everything, with packets after each step.
func testPlaybooks(t *testing.T, l *labtest.Lab, a lab.Account, region string) {
	p := newAnsible(t, l, a, region)
	s := testbedOf(t, l, a)
	if changed := p.run(t, "present.yml"); changed != "11" {
		t.Errorf("the first run changed %s things, want 11", changed)
	}
	check(t, s.watcher.enforced(t.Context(), ""))
	made := p.instances(t, l)
	web, database := made["shop-web"], made["shop-database"]
	never := []probe{
		toAddress(s.stranger, web.public, web, "tcp/8080"), toAddress(s.laptop, web.public, web, "tcp/22"),
		to(web.host, database, "tcp/6006"), to(web.host, database, "udp/7000"), to(database.host, web, "tcp/8080"),
	}
	before := []probe{toAddress(s.laptop, web.public, web, "tcp/8080"), toAddress(s.laptop, web.public, web, "icmp"), to(web.host, database, "tcp/5432"), to(web.host, database, "tcp/6005")}
	after := []probe{toAddress(s.laptop, web.public, web, "tcp/8443"), to(web.host, database, "tcp/5433")}
	s.send(t, "present", before, append(never, after...))

	if changed := p.run(t, "present.yml"); changed != "0" {
		t.Errorf("the second run changed %s things, want 0", changed)
	}
	s.send(t, "present twice", before, never)

	if changed := p.run(t, "present.yml", "--tags", "rules", "-e", `{"web_ports": [8443], "database_port": 5433}`); changed != "2" {
		t.Errorf("the run with other ports changed %s things, want 2", changed)
	}
	check(t, s.watcher.enforced(t.Context(), ""))
	s.send(t, "changed", append(after, before[1], before[3]), append(never, before[0], before[2]))

	p.run(t, "absent.yml")
	check(t, s.watcher.enforced(t.Context(), ""))
	wantClosed(t, s.laptop, web.public, "open/8443")
	wantOnlyDefaults(t, l, a, region)
}
