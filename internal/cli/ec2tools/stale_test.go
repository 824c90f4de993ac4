package ec2tools

import (
	"regexp"
	"strings"
	"testing"
)

// TestStaleAnswerPrintsItsIndex: on stderr, for stdout is what scripts read.
func TestStaleAnswerPrintsItsIndex(t *testing.T) {
	svc := newServer(t)
	got := svc.run(t, nil, "ec2-describe-group", "--stale")
	if got.exit != 0 || !strings.Contains(got.stdout, "default group") || !regexp.MustCompile(`^as of index [1-9][0-9]*\n$`).MatchString(got.stderr) {
		t.Errorf("got %+v", got)
	}
	if fresh := svc.run(t, nil, "ec2-describe-group"); fresh.stdout != got.stdout || fresh.stderr != "" {
		t.Errorf("without --stale: got %+v", fresh)
	}
	if change := svc.run(t, nil, "ec2-create-group", "web", "-d", "x", "--stale"); change.exit == 0 {
		t.Errorf("a change takes --stale: %+v", change)
	}
}
