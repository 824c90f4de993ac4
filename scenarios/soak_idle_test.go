//go:build soak

package scenarios

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSoakIdleDaemonsUseLittleProcessorTime measures the processor time of the daemons of an idle cluster:
// first without instances, then with one instance on each node.
func TestSoakIdleDaemonsUseLittleProcessorTime(t *testing.T) {
	const (
		during = 30 * time.Second
		settle = 5 * time.Second // until elections, joins and launches have ended
		limit  = 3.0             // percent of one core for all daemons together
	)
	l := newSoakLab(t, "soakidle")
	l.leader()
	for _, with := range []string{"no instances", "an instance on each node"} {
		if with != "no instances" {
			api := l.api("mary")
			l.groups(api, "idle")
			l.launchIn(api, l.others(), "idle")
		}
		await(t, settle)
		before := l.processorTime()
		begin := time.Now()
		await(t, during)
		took := time.Since(begin)
		used := map[string]time.Duration{}
		var all time.Duration
		for node, now := range l.processorTime() {
			used[node] = now - before[node]
			all += used[node]
		}
		percent := 100 * all.Seconds() / took.Seconds()
		t.Logf("idle, %d nodes, %s: %.2f %% of one core by all daemons over %v (%v); limit %.0f %%",
			len(l.nodes), with, percent, took.Round(time.Second), used, limit)
		if percent > limit {
			t.Errorf("with %s the daemons take %.2f %% of one core, want at most %.0f %%", with, percent, limit)
		}
	}
}

// await waits for d, or until t ends.
func await(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// processorTime returns the processor time of each daemon, in user and system mode (proc(5), stat).
func (l *soakLab) processorTime() map[string]time.Duration {
	l.t.Helper()
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all architectures of Go
	used := map[string]time.Duration{}
	for _, n := range l.nodes {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.PID))
		if err != nil {
			l.t.Fatal(err)
		}
		// The second field is the command in brackets, which may hold spaces.
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		for _, field := range fields[11:13] { // utime and stime, the 14th and 15th
			n64, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				l.t.Fatal(err)
			}
			used[n.Name] += time.Duration(n64) * tick
		}
	}
	return used
}
