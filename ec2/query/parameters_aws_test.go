package query

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// update makes the tests write their files instead of comparing them.
var update = flag.Bool("update", false, "write aws.txt, docs/API.md and the dialogs")

var (
	sdkParameters = regexp.MustCompile(`(?s)func awsEc2query_serializeOpDocument(\w+)Input\(.*?\n}\n`)
	sdkKey        = regexp.MustCompile(`object\.(?:Flat)?Key\("([^"]+)"\)`)
)

// aws.txt is generated from the source of the Go SDK, which has every Action and the names
// of its parameters.
func TestActionListMatchesSDK(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/ec2").Output()
	if err != nil {
		t.Fatalf("find the source of the SDK: %v", err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "serializers.go"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, m := range sdkParameters.FindAllSubmatch(source, -1) {
		words := []string{}
		for _, key := range sdkKey.FindAllSubmatch(m[0], -1) {
			words = append(words, string(key[1]))
		}
		slices.Sort(words)
		lines = append(lines, strings.Join(append([]string{string(m[1])}, slices.Compact(words)...), " ")+"\n")
	}
	slices.Sort(lines)
	want := strings.Join(lines, "")
	if len(lines) < 700 {
		t.Fatalf("found only %d actions in the SDK: the form of its source has changed", len(lines))
	}
	if *update {
		if err := os.WriteFile("aws.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(awsText, want); diff != "" {
		t.Errorf("aws.txt differs from the SDK; go test ./ec2/query -run %s -update writes it:\n%s", t.Name(), diff)
	}
}
