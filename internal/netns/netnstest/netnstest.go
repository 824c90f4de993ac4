// Package netnstest is for the tests that make network namespaces. Only tests import it.
package netnstest

import (
	"os"
	"testing"
)

// NeedRoot skips a test that makes namespaces where it may not; where CI is set it fails.
func NeedRoot(t testing.TB) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		t.Fatal("this test makes namespaces and must run as root; where CI is set it may not be skipped")
	default:
		t.Skip("makes namespaces: run it as root")
	}
}
