package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of one instance, so that a fork bomb or a full /tmp inside costs the node little. The pages
// of a tmpfs count as memory of the instance.
const (
	maxProcesses   = 512
	maxMemoryBytes = 512 << 20

	// maxQueueBytes bounds the queues of an instance's TCP and UDP sockets. Cgroup version 2 charges
	// them as memory. Version 1 charges them only if this limit is set.
	maxQueueBytes = 64 << 20
	queueLimit    = "memory.kmem.tcp.limit_in_bytes" // also applies to UDP, in spite of its name

	// With version 1, the queues of all instances below one parent cgroup may hold 1/queuePart of the
	// machine's memory. The machine's own limits (tcp_mem, udp_mem) are about three times as much for
	// all TCP sockets and six times as much for all UDP sockets. Above them Linux drops what any
	// socket receives, also the node's own sockets.
	queuePart = 32
)

// Limits of processor time. All instances below one parent cgroup together have the weight
// weightOfInstances, and share it equally. A thread outside any cgroup, such as a thread of a daemon,
// has the weight 100, so it gets twice the time of all instances together when both need a processor.
// The maxima, in percent of the machine, leave time for others where weights do not help: while the
// kernel works for an instance in interrupts, and when a thread has just woken up.
const (
	weightOfInstances    = 50
	maxPercentOfInstance = 50
	maxPercentOfAll      = 75
	bandwidthPeriod      = 100_000 // microseconds; the kernel's default
)

// A limit is the name of a file in a cgroup and the value that is written into the file.
type limit struct{ file, value string }

// A hierarchy is one mounted cgroup file system that has some of the limits.
type hierarchy struct {
	mount     string
	all, each []limit // limits of the parent of all instances, and of each instance
	v2        bool
}

// hierarchies returns the cgroup hierarchies of this machine: the unified one, and each hierarchy of
// version 1 that has a controller that we need.
func hierarchies() []hierarchy {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil
	}
	found := hierarchiesAmong(string(mounts), runtime.NumCPU())
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return found
	}
	queues := machine.Totalram * uint64(machine.Unit) / queuePart
	queues -= queues % uint64(os.Getpagesize()) // the kernel rounds the limit down to a page
	for i, h := range found {
		if slices.ContainsFunc(h.each, func(l limit) bool { return l.file == queueLimit }) {
			found[i].all = append(h.all, limit{queueLimit, strconv.FormatUint(queues, 10)})
		}
	}
	return found
}

// hierarchiesAmong returns the cgroup hierarchies in mounts, which has the format of
// /proc/self/mounts, with the limits for this number of processors.
func hierarchiesAmong(mounts string, processors int) []hierarchy {
	var found []hierarchy
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		h := hierarchy{mount: f[1]}
		switch f[2] {
		case "cgroup2":
			h.v2 = true
			h.all = processorLimitsV2(maxPercentOfAll * processors)
			h.each = append(processorLimitsV2(maxPercentOfInstance*processors),
				limit{"pids.max", strconv.Itoa(maxProcesses)}, limit{"memory.max", strconv.Itoa(maxMemoryBytes)})
		case "cgroup":
			for option := range strings.SplitSeq(f[3], ",") {
				switch option {
				case "pids":
					h.each = append(h.each, limit{"pids.max", strconv.Itoa(maxProcesses)})
				case "memory":
					h.each = append(h.each, limit{"memory.limit_in_bytes", strconv.Itoa(maxMemoryBytes)}, limit{queueLimit, strconv.Itoa(maxQueueBytes)})
				case "cpu":
					h.all = append(h.all, processorLimitsV1(maxPercentOfAll*processors)...)
					h.each = append(h.each, processorLimitsV1(maxPercentOfInstance*processors)...)
				}
			}
		}
		if len(h.each) > 0 {
			found = append(found, h)
		}
	}
	return found
}

// processorLimitsV2 returns the limits of processor time with cgroup version 2; percent is the
// maximum in percent of one processor (Documentation/admin-guide/cgroup-v2.rst, "CPU Interface
// Files"). A thread outside any cgroup has the weight 100.
func processorLimitsV2(percent int) []limit {
	return []limit{
		{"cpu.weight", strconv.Itoa(weightOfInstances)},
		{"cpu.max", fmt.Sprintf("%d %d", bandwidthPeriod/100*percent, bandwidthPeriod)},
	}
}

// processorLimitsV1 returns the same limits for cgroup version 1
// (Documentation/scheduler/sched-bwc.rst). A thread outside any cgroup has 1024 shares.
func processorLimitsV1(percent int) []limit {
	return []limit{
		{"cpu.shares", strconv.Itoa(1024 * weightOfInstances / 100)},
		{"cpu.cfs_period_us", strconv.Itoa(bandwidthPeriod)},
		{"cpu.cfs_quota_us", strconv.Itoa(bandwidthPeriod / 100 * percent)},
	}
}

func (h hierarchy) dir(s Spec) string { return filepath.Join(h.mount, s.CgroupPrefix, s.Namespace) }

// joinCgroup makes the instance's cgroup in every hierarchy, sets the limits and moves the calling
// process into it. It returns a warning for each limit that could not be set. The caller writes the
// warnings to the boot log and boots the instance anyway.
func joinCgroup(s Spec) (warnings []string) {
	if s.CgroupPrefix == "" {
		return nil
	}
	limited := map[string]bool{}
	for _, h := range hierarchies() {
		if err := h.join(s, limited); err != nil {
			warnings = append(warnings, err.Error())
		}
	}
	for _, what := range []string{"pids", "memory", "cpu"} {
		if !limited[what] {
			warnings = append(warnings, "no cgroup limits the "+what+" of the instance")
		}
	}
	return warnings
}

func (h hierarchy) join(s Spec, limited map[string]bool) error {
	dir := h.dir(s)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if h.v2 {
		// A parent cgroup must enable the controllers for its children.
		for _, parent := range []string{h.mount, filepath.Dir(dir)} {
			for _, controller := range []string{"+pids", "+memory", "+cpu"} {
				os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(controller), 0)
			}
		}
	}
	// The process joins the cgroup even if a limit cannot be set.
	return errors.Join(
		h.set(filepath.Dir(dir), h.all, map[string]bool{}),
		h.set(dir, h.each, limited),
		os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0),
	)
}

// set writes limits into the files of the cgroup dir. It adds to limited the controllers whose limit
// it has set.
func (h hierarchy) set(dir string, limits []limit, limited map[string]bool) error {
	var errs []error
	for _, l := range limits {
		err := os.WriteFile(filepath.Join(dir, l.file), []byte(l.value), 0)
		switch {
		case err == nil:
			limited[strings.Split(l.file, ".")[0]] = true
		case h.v2 && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
			// This hierarchy does not have the controller.
		case l.file == queueLimit && errors.Is(err, fs.ErrNotExist):
			// The kernel no longer has this limit.
		default:
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// joinCgroupOf moves the calling process into the cgroups of the process pid.
func joinCgroupOf(pid int) error {
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(own)) {
		// A line is "4:memory:/palisade-lab/lab-i-cfd732a6" with version 1, and "0::/…" with version
		// 2.
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) < 3 || f[2] == "/" || strings.Contains(f[2], "..") {
			continue
		}
		for mount := range strings.Lines(string(mounts)) {
			m := strings.Fields(mount)
			v2 := len(m) > 3 && m[2] == "cgroup2" && f[1] == ""
			v1 := len(m) > 3 && m[2] == "cgroup" && f[1] != "" && strings.Contains(","+m[3]+",", ","+f[1]+",")
			if v1 || v2 {
				if err := os.WriteFile(filepath.Join(m[1], f[2], "cgroup.procs"), []byte("0"), 0); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// removeCgroup kills the processes in the instance's cgroup and removes the cgroup. It also removes
// the parent cgroup if that is empty. It retries, because the kernel releases a cgroup a moment after
// its last process.
func removeCgroup(ctx context.Context, s Spec) error {
	if s.CgroupPrefix == "" {
		return nil
	}
	var errs []error
	for _, h := range hierarchies() {
		for {
			err := h.remove(s)
			if err == nil {
				break
			}
			select {
			case <-time.After(5 * time.Millisecond):
				continue
			case <-ctx.Done():
			}
			errs = append(errs, err)
			break
		}
		unix.Rmdir(filepath.Dir(h.dir(s)))
	}
	return errors.Join(errs...)
}

func (h hierarchy) remove(s Spec) error {
	procs, err := os.ReadFile(filepath.Join(h.dir(s), "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for field := range strings.FieldsSeq(string(procs)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 && pid != os.Getpid() {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	if err := unix.Rmdir(h.dir(s)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", h.dir(s), err)
	}
	return nil
}
