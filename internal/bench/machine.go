package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine describes the machine of a run and the commit of the code.
type Machine struct {
	Kernel     string    `json:"kernel"`
	CPU        string    `json:"cpu"`
	Processors int       `json:"processors"`
	Load       string    `json:"load"` // when the run began
	Go         string    `json:"go"`
	Commit     string    `json:"commit"` // with "+" if there were uncommitted changes
	Begun      time.Time `json:"begun"`
}

func machine() Machine {
	m := Machine{CPU: "unknown", Commit: "unknown", Processors: runtime.NumCPU(), Go: runtime.Version(), Begun: time.Now()}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpuinfo)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(load), " ")
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		changed := ""
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				m.Commit = s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true":
				changed = "+"
			}
		}
		m.Commit += changed
	}
	if m.Commit == "unknown" {
		m.Commit = checkout()
	}
	return m
}

// checkout returns the commit of the directory of a binary that was built without one, as
// with -buildvcs=false.
func checkout() string {
	self, err := os.Executable()
	if err != nil {
		return "unknown"
	}
	out, err := exec.Command("git", "-C", filepath.Dir(self), "describe", "--always", "--dirty=+", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
