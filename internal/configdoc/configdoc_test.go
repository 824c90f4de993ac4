package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"palisade/internal/node"
)

func TestDocumentIsUpToDate(t *testing.T) {
	want, err := document("../..")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/CONFIG.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), string(want)); diff != "" {
		t.Errorf("docs/CONFIG.md is out of date; run `make config-docs` (-file +comments):\n%s", diff)
	}
}

// The comment of each key of the configuration file says its default, or that it is required.
func TestEveryKeyOfANodeSaysItsDefault(t *testing.T) {
	structs, err := parsePackage("../..", nodeDir)
	if err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile(`(?i)\b(default|required)\b`)
	keys := 0
	for _, s := range structs {
		for _, f := range s.fields {
			if _, table := structs[strings.TrimPrefix(f.goType, "[]")]; f.key == "" || table {
				continue
			}
			if keys++; !said.MatchString(f.comment) {
				t.Errorf("the comment of %s.%s says neither a default nor that it is required: %q", s.name, f.name, f.comment)
			}
		}
	}
	if keys < 20 {
		t.Errorf("%d keys were checked, want at least 20", keys)
	}
}

func TestNodeReadsTheExample(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.toml")
	if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := node.ReadConfig(path); err != nil {
		t.Error(err)
	}
}
