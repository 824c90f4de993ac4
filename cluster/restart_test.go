package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"palisade/ec2/state"
)

// In a synctest bubble, disk accesses take no time, so the test measures only Raft's timeouts.
func TestClusterOfOneRestartsInHalfASecond(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		for _, start := range []string{"first", "second"} {
			began := time.Now()
			c, stop := open(t, Config{Dir: dir})
			ready(t, c)
			if took := time.Since(began); took > 500*time.Millisecond {
				t.Errorf("the %s start took %s until Ready, want at most 500ms", start, took)
			} else {
				t.Logf("the %s start took %s until Ready", start, took)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// openFuture is a future that never completes. Raft leaves such futures when it shuts down.
type openFuture chan struct{}

func (f openFuture) Error() error { <-f; return nil }

func TestRunEndsDespiteOpenFutures(t *testing.T) {
	c, stop := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	never := make(openFuture)
	defer close(never)
	ended := make(chan error, 1)
	c.tasks.start(func() { ended <- c.wait(t.Context(), never) })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrStopped) {
		t.Errorf("wait for a future that never completes: got %v, want ErrStopped", err)
	}
}

func TestLongLogIsReplayed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	never := Config{Dir: dir, SnapshotThreshold: 1 << 40}
	c, stop := open(t, never)
	ready(t, c)
	const entries = 9000 // more than Raft's queue holds, in batches of 64
	futures := make([]raft.ApplyFuture, entries)
	data, err := state.EncodeCommand(state.Command{Time: time.Now(), Request: &state.Sweep{}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range futures {
		futures[i] = c.raft.Apply(data, 0)
	}
	for _, f := range futures {
		if err := f.Error(); err != nil {
			t.Fatal(err)
		}
	}
	index := c.View().Index()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	c, _ = open(t, never)
	ready(t, c)
	if got := c.View().Index(); got != index {
		t.Errorf("index %d after the replay, want %d", got, index)
	}
}

func TestKillLosesNoAcknowledgedChange(t *testing.T) {
	dir := t.TempDir()
	var written int
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "PALISADE_TEST_WRITE_GROUPS_TO="+dir, fmt.Sprint("PALISADE_TEST_ROUND=", round))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var names []string
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			names = append(names, lines.Text())
			if len(names) == 30+round {
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // changes that were acknowledged before the kill took effect
			names = append(names, lines.Text())
		}
		_ = cmd.Wait() // its error is "signal: killed"
		written += len(names)

		c, stop := open(t, Config{Dir: dir})
		view, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if !hasGroup(view, name) {
				t.Errorf("round %d: group %s was acknowledged, and is missing after the kill", round, name)
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	if written < 90 {
		t.Errorf("%d groups were acknowledged, want at least 90 for this test", written)
	}
}

// writeGroups runs in the process that TestKillLosesNoAcknowledgedChange kills. It creates groups and
// prints the name of each after its acknowledgement.
func writeGroups(dir string) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := New(Config{Node: "node1", Dir: dir, Bootstrap: bootstrap()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() { _ = c.Run(ctx) }()
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprint("round", os.Getenv("PALISADE_TEST_ROUND"), "-", n)
		if _, err := createGroup(ctx, c, name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(name)
	}
	return 0
}
