//go:build mutants

package mutants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Time limits of each build and each test.
const (
	buildTime = 3 * time.Minute
	testTime  = 2 * time.Minute
)

// TestEveryMutantIsKilled runs each mutant's test twice: without the mutant it must pass,
// with the mutant it must fail. A mutant that does not compile, or whose test does not end
// in time, counts as not killed.
func TestEveryMutantIsKilled(t *testing.T) {
	began := time.Now()
	var ran, killed atomic.Int64
	t.Cleanup(func() { // runs after the parallel subtests have ended
		t.Logf("%d of %d mutants killed in %v", killed.Load(), ran.Load(), time.Since(began).Round(time.Second))
		if ran.Load() == 0 {
			t.Error("the variable ONLY selects no mutant; examples: ONLY=switch/, ONLY=switch/source-mac")
		}
	})
	var unmutated sync.Map // by package and name of a test: a func() error that says why it fails without any mutant, or nil
	for _, m := range readMutants(t) {
		t.Run(m.Name, func(t *testing.T) {
			ran.Add(1)
			if m.Tests != "internal/instance" && m.Tests != "switch/afpacket" { // two of their tests at once would create namespaces with the same name
				t.Parallel()
			}
			key := m.Tests + " " + m.Test
			passes, _ := unmutated.LoadOrStore(key, sync.OnceValue(func() error { return m.passesWithout(t) }))
			if err := passes.(func() error)(); err != nil {
				t.Fatalf("test %s fails without any mutant: %v", key, err)
			}
			began := time.Now()
			if err := m.isKilled(t); err != nil {
				t.Errorf("the mutant is not killed: %v\nit removes a check of %s; without the check, %s", err, m.In, m.Why)
				return
			}
			killed.Add(1)
			t.Logf("test %s killed the mutant in %.1f s", key, time.Since(began).Seconds())
		})
	}
}

// passesWithout runs the mutant's test without the mutant. It returns nil if the test
// passes.
func (m *Mutant) passesWithout(t *testing.T) error {
	binary, err := m.compile(t)
	if err != nil {
		return err
	}
	out, err := m.run(binary)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tail(out))
	}
	if !strings.Contains(out, "--- PASS: "+m.Test+" ") {
		return fmt.Errorf("the test did not run:\n%s", tail(out))
	}
	return nil
}

// isKilled runs the mutant's test with the mutant. It returns nil if the test fails.
func (m *Mutant) isKilled(t *testing.T) error {
	path, mutated, err := m.Apply(root)
	if err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	dir := t.TempDir()
	instead, overlay := filepath.Join(dir, filepath.Base(path)), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: instead}})
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(instead, mutated, 0o600), os.WriteFile(overlay, list, 0o600)); err != nil {
		return err
	}
	binary, err := m.compile(t, "-overlay", overlay)
	if err != nil {
		return err
	}
	out, err := m.run(binary)
	switch {
	case err == nil:
		return fmt.Errorf("%s passes with the mutant", m.Test)
	case strings.Contains(out, "panic: test timed out") || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s does not end in time", m.Test)
	case !strings.Contains(out, "--- FAIL: "+m.Test+" ") && !strings.Contains(out, "panic: "):
		return fmt.Errorf("%s neither passes nor fails: %w\n%s", m.Test, err, tail(out))
	}
	return nil
}

// compile builds the tests of the mutant's test package and returns the path of the binary.
func (m *Mutant) compile(t *testing.T, flags ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	binary := filepath.Join(t.TempDir(), "tests")
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"test", "-c", "-ldflags", "-s -w", "-o", binary}, flags...), "./"+m.Tests)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the test package does not compile: %w\n%s", err, out)
	}
	return binary, nil
}

// run executes the mutant's test alone, in the directory of its package as go test does, and
// returns its output.
func (m *Mutant) run(binary string) (out string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), testTime+10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.v", "-test.run", "^"+strings.ReplaceAll(m.Test, "/", "$/^")+"$", "-test.timeout", testTime.String())
	cmd.Dir, cmd.WaitDelay = filepath.Join(root, m.Tests), time.Second
	cmd.Env = append(os.Environ(), "CI=true") // tests that cannot run fail instead of skipping
	b, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return string(b), err
}

// tail returns the last 2,000 bytes of out.
func tail(out string) string { return out[max(0, len(out)-2000):] }
