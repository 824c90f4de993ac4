package world

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/process"
)

// A run with namespaces, files and a program at an endpoint is killed. ClearLeftovers removes
// all of it, but nothing of a run that is alive.
func TestClearLeftoversRemovesOnlyKilledRuns(t *testing.T) {
	netnstest.NeedRoot(t)
	if os.Getenv("PALISADE_TEST_WORLD") != "" {
		beKilled(t)
	}
	alive := build(t, Contestants(SameNode)[0], Config{})
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), "PALISADE_TEST_WORLD=1")
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscanf(bufio.NewReader(out), "running %d", &pid)
	_ = child.Process.Kill()
	_ = child.Wait() // the error says that it was killed
	if err != nil {
		t.Fatalf("start the run that is killed: %v", err)
	}
	program, err := process.Of(pid)
	if err != nil {
		t.Fatalf("the program of the killed run ended by itself: %v", err)
	}
	if err := ClearLeftovers(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := netns.List(fmt.Sprintf("%s%d-", prefix, child.Process.Pid)); err != nil || len(left) > 0 {
		t.Errorf("ClearLeftovers left the namespaces %q, want none; %v", left, err)
	}
	if left, _ := filepath.Glob(fmt.Sprintf("%s%d-*", filesPath, child.Process.Pid)); len(left) > 0 {
		t.Errorf("ClearLeftovers left the files %q, want none", left)
	}
	if program.Alive() {
		t.Error("the program of the killed run is still alive")
	}
	if err := exchange(alive.Client(), alive.Server(), "udp4", FirstPort, "hello\n", patience); err != nil {
		t.Errorf("the run that is alive no longer carries traffic: %v", err)
	}
}

// beKilled is the body of the run that is killed.
func beKilled(t *testing.T) {
	w, err := Contestants(SameNode)[0].Build(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "infinity")
	if err := w.Start(w.Server(), cmd); err != nil {
		t.Fatal(errors.Join(err, w.Close()))
	}
	fmt.Printf("running %d\n", cmd.Process.Pid)
	select {}
}
