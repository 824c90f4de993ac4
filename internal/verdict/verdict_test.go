package verdict

import "testing"

func TestEveryVerdictHasANameAndAMeaning(t *testing.T) {
	seen := map[string]Verdict{}
	for v := range Count {
		if v.String() == "" || v.Meaning() == "" {
			t.Errorf("verdict %d has name %q and meaning %q, want neither empty", v, v, v.Meaning())
		}
		if o, dup := seen[v.String()]; dup {
			t.Errorf("verdicts %d and %d have the same name %q", o, v, v)
		}
		seen[v.String()] = v
	}
}

func TestZeroVerdictDrops(t *testing.T) {
	if v := Verdict(0); !v.Drops() {
		t.Errorf("Drops of verdict 0, %v, returned false, want true", v)
	}
}
