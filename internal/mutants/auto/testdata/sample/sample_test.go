package sample

import (
	"errors"
	"os"
	"testing"
)

func TestPut(t *testing.T) {
	b := &box{room: 2}
	if err := errors.Join(b.put("one"), b.put("12345678")); err != nil || b.left() != 0 {
		t.Fatal(err, b.left())
	}
	if err := b.put("three"); err == nil {
		t.Error("a full box took a third name")
	}
	if err := (&box{room: 1}).put("123456789"); !errors.Is(err, errLong) {
		t.Error(err)
	}
}

func TestVowels(t *testing.T) {
	for text, want := range map[string]int{"": 0, "idea": 3, "x u": 0, "no no": 1} {
		if got := vowels(text); got != want {
			t.Errorf("vowels(%q) = %d, want %d", text, got, want)
		}
	}
}

func TestHalve(t *testing.T) {
	for n, want := range map[uint16]int{0: 0, 1: 0, 2: 1, 9: 3} {
		if got := halve(n); got != want {
			t.Errorf("halve(%d) = %d, want %d", n, got, want)
		}
	}
}

// TestThatFails fails with and without mutants, so it kills none.
func TestThatFails(t *testing.T) {
	if os.Getenv("MUTANT") != "" {
		t.Fatal("fails")
	}
	_ = unused(false)
}
