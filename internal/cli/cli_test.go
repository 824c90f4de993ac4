package cli

import (
	"slices"
	"testing"
)

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
