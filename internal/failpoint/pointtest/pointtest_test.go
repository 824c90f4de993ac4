package pointtest

import "testing"

// A test can make every function of the data path panic, except very small ones.
func TestEveryFunctionOfTheDataPathHasAFailpoint(t *testing.T) {
	if missing := Missing(t, "../../.."); len(missing) > 0 {
		for _, name := range missing {
			t.Errorf("%s: add failpoint.Reach() as its first statement, so that TestPanicInEachFunctionIsContained makes it panic", name)
		}
	}
	if n := len(Functions(t, "../../..")); n < 80 {
		t.Errorf("only %d functions have a failpoint, want at least 80", n)
	}
}
