// Package switchtest has what the tests of the switch and of the tunnels share.
package switchtest

import (
	"strings"
	"testing"
)

// maxLines bounds what a failing test prints besides its own message.
const maxLines = 95

// ReportFailure logs the text that describe returns, if the test fails. That is the state of the test's
// switches, and the packet. Call ReportFailure after the cleanups that end the switches are registered, so
// that describe runs before them.
func ReportFailure(t testing.TB, describe func() string) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		lines := strings.SplitAfter(describe(), "\n")
		t.Logf("state at the failure:\n%s", strings.Join(lines[:min(len(lines), maxLines)], ""))
	})
}
