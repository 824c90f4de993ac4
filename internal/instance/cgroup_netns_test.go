package instance

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCgroupLimitsAreSet reads the limits of the instance's cgroup and of its parent from the kernel
// after Boot.
func TestCgroupLimitsAreSet(t *testing.T) {
	s := newSpec(t, "limits", DefaultImage)
	boot(t, s)
	found := map[string]int{}
	check := func(h hierarchy, dir string, limits []limit) {
		for _, l := range limits {
			data, err := os.ReadFile(filepath.Join(dir, l.file))
			if h.v2 && errors.Is(err, fs.ErrNotExist) {
				continue // a hierarchy of version 1 has this controller
			}
			if got := strings.TrimSpace(string(data)); err != nil || got != l.value {
				t.Errorf("cgroup file %s/%s has %q (error %v), want %s", dir, l.file, got, err, l.value)
			}
			found[strings.Split(l.file, ".")[0]]++
		}
	}
	for _, h := range hierarchies() {
		check(h, h.dir(s), h.each)
		check(h, filepath.Dir(h.dir(s)), h.all)
	}
	if found["pids"] != 1 || found["memory"] < 1 || found["cpu"] < 4 {
		t.Errorf("number of limits set by controller: %v; want pids 1, memory at least 1, cpu at least 4", found)
	}
	if log, _ := os.ReadFile(s.bootLog()); len(log) > 0 {
		t.Errorf("the boot log has warnings, want none: %s", log)
	}
}
