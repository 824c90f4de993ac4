// Package netnstest helps tests that create network namespaces.
package netnstest

import (
	"os"
	"testing"
)

// NeedRoot is called by tests that create namespaces. Without root it skips the test; if the
// environment variable CI is set, it fails the test instead.
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
