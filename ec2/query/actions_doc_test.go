package query

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

//go:generate go test -run ^TestAPIDocumentMatchesActions$ -update .

// docs/API.md is generated from the table of Actions by go generate ./ec2/query.
func TestAPIDocumentMatchesActions(t *testing.T) {
	for _, s := range []*service{ec2Service, stsService} {
		for name := range s.actions {
			if descriptions[name].does == "" {
				t.Errorf("%s is served but not described: describe it in actions_words_test.go", name)
			}
		}
	}
	for name := range descriptions {
		_, ec2 := ec2Service.actions[name]
		_, sts := stsService.actions[name]
		if !ec2 && !sts {
			t.Errorf("%s is described but not served", name)
		}
	}
	path := filepath.Join("..", "..", "docs", "API.md")
	want := apiDocument()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("docs/API.md is stale; go generate ./ec2/query writes it:\n%s", diff)
	}
}

const apiHead = `# The API

Written by ` + "`go generate ./ec2/query`" + ` from the table of actions: do not edit it here.

The EC2 Query API, by GET or POST at ` + "`/`" + `: ` + "`Action`" + `, ` + "`Version`" + ` (any day from %s to %s), the parameters below, signed by
Signature Version 4 in the header or in the query string; the region is the signature's. ` + "`n`" + ` is a number from 1 up. Every
action takes ` + "`DryRun`" + `. What AWS means by an action and its parameters, its API Reference says; FIDELITY.md says what was checked.

An action that AWS has and that is not listed is UnsupportedOperation. *Refused* are parameters that AWS has and that would change
what is admitted, unless they ask for nothing; *ignored* are the others that are not served. A parameter that is served may still
be refused for a value: the error says which.

`

func apiDocument() string {
	var b strings.Builder
	fmt.Fprintf(&b, apiHead, firstVersion, lastVersion)
	for _, s := range []*service{ec2Service, stsService} {
		title := fmt.Sprintf("EC2: %d actions", len(s.actions))
		if s == stsService {
			title = "STS, on the same port (version " + stsVersion + ")"
		}
		fmt.Fprintf(&b, "## %s\n\n", title)
		for _, name := range slices.Sorted(maps.Keys(s.actions)) {
			describeAction(&b, s, name)
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func describeAction(b *strings.Builder, s *service, name string) {
	served := slices.Sorted(maps.Keys(parametersOf(s.actions[name].request, "")))
	top := make(map[string]bool)
	var refused, ignored []string
	for _, p := range served {
		first, _, _ := strings.Cut(p, ".")
		top[first] = true
		if unserved, ok := strings.CutSuffix(p, ".*"); ok {
			refused = append(refused, unserved)
		}
	}
	served = slices.DeleteFunc(served, func(p string) bool { return strings.HasSuffix(p, ".*") })
	fmt.Fprintf(b, "### %s\n\n%s\n\n", name, descriptions[name].does)
	bullet(b, "Parameters", served)
	for _, p := range awsActions()[name] {
		switch {
		case top[p] || p == "DryRun" || s != ec2Service:
		case !onlyReads(name) && decisive.MatchString(p):
			refused = append(refused, p)
		default:
			ignored = append(ignored, p)
		}
	}
	slices.Sort(refused)
	bullet(b, "Refused", refused)
	bullet(b, "Ignored", ignored)
	if d := descriptions[name].differs; d != "" {
		fmt.Fprintf(b, "- Differs: %s\n", d)
	}
	b.WriteString("\n")
}

func bullet(b *strings.Builder, what string, names []string) {
	if len(names) > 0 {
		fmt.Fprintf(b, "- %s: `%s`\n", what, strings.Join(names, "`, `"))
	}
}
