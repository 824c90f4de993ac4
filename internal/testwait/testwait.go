// Package testwait waits in tests for states that have no event to wait for.
package testwait

import (
	"fmt"
	"testing"
	"time"
)

// Patience is how long a test waits for a state before it fails. It is far longer than any
// state takes, because the machine may be busy with other work; no test measures with it.
const Patience = time.Minute

// Until asks again and again until problem returns "", and fails the test with the last
// problem after Patience.
func Until(t testing.TB, what string, problem func() string) {
	t.Helper()
	timeout := time.After(Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for last := problem(); last != ""; last = problem() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s: not after %s: %s", what, Patience, last)
		}
	}
}

// For is Until with a condition that has no more to say than its name.
func For(t testing.TB, what string, ok func() bool) {
	t.Helper()
	Until(t, what, func() string { return Unless(ok(), "it is false") })
}

// Unless returns "" if ok, else the formatted problem.
func Unless(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// Fastest fails the test if the fastest of up to five tries takes longer than limit. A busy
// machine slows down some tries; a defect slows down all of them.
func Fastest(t testing.TB, what string, limit time.Duration, do func(try int) time.Duration) {
	t.Helper()
	var took []time.Duration
	for try := range 5 {
		if took = append(took, do(try)); took[try] <= limit {
			t.Logf("%s after %s", what, took)
			return
		}
	}
	t.Errorf("%s after %s, want %s at most", what, took, limit)
}
