// Package testwait has functions by which tests wait for states that no event reports.
package testwait

import (
	"fmt"
	"testing"
	"time"
)

// Patience is how long a test waits for a state before it fails. It is far longer than any
// state takes, because the machine may be busy with other work; no test depends on its exact
// value.
const Patience = time.Minute

// Until calls problem every 5 ms until it returns "". After Patience it fails the test with
// the last problem.
func Until(t testing.TB, what string, problem func() string) {
	t.Helper()
	timeout := time.After(Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for last := problem(); last != ""; last = problem() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s: not reached within %s: %s", what, Patience, last)
		}
	}
}

// For waits like Until, for a condition that is only true or false. what names the
// condition.
func For(t testing.TB, what string, ok func() bool) {
	t.Helper()
	Until(t, what, func() string { return Unless(ok(), "the condition is false") })
}

// Unless returns "" if ok is true, and the formatted problem if not.
func Unless(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// Fastest tries up to five times, and fails the test if even the fastest try takes longer
// than limit. A busy machine slows down some tries; a defect slows down all of them.
func Fastest(t testing.TB, what string, limit time.Duration, do func(try int) time.Duration) {
	t.Helper()
	var took []time.Duration
	for try := range 5 {
		if took = append(took, do(try)); took[try] <= limit {
			t.Logf("%s took %s in successive tries", what, took)
			return
		}
	}
	t.Errorf("%s took %s in successive tries, want at most %s in one of them", what, took, limit)
}
