package state

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

func TestViewDescribesItself(t *testing.T) {
	w := newVPCWorld(t)
	w.must(&RegisterInterface{Account: dev, Region: east, Node: "node4", External: ec2.ExternalDevice{Device: "tap0"}, Spec: InterfaceSpec{Subnet: w.subnet.ID, SecondaryCount: 1}})
	w.report(w.run(1)[0].ID, ec2.Running)
	w.must(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{Name: "default"}, Rules: []RuleSpec{tcp(22, 23, "203.0.113.0/24")}})
	got := w.state.View().String() + "\n"
	path := filepath.Join("testdata", "view.txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the description of the view (-want +got):\n%s", diff)
	}
}

func TestDescriptionOfAViewIsShort(t *testing.T) {
	r := newReplay(t)
	r.run(12)
	for _, name := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		r.groupIn(albert, "", name)
	}
	got := r.state.View().String()
	if n := strings.Count(got, "\n") + 1; n != describedLines {
		t.Errorf("the description has %d lines, want %d:\n%s", n, describedLines, got)
	}
	for _, want := range []string{"node1", "instance ", "interface ", "more lines"} {
		if !strings.Contains(got, want) {
			t.Errorf("the description does not contain %q:\n%s", want, got)
		}
	}
	if got := NewState().View().String(); got != "state at index 0, 0001-01-01T00:00:00Z" {
		t.Errorf("the empty state is described as %q, want its index 0 and the zero time", got)
	}
}
