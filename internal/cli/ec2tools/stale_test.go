package ec2tools

import (
	"regexp"
	"strings"
	"testing"
)

// The index is printed on stderr, because scripts read stdout.
func TestStaleAnswerPrintsItsIndex(t *testing.T) {
	svc := newServer(t)
	got := svc.run(t, nil, "ec2-describe-group", "--stale")
	if got.exit != 0 || !strings.Contains(got.stdout, "default group") || !regexp.MustCompile(`^as of index [1-9][0-9]*\n$`).MatchString(got.stderr) {
		t.Errorf("with --stale: got %+v, want exit 0 and the index on stderr", got)
	}
	if fresh := svc.run(t, nil, "ec2-describe-group"); fresh.stdout != got.stdout || fresh.stderr != "" {
		t.Errorf("without --stale: got %+v, want the same output and no text on stderr", fresh)
	}
	if change := svc.run(t, nil, "ec2-create-group", "web", "-d", "x", "--stale"); change.exit == 0 {
		t.Errorf("a tool that changes something accepted --stale: %+v", change)
	}
}
