package labtest

import (
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// A recorder is a testing.TB that keeps what a test prints. If the test fails, the real test does not fail.
type recorder struct {
	testing.TB
	out      strings.Builder
	failed   bool
	cleanups []func()
}

// Record runs a test that is meant to fail, and its cleanups. It returns what the test prints and whether it
// failed.
func Record(t testing.TB, test func(testing.TB)) (out string, failed bool) {
	t.Helper()
	r := &recorder{TB: t}
	run := func(f func()) {
		done := make(chan struct{})
		go func() { // FailNow ends this goroutine
			defer close(done)
			f()
		}()
		<-done
	}
	run(func() { test(r) })
	for len(r.cleanups) > 0 {
		last := len(r.cleanups) - 1
		f := r.cleanups[last]
		r.cleanups = slices.Delete(r.cleanups, last, last+1)
		run(f)
	}
	return r.out.String(), r.failed
}

func (r *recorder) Helper()           {}
func (r *recorder) Failed() bool      { return r.failed }
func (r *recorder) Fail()             { r.failed = true }
func (r *recorder) Cleanup(f func())  { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Log(args ...any)   { fmt.Fprintln(&r.out, args...) }
func (r *recorder) Error(args ...any) { r.Log(args...); r.Fail() }
func (r *recorder) Fatal(args ...any) { r.Error(args...); r.FailNow() }

func (r *recorder) Logf(format string, args ...any)   { r.Log(fmt.Sprintf(format, args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

func (r *recorder) FailNow() {
	r.failed = true
	runtime.Goexit()
}

// CheckReport checks out, which a failing test printed. It fails t if out lacks a match of one of the
// patterns, or has 100 lines or more.
func CheckReport(t testing.TB, out string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(out) {
			t.Errorf("nothing in the report matches %q", p)
		}
	}
	if n := strings.Count(out, "\n"); n >= 100 {
		t.Errorf("the report has %d lines, want fewer than 100", n)
	}
	if t.Failed() {
		t.Logf("the report:\n%s", out)
	}
}
