package deps

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "palisade/"

// apart lists pairs of directories. No package below from may import one below to, although
// the layers allow it.
var apart = []struct{ from, to, why string }{
	{"internal/lab", "switch", "the lab drives the binary, never its packages"},
	{"internal/lab", "cluster", "the lab drives the binary, never its packages"},
	{"internal/lab", "ec2/state", "the lab drives the binary, never its packages"},
	{"scenarios", "switch", "a scenario drives the binary, never its packages"},
	{"internal/instance", "switch", "an instance must not depend on the switch"},
}

// owners has, for each library, the packages that may import it. No other package uses its
// types.
var owners = map[string][]string{
	"github.com/songgao/water":                {"switch/tap"},
	"github.com/google/gopacket":              {"internal/packet"},
	"github.com/hashicorp/raft":               {"cluster"},
	"go.etcd.io/bbolt":                        {"cluster"},
	"github.com/hashicorp/memberlist":         {"cluster/gossip"},
	"github.com/hashicorp/go-memdb":           {"ec2/state"},
	"github.com/dchest/siphash":               {"conntrack"},
	"github.com/gaissmai/bart":                {"firewall", "switch"},
	"github.com/spf13/cobra":                  {"internal/cli"},
	"github.com/rogpeppe/go-internal":         {"scenarios"},
	"github.com/aws/aws-sdk-go-v2/aws/signer": {"ec2/query/sigv4", "internal/cli/ec2tools"},
}

// listed returns what each package of the module imports directly, without the imports of
// its tests. own has the imported packages of the module, by their path in the module;
// others has the packages outside of it, by their full path.
func listed(t *testing.T, arguments ...string) (own, others map[string][]string) {
	t.Helper()
	list := exec.Command("go", append([]string{"list", "-e", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`}, append(arguments, module+"...")...)...)
	out, err := list.Output()
	if err != nil {
		t.Fatalf("%v: %v", list, err)
	}
	own, others = map[string][]string{}, map[string][]string{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		name := strings.TrimPrefix(fields[0], module)
		own[name] = nil
		for _, imported := range fields[1:] {
			if path, ok := strings.CutPrefix(imported, module); ok {
				own[name] = append(own[name], path)
			} else {
				others[name] = append(others[name], imported)
			}
		}
	}
	return own, others
}

func picture(t *testing.T) *Layers {
	t.Helper()
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	layers, err := ParseLayers(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

// within reports whether path is tree or below it.
func within(path, tree string) bool { return path == tree || strings.HasPrefix(path, tree+"/") }

func TestImportsPointDown(t *testing.T) {
	own, _ := listed(t)
	for _, wrong := range picture(t).Check(own) {
		t.Error(wrong)
	}
	for name, list := range own {
		for _, imported := range list {
			for _, pair := range apart {
				if within(name, pair.from) && within(imported, pair.to) {
					t.Errorf("%s imports %s: %s", name, imported, pair.why)
				}
			}
		}
	}
}

// The test adds, by an overlay of the go command, a file with one wrong import to a package
// of each layer. Check must name that import.
func TestPlantedImportIsFound(t *testing.T) {
	layers := picture(t)
	for row, packages := range layers.rows {
		from, to := packages[0], layers.rows[max(row-1, 0)][0]
		if row == 0 {
			to = from // no layer is above the first, so its package imports itself
		}
		t.Run(fmt.Sprintf("%d %s imports %s", row+1, from, to), func(t *testing.T) {
			own, _ := listed(t, "-overlay", plant(t, from, to))
			want := fmt.Sprintf("%s (layer %d) imports %s (layer %d)", from, row+1, to, max(row, 1))
			wrong := layers.Check(own)
			if !slices.ContainsFunc(wrong, func(s string) bool { return strings.HasPrefix(s, want) }) {
				t.Errorf("Check did not report the planted import; it reported %q", wrong)
			}
		})
	}
}

// Check finds a package of the data plane that imports a package of the control plane
// through a third one.
func TestIndirectImportAcrossPlanesIsFound(t *testing.T) {
	layers, err := ParseLayers("    |data|both|control|\n    |--|--|--|\n    |a|||\n    |--|--|--|\n    ||b||\n    |--|--|--|\n    |||c|\n")
	if err != nil {
		t.Fatal(err)
	}
	wrong := layers.Check(map[string][]string{"a": {"b"}, "b": {"c"}, "c": nil})
	if len(wrong) != 1 || !strings.HasPrefix(wrong[0], "a depends on c") {
		t.Errorf("Check returned %q, want only: a depends on c", wrong)
	}
	if wrong := layers.Check(map[string][]string{"a": {"b"}, "b": nil, "c": nil, "d": nil}); len(wrong) != 1 || !strings.HasPrefix(wrong[0], "d is not in the picture") {
		t.Errorf("Check returned %q, want only: d is not in the picture", wrong)
	}
}

// plant writes an overlay of the go command and returns its path. The overlay adds to
// package from a file that imports package to.
func plant(t *testing.T, from, to string) (overlay string) {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	clause, err := exec.Command("go", "list", "-f", "{{.Name}}", module+from).Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "planted.go")
	source := fmt.Sprintf("package %s\nimport _ %q\n", strings.TrimSpace(string(clause)), module+to)
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, from, "planted.go"): file}})
	if err != nil {
		t.Fatal(err)
	}
	overlay = filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, replace, 0o644); err != nil {
		t.Fatal(err)
	}
	return overlay
}

func TestLibrariesEnterByOnePackage(t *testing.T) {
	_, others := listed(t)
	for name, list := range others {
		for _, imported := range list {
			for library, homes := range owners {
				if within(imported, library) && !slices.ContainsFunc(homes, func(home string) bool { return within(name, home) }) {
					t.Errorf("%s imports %s, which only %s may import", name, imported, strings.Join(homes, " or "))
				}
			}
			if name == "ec2" && strings.Contains(strings.Split(imported, "/")[0], ".") {
				t.Errorf("ec2 imports %s, but it may import no library", imported)
			}
		}
	}
}

// go.mod requires each library in owners.
func TestOwnedLibrariesAreRequired(t *testing.T) {
	required, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for library := range owners {
		name := strings.Join(strings.Split(library, "/")[:min(3, strings.Count(library, "/")+1)], "/")
		if !strings.Contains(string(required), name) {
			t.Errorf("library %s of owners is not in go.mod", library)
		}
	}
}

// A package with too many files must be split. ec2/state and ec2/query are exempt, because
// they have one file for each theme of EC2.
func TestPackagesHaveFewFiles(t *testing.T) {
	const most = 30
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{len .GoFiles}}", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		var name string
		var files int
		if _, err := fmt.Sscan(line, &name, &files); err != nil {
			t.Fatal(err)
		}
		if name = strings.TrimPrefix(name, module); files > most && name != "ec2/state" && name != "ec2/query" {
			t.Errorf("package %s has %d files, want at most %d", name, files, most)
		}
	}
}
