package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/netns"
	"palisade/internal/process"
)

// TestRebootGivesInstanceOfEarlierReleaseItsOwnIDs: a daemon adopts an instance that runs with the node's
// user ids. The instance keeps running, and gets its own ids when it is rebooted, with the same address.
func TestRebootGivesInstanceOfEarlierReleaseItsOwnIDs(t *testing.T) {
	w := newWorld(t, "earlier")
	id, peer := w.launch(w.Public, w.all), w.launch(w.Public, w.all)
	address := w.primary(id).Private.String()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(w.config.Lab.InstanceDir, string(id), "init.json")
	init, err := process.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(t.Context(), init); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netns.Delete(w.namespace(id)), netns.New(w.namespace(id))); err != nil {
		t.Fatal(err)
	}
	earlier := exec.Command("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "600")
	if err := netns.Do(w.namespace(id), earlier.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { earlier.Process.Kill(); earlier.Wait() })
	w.until("process 1 inside", func() bool {
		inside, _ := netns.Processes(w.namespace(id))
		for _, p := range inside {
			if inner, depth := process.NamespacedPID(p.PID); inner == 1 && depth == 2 {
				init = p
				return true
			}
		}
		return false
	})
	if err := init.WriteFile(pidFile); err != nil {
		t.Fatal(err)
	}

	w.start()
	w.await(id, ec2.Running)
	w.reaches(w.of(peer), address, true, "adopted")
	w.do(&state.RebootInstances{Account: dev, Region: region, Instances: []ec2.InstanceID{id}})
	w.until("the instance has its own ids", func() bool {
		init, err := process.ReadFile(pidFile)
		if err != nil {
			return false
		}
		mapped, _ := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", init.PID))
		f := strings.Fields(string(mapped))
		return len(f) == 3 && f[1] != "0" && init.Alive()
	})
	w.until("its services listen", func() bool {
		_, err := w.in(w.namespace(peer), "ncat", "-z", "-w", "1", address, "80")
		return err == nil
	})
	w.await(id, ec2.Running)
	w.reaches(w.of(peer), address, true, "rebooted")
}
