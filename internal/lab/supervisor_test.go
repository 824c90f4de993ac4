package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPauseDoublesUpToLongestPause(t *testing.T) {
	want := []time.Duration{0, 0, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second}
	for deaths, want := range want {
		if got := pause(deaths); got != want {
			t.Errorf("pause(%d) is %v, want %v", deaths, got, want)
		}
	}
	if got := pause(1 << 40); got != longestPause {
		t.Errorf("pause(1<<40) is %v, want %v", got, longestPause)
	}
}

func TestStatusSaysWhyDaemonDoesNotStayUp(t *testing.T) {
	l := &Lab{Name: "labtestnone"}
	now := time.Now()
	ago := func(seconds ...int) (starts []time.Time) {
		for _, s := range seconds {
			starts = append(starts, now.Add(-time.Duration(s)*time.Second))
		}
		return starts
	}
	for _, tt := range []struct {
		name string
		r    *record
		want string // the beginning of the reason; "": none
	}{
		{"no record", nil, ""},
		{"it runs", &record{Wanted: true, Starts: ago(30)}, ""},
		{"one restart", &record{Wanted: true, Restarts: 1, Starts: ago(30, 2), LastEnd: "signal: killed"}, ""},
		{"three starts within a minute", &record{Wanted: true, Starts: ago(59, 30, 2), LastEnd: "exit status 1"}, "it was started 3 times within 1m0s"},
		{"three starts, one long ago", &record{Wanted: true, Starts: ago(61, 30, 2)}, ""},
		{"it is fenced", &record{Wanted: true, Outcast: true, Starts: ago(300), LastEnd: "exit status 3"}, "the cluster has fenced or removed it"},
	} {
		st := l.daemonStatus("node1", tt.r, now)
		got := ""
		if st.Trouble != nil {
			got = st.Trouble.What
			if st.Trouble.End != tt.r.LastEnd {
				t.Errorf("%s: the trouble says that the daemon ended with %q, want %q", tt.name, st.Trouble.End, tt.r.LastEnd)
			}
		}
		if !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: the status gives the reason %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestLastLogBeginsAtPanic(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node1.log")
	var trace strings.Builder
	for i := range 40 {
		fmt.Fprintf(&trace, "goroutine %d\n", i)
	}
	const before = "a start before\npanic: an older one\n"
	for _, tt := range []struct {
		name, log string
		want      []string
	}{
		{"nothing", "", nil},
		{"a line", "palisade: no pool\n", []string{"palisade: no pool"}},
		{"a panic", "ready\npanic: bad frame\n" + trace.String(), []string{"panic: bad frame", "goroutine 0", "goroutine 8"}},
		{"many lines", trace.String(), []string{"goroutine 30", "goroutine 31", "goroutine 39"}},
	} {
		if err := os.WriteFile(file, []byte(before+tt.log), 0o600); err != nil {
			t.Fatal(err)
		}
		got := lastLog(file, int64(len(before)))
		if n := len(got); n > 3 {
			got = []string{got[0], got[1], got[n-1]}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: the first two lines and the last are %q, want %q", tt.name, got, tt.want)
		}
	}
}
