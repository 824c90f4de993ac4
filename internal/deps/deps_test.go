// Package deps holds the import rules of ARCHITECTURE.md, as a test.
package deps

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"
)

// The layers, from the top. A package imports only from layers below its own, or from
// beside it where a rule names it.
var forbidden = []struct{ from, to, why string }{
	{"palisade/switch", "palisade/cluster", "the data plane knows no control plane; node translates"},
	{"palisade/conntrack", "palisade/ec2", "connections know no groups"},
	{"palisade/conntrack", "palisade/firewall", "conntrack and firewall do not know each other; switch composes them"},
	{"palisade/firewall", "palisade/conntrack", "conntrack and firewall do not know each other; switch composes them"},
	{"palisade/firewall", "palisade/switch", "a table knows no port"},
	{"palisade/firewall", "palisade/cluster", "firewall reads ec2's plain values, not replication"},
	{"palisade/ec2", "palisade/internal", "the domain is pure"},
	{"palisade/ec2", "palisade/cluster", "the domain is pure"},
	{"palisade/cluster", "palisade/switch", "the control plane knows no data plane; node translates"},
	{"palisade/cluster", "palisade/firewall", "the control plane knows no data plane; node translates"},
	{"palisade/cluster", "palisade/internal/node", "imports point down"},
	{"palisade/cluster/gossip", "palisade/cluster", "cluster starts gossip, and tells it what it needs to know"},
	{"palisade/internal/peer", "palisade", "who a node is comes before what it does; cluster, switch/overlay and node use it"},
	{"palisade/internal/node/plane", "palisade/internal/node", "node puts its parts together; they know each other by interfaces"},
	{"palisade/internal/node/fleet", "palisade/internal/node", "node puts its parts together; they know each other by interfaces"},
	{"palisade/internal/node/control", "palisade/internal/node", "node puts its parts together; they know each other by interfaces"},
	{"palisade/internal/packet", "palisade/switch", "imports point down"},
	{"palisade/internal/lab", "palisade/internal/node", "the lab drives the binary, never internals"},
	{"palisade/internal/lab", "palisade/switch", "the lab drives the binary, never internals"},
	{"palisade/internal/lab", "palisade/cluster", "the lab drives the binary, never internals"},
	{"palisade/internal/instance", "palisade/switch", "an instance knows no switch"},
	{"palisade/internal/instance", "palisade/cluster", "an instance knows no API"},
}

// Exceptions: the one place each.
var allowed = map[[2]string]string{
	{"palisade/ec2/query", "palisade/internal"}: "query may use helpers; only package ec2 itself is pure",
}

// owners are third-party libraries that enter by one package; their types stay there.
var owners = map[string][]string{
	"github.com/songgao/water":                {"palisade/switch/tap"},
	"github.com/google/gopacket":              {"palisade/internal/packet"},
	"github.com/hashicorp/raft":               {"palisade/cluster"},
	"go.etcd.io/bbolt":                        {"palisade/cluster"},
	"github.com/hashicorp/memberlist":         {"palisade/cluster/gossip"},
	"github.com/hashicorp/go-memdb":           {"palisade/ec2/state"},
	"github.com/dchest/siphash":               {"palisade/conntrack"},
	"github.com/gaissmai/bart":                {"palisade/firewall", "palisade/switch"},
	"github.com/spf13/cobra":                  {"palisade/internal/cli"},
	"github.com/rogpeppe/go-internal":         {"palisade/scenarios"},
	"github.com/schollz/progressbar":          {"palisade/internal/cli", "palisade/scenarios", "palisade/internal/bench"},
	"github.com/aws/aws-sdk-go-v2/aws/signer": {"palisade/ec2/query/sigv4", "palisade/internal/cli/ec2tools"},
}

// imports lists every package of the module with what it imports itself, tests apart.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "palisade/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string][]string{}
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		all[fields[0]] = fields[1:]
	}
	return all
}

// within reports whether path is tree or below it.
func within(path, tree string) bool { return path == tree || strings.HasPrefix(path, tree+"/") }

func TestImportsPointDown(t *testing.T) {
	for pkg, list := range imports(t) {
		for _, imported := range list {
			for _, rule := range forbidden {
				// cmd and internal/cli stand on top of everything; a rule about a
				// tree does not bind a tree of its own below it.
				if !within(pkg, rule.from) || !within(imported, rule.to) || within(imported, rule.from) {
					continue
				}
				if imported == "palisade/internal/atomicfile" && pkg != "palisade/ec2" {
					continue // knows nothing of us
				}
				if _, ok := allowed[[2]string{pkg, rule.to}]; ok {
					continue
				}
				t.Errorf("%s imports %s: %s", pkg, imported, rule.why)
			}
		}
	}
}

func TestLibrariesEnterByOnePackage(t *testing.T) {
	for pkg, list := range imports(t) {
		for _, imported := range list {
			for library, homes := range owners {
				if !within(imported, library) {
					continue
				}
				home := false
				for _, h := range homes {
					home = home || within(pkg, h)
				}
				if !home {
					t.Errorf("%s imports %s, whose place is %s", pkg, imported, strings.Join(homes, " or "))
				}
			}
		}
	}
}
