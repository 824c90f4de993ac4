package cli

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"

	"palisade/internal/lab"
)

func TestEveryCommandUsesTheLabOfTheShell(t *testing.T) {
	for value, want := range map[string]string{"": "lab", "elsewhere": "elsewhere"} {
		t.Setenv(lab.NameVariable, value)
		var seen []string
		var check func(*cobra.Command)
		check = func(c *cobra.Command) {
			for _, sub := range c.Commands() {
				check(sub)
			}
			flag := c.Flag("lab")
			if flag == nil {
				flag = c.Flag("name")
			}
			if flag == nil || !c.Runnable() || c.CommandPath() == "palisade bench" {
				return // bench measures in a lab only if --lab names one
			}
			seen = append(seen, c.CommandPath())
			if flag.DefValue != want || flag.Value.String() != want {
				t.Errorf("with %s=%q, %s uses the lab %q by default, want %q", lab.NameVariable, value, c.CommandPath(), flag.DefValue, want)
			}
		}
		check(newRoot())
		for _, path := range []string{"lab up", "lab env", "lab status", "lab exec", "lab down", "lab kill", "lab partition", "scenario run", "attach", "detach",
			"trace", "drops", "flows", "cut", "audit", "vpc list", "cluster status", "cluster fence", "account create", "account keys list"} {
			if !slices.Contains(seen, "palisade "+path) {
				t.Errorf("palisade %s has no flag that names the lab; those that have one: %q", path, seen)
			}
		}
	}
}

func TestBinaryRunsTheToolOfItsName(t *testing.T) {
	for _, tc := range []struct{ args, want []string }{
		{[]string{"bin/palisade", "lab", "up"}, []string{"lab", "up"}},
		{[]string{"/usr/local/bin/ec2-authorize", "default", "-p22"}, []string{"ec2-authorize", "default", "-p22"}},
		{[]string{"palisade", "ec2-revoke", "-h"}, []string{"ec2-revoke", "-h"}},
		{[]string{"ec2-authorise", "default"}, []string{"default"}},
	} {
		if got := calledAs(tc.args); !slices.Equal(got, tc.want) {
			t.Errorf("calledAs(%q) returns %q, want %q", tc.args, got, tc.want)
		}
	}
}

func TestUsageErrorsExitWithTwo(t *testing.T) {
	for _, args := range [][]string{
		{"palisade", "ec2-authorize"},
		{"palisade", "scenario", "run"},
		{"palisade", "scenario", "run", "no-such-story"},
		{"palisade", "scenario", "list", "too", "much"},
		{"palisade", "scenario", "run", "albert", "--no-such-flag"},
	} {
		if got := Main(args); got != 2 {
			t.Errorf("%q exits with %d, want 2", args, got)
		}
	}
}
