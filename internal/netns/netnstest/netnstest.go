// Package netnstest helps tests that create network namespaces.
package netnstest

import (
	"os"
	"testing"
)

// NeedRoot skips a test that creates namespaces if it does not run as root. If CI is set, the
// test fails instead.
func NeedRoot(t testing.TB) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		t.Fatal("this test creates namespaces and needs root; with CI set it may not be skipped")
	default:
		t.Skip("creates namespaces: needs root")
	}
}
