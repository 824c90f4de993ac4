package pointtest

import "testing"

// TestEveryFunctionOfTheDataPathHasAFailpoint: a frame passes through no function of more than a few statements
// that a test cannot make panic.
func TestEveryFunctionOfTheDataPathHasAFailpoint(t *testing.T) {
	if missing := Missing(t, "../../.."); len(missing) > 0 {
		for _, name := range missing {
			t.Errorf("%s: begin it with failpoint.Reach(), so that TestPanicInEachFunctionIsContained has it panic", name)
		}
	}
	if n := len(Functions(t, "../../..")); n < 80 {
		t.Errorf("only %d functions have a point", n)
	}
}
