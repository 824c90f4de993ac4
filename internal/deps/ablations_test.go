package deps

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ablated matches a call that makes a Switch without rules or without a connection tracker.
var ablated = regexp.MustCompile(`vswitch\.(NewRelay|NewStateless)\b`)

// A Switch without rules or without a connection tracker does not enforce security groups.
// Only the benchmark may make one; a node never does.
func TestOnlyBenchmarkMakesSwitchWithoutRulesOrTracker(t *testing.T) {
	const root = "../.."
	users := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil || !ablated.Match(source) {
			return err
		}
		if users++; !strings.HasPrefix(path, root+"/internal/bench/") {
			t.Errorf("%s makes a Switch without rules or tracker, which only internal/bench may make", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if users == 0 {
		t.Error("found no file that makes a Switch without rules or tracker, want those of internal/bench: the search does not work")
	}
}
