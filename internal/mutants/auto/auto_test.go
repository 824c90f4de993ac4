package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	root   = "../../.."
	sample = "internal/mutants/auto/testdata/sample"
)

// The tests of the sample watch all but what is listed here.
var survivorsOfSample = `
not reached: sample.go:30 (*box).has return: true -> !true
not reached: sample.go:62 unused negate: !on -> on
survives: sample.go:18 (*box).put operand: b.used >= b.room || b.has(name) -> b.used >= b.room
survives: sample.go:21 (*box).put remove: b.names = append(b.names, name) -> nothing
survives: sample.go:36 (*box).left return: return b.room - b.used -> return *new(int)
survives: sample.go:47 vowels case: default: continue -> default:
survives: sample.go:47 vowels loop: continue -> break
`

func TestToolFindsWhatTheTestsOfASampleDoNotWatch(t *testing.T) {
	s, err := load(root, sample)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, m := range s.mutants {
		kinds[m.kind] = true
	}
	for _, kind := range []string{"boundary", "negate", "operand", "arithmetic", "constant", "remove", "return", "case", "loop"} {
		if !kinds[kind] {
			t.Errorf("the sample has no mutant of the kind %s", kind)
		}
	}
	r := &runner{source: s, work: t.TempDir(), parallel: 2, grace: 500 * time.Millisecond, progress: io.Discard}
	tests, err := r.build(root, sample)
	if err != nil {
		t.Fatal(err)
	}
	if err := tests.find(regexp.MustCompile("."), false); err != nil {
		t.Fatal(err)
	}
	r.suites = []*suite{tests}
	if left := r.baseline(); !slices.Equal(left, []string{"TestThatFails"}) {
		t.Errorf("the baseline left out %q, want only TestThatFails", left)
	}
	got := r.survivors(s.mutants)
	slices.Sort(got)
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(survivorsOfSample), "\n"), got); diff != "" {
		t.Errorf("survivors differ (-want +got):\n%s", diff)
	}
}

func TestSampleIsReproducible(t *testing.T) {
	s, err := load(root, sample)
	if err != nil {
		t.Fatal(err)
	}
	o := options{seed: 7, n: 5, at: regexp.MustCompile("vowels")}
	first, _ := o.sample(s, nil)
	again, _ := o.sample(s, nil)
	if len(first) != 5 || !slices.Equal(first, again) {
		t.Errorf("two samples of one seed are %v and %v, want the same five", first, again)
	}
	for _, m := range first {
		if m.function != "vowels" {
			t.Errorf("the sample has %v, want mutants of vowels alone", m)
		}
	}
	without, equivalent := o.sample(s, equivalents{first[0].key(): true})
	if len(without) != 4 || equivalent != 1 {
		t.Errorf("with one equivalent mutant the sample has %d and leaves out %d, want 4 and 1", len(without), equivalent)
	}
}

// Each line of equivalent.txt names a mutant that exists.
func TestEquivalentMutantsExist(t *testing.T) {
	known, err := readEquivalents("equivalent.txt")
	if err != nil {
		t.Fatal(err)
	}
	exist := map[string]bool{}
	for _, dir := range strings.Fields(packages) {
		s, err := load(root, dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range s.mutants {
			exist[m.key()] = true
		}
	}
	for key := range known {
		if !exist[key] {
			t.Errorf("equivalent.txt has a mutant that does not exist any more: %s", key)
		}
	}
	path := filepath.Join(t.TempDir(), "equivalent.txt")
	if err := os.WriteFile(path, []byte("# a reason\nx f negate: a -> b\n\nx f negate: b -> c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readEquivalents(path); err == nil || !strings.Contains(err.Error(), "no reason before it: x f negate: b -> c") {
		t.Errorf("a mutant without a reason was read with error %v", err)
	}
}
