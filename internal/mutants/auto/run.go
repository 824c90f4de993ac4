package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A suite is the tests of one package, compiled once with all mutants in it.
type suite struct {
	dir    string // absolute, of the test package
	binary string
	tests  []*test
}

type test struct {
	name    string
	suite   *suite
	took    time.Duration
	reached []byte // one byte for each mutant
}

// A runner runs the tests of a source.
type runner struct {
	source   *source
	work     string // a directory that is removed at the end
	suites   []*suite
	parallel int
	progress io.Writer
	grace    time.Duration // what a test may take beside three times its time in the first run
}

// build compiles the tests of a package with all mutants.
func (r *runner) build(root, dir string) (*suite, error) {
	abs, err := filepath.Abs(filepath.Join(root, dir))
	if err != nil {
		return nil, err
	}
	replaced := map[string]string{}
	put := func(path string, text []byte) error {
		instead := filepath.Join(r.work, filepath.Base(path))
		replaced[path] = instead
		return os.WriteFile(instead, text, 0o600)
	}
	here, err := filepath.Abs(filepath.Join(root, r.source.dir))
	if err != nil {
		return nil, err
	}
	errs := []error{put(filepath.Join(here, "mutant_helpers.go"), []byte(r.source.helpers()))}
	for _, f := range r.source.files {
		errs = append(errs, put(f.path, f.mutated(func(*mutant) bool { return true })))
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": replaced})
	overlay := filepath.Join(r.work, "overlay.json")
	if err := errors.Join(append(errs, err, os.WriteFile(overlay, list, 0o600))...); err != nil {
		return nil, err
	}
	s := &suite{dir: abs, binary: filepath.Join(r.work, strings.ReplaceAll(dir, "/", "_")+".test")}
	cmd := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", s.binary, "./"+dir)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s does not compile with its mutants: %w\n%s", dir, err, out)
	}
	return s, nil
}

// find lists the tests of a suite whose name matches, without those that need namespaces unless
// netns is set.
func (s *suite) find(match *regexp.Regexp, netns bool) error {
	paths, err := filepath.Glob(filepath.Join(s.dir, "*_test.go"))
	if err != nil {
		return err
	}
	skip := map[string]bool{}
	for _, path := range paths {
		tree, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range tree.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && strings.HasSuffix(path, "_netns_test.go") && !netns {
				skip[fn.Name.Name] = true
			}
		}
	}
	cmd := exec.Command(s.binary, "-test.list", "^(Test|Fuzz|Example)")
	cmd.Dir = s.dir
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(out)) {
		if !skip[name] && match.MatchString(name) {
			s.tests = append(s.tests, &test{name: name, suite: s})
		}
	}
	return nil
}

// baseline runs each test alone, without a mutant, and records how long it takes and which mutants it
// reaches. A test that fails twice is left out.
func (r *runner) baseline() (left []string) {
	var mu sync.Mutex
	var all []*test
	for _, s := range r.suites {
		all = append(all, s.tests...)
	}
	kept := map[*test]bool{}
	r.each(len(all), func(i int) {
		t := all[i]
		path := filepath.Join(r.work, "reached-"+strconv.Itoa(i))
		for range 2 {
			if err := os.WriteFile(path, make([]byte, len(r.source.mutants)+1), 0o600); err != nil {
				return
			}
			began := time.Now()
			out := t.suite.run(0, []*test{t}, 5*time.Minute, path)
			t.took = time.Since(began)
			if out.passed {
				t.reached, _ = os.ReadFile(path)
				mu.Lock()
				kept[t] = true
				mu.Unlock()
				return
			}
		}
		mu.Lock()
		left = append(left, t.name)
		mu.Unlock()
	})
	for _, s := range r.suites {
		s.tests = slices.DeleteFunc(s.tests, func(t *test) bool { return !kept[t] })
	}
	return left
}

// each calls do for 0 to n-1 in parallel.
func (r *runner) each(n int, do func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range r.parallel {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// An outcome is what a run of tests came to.
type outcome struct {
	passed   bool
	timedOut bool
	failed   []string // tests
	output   string
}

var failLine = regexp.MustCompile(`(?m)^--- FAIL: (\w+) `)

// run runs tests with one mutant on.
func (s *suite) run(id int, tests []*test, limit time.Duration, reached string) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	names := make([]string, len(tests))
	for i, t := range tests {
		names[i] = t.name
	}
	// The limit of memory ends a mutant that allocates for ever.
	cmd := exec.CommandContext(ctx, "sh", "-c", `ulimit -v 12000000; exec "$@"`, "sh",
		s.binary, "-test.failfast", "-test.run", "^("+strings.Join(names, "|")+")$", "-test.timeout", "0")
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "MUTANT="+strconv.Itoa(id), "MUTANT_REACHED="+reached)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	o := outcome{passed: err == nil, timedOut: ctx.Err() != nil, output: out.String()}
	for _, match := range failLine.FindAllStringSubmatch(o.output, -1) {
		o.failed = append(o.failed, match[1])
	}
	return o
}

// kill runs the tests that reach a mutant, the fast ones first. It returns which test killed the
// mutant, or "" for a survivor, and whether any test reached it.
func (r *runner) kill(m *mutant) (by string, reached bool) {
	for _, s := range r.suites {
		var tests []*test
		for _, t := range s.tests {
			if t.reached[m.id] != 0 {
				tests = append(tests, t)
			}
		}
		slices.SortFunc(tests, func(a, b *test) int { return int(a.took - b.took) })
		for len(tests) > 0 {
			reached = true
			// Fast tests share a process.
			n, sum := 1, tests[0].took
			for n < len(tests) && sum+tests[n].took < time.Second {
				sum += tests[n].took
				n++
			}
			if by := s.confirmed(m, tests[:n], 3*sum+r.grace); by != "" {
				return by, true
			}
			tests = tests[n:]
		}
	}
	return "", reached
}

// confirmed runs tests with a mutant. It returns what killed the mutant, or "". A test that fails must
// fail twice. One that does not end must not end in twice the time either, although it does without the
// mutant now: the machine may be slower than in the first run.
func (s *suite) confirmed(m *mutant, tests []*test, limit time.Duration) string {
	o := s.run(m.id, tests, limit, "")
	switch {
	case o.passed:
		return ""
	case o.timedOut:
		began := time.Now()
		if !s.run(0, tests, 10*limit, "").passed {
			return "" // too slow to tell
		}
		if s.run(m.id, tests, max(2*limit, 3*time.Since(began)), "").passed {
			return ""
		}
		return "time-out of " + tests[0].name
	case len(o.failed) == 0 || strings.Contains(o.output, "\npanic: ") || strings.HasPrefix(o.output, "panic: "):
		return "panic in " + tests[0].name
	}
	i := slices.IndexFunc(tests, func(t *test) bool { return t.name == o.failed[0] })
	if i < 0 {
		return o.failed[0]
	}
	one := tests[i : i+1]
	flaky := one[0].took > time.Second && !s.run(0, one, 10*limit, "").passed
	if flaky || s.run(m.id, one, 2*limit, "").passed {
		rest := slices.Concat(tests[:i], tests[i+1:])
		if len(rest) == 0 {
			return ""
		}
		return s.confirmed(m, rest, limit)
	}
	return o.failed[0]
}

// names returns the names of the tests of all suites with their time, the slowest first.
func (r *runner) names() string {
	took := map[string]time.Duration{}
	for _, s := range r.suites {
		for _, t := range s.tests {
			took[t.name] = t.took
		}
	}
	names := slices.SortedFunc(maps.Keys(took), func(a, b string) int { return int(took[b] - took[a]) })
	var b strings.Builder
	for _, name := range names[:min(5, len(names))] {
		fmt.Fprintf(&b, " %s %v", name, took[name].Round(10*time.Millisecond))
	}
	return b.String()
}
