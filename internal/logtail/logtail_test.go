package logtail

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestTailKeepsTheLastLines(t *testing.T) {
	tail, log := New(slog.LevelInfo)
	if got := tail.String(); got != "  nothing was logged" {
		t.Errorf("String of an empty Tail returned %q, want \"  nothing was logged\"", got)
	}
	for i := range Lines + 5 {
		log.Debug("not kept")
		log.Info("kept", "n", i)
	}
	lines := strings.Split(tail.String(), "\n")
	if len(lines) != Lines {
		t.Fatalf("the Tail has %d lines, want %d", len(lines), Lines)
	}
	if got := tail.Last(1); got != lines[Lines-1] {
		t.Errorf("Last(1) returned %q, want %q", got, lines[Lines-1])
	}
	for i, line := range lines {
		if want := fmt.Sprintf("msg=kept n=%d", i+5); !strings.HasSuffix(line, want) {
			t.Errorf("line %d is %q, want it to end in %q", i, line, want)
		}
	}
}
