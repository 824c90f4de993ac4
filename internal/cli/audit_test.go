package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An export is verified against the cluster that made it. What was changed in it is found, with the line.
func TestAuditExportIsVerified(t *testing.T) {
	c := nodeCommand{t, startNode(t)}
	file := func(name, content string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, name := range []string{"carol", "dora", "emil"} {
		c.must("account", "create", "--name", name)
	}
	export := c.must("audit", "export")
	first := file("first", export)
	if got := c.must("audit", "verify", first); !strings.Contains(got, "operators  1 to 3   0") || !strings.Contains(got, "3 records, all as the cluster recorded them") {
		t.Errorf("audit verify prints\n%s\nwant the 3 records of the operators", got)
	}
	lines := strings.SplitAfter(export, "\n")
	for what, changed := range map[string]struct{ content, text string }{
		"changed":  {strings.Replace(export, "Name\":\"dora", "Name\":\"dorb", 1), "line 3: record 2 of the operators has another content"},
		"removed":  {lines[0] + lines[1] + lines[3], "line 3: record 3 of the operators follows record 1 in line 2"},
		"inserted": {lines[0] + lines[1] + lines[1] + lines[2] + lines[3], "line 3: record 1 of the operators follows record 1"},
		"cut off":  {lines[0] + lines[1] + lines[2], "line 4: the file ends with record 2 of the operators"},
	} {
		c.fails(changed.text, "audit", "verify", file(what, changed.content))
	}
	c.exits(1, "audit", "verify", file("changed", strings.Replace(export, "dora", "dorb", 1)))

	c.must("account", "create", "--name", "fred")
	c.fails("the cluster's chain ends with 4", "audit", "verify", first)
	if got := c.must("audit", "verify", "--older", first); !strings.Contains(got, "operators  1 to 3   1") {
		t.Errorf("audit verify --older prints\n%s\nwant 3 records, and 1 that is newer", got)
	}
	second := file("second", c.must("audit", "export"))
	if got := c.must("audit", "verify", first, second); !strings.Contains(got, "4 records") {
		t.Errorf("audit verify of two exports prints\n%s\nwant 4 records", got)
	}
	c.fails("no such file", "audit", "verify", "none")
	c.exits(2, "audit", "verify")
}
