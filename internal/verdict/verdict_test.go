package verdict

import "testing"

func TestEveryVerdictHasANameAndAMeaning(t *testing.T) {
	seen := map[string]Verdict{}
	for v := range Count {
		if v.String() == "" || v.Meaning() == "" {
			t.Errorf("verdict %d has name %q, meaning %q", v, v, v.Meaning())
		}
		if o, dup := seen[v.String()]; dup {
			t.Errorf("verdicts %d and %d are both called %q", o, v, v)
		}
		seen[v.String()] = v
	}
}

func TestZeroVerdictDrops(t *testing.T) {
	if v := Verdict(0); !v.Drops() {
		t.Errorf("Verdict(0) = %v does not drop", v)
	}
}
