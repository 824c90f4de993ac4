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

// Limits of one instance. They bound what a fork bomb or a full /tmp inside can cost the
// node; tmpfs pages count as the instance's memory.
const (
	maxProcesses   = 512
	maxMemoryBytes = 512 << 20

	// maxQueueBytes is what the queues of TCP and UDP sockets hold. Version 2 charges them
	// as memory; version 1 does not charge them at all unless they have this limit.
	maxQueueBytes = 64 << 20
	queueLimit    = "memory.kmem.tcp.limit_in_bytes" // of UDP too, in spite of its name

	// queuePart is the part of the machine's memory that the queues of all instances below
	// one parent hold together, with version 1. Linux gives all TCP sockets of the machine
	// about three times, all UDP sockets six times as much (tcp_mem, udp_mem), and beyond
	// that drops what it receives for any of them, the node's own included.
	queuePart = 32
)

// Limits of processor time. The weight is that of all instances below one parent together,
// against 100 that a thread outside of any cgroup has, as the daemons' are: where both want a
// processor, a thread of a daemon gets twice what all instances get. Among each other they share alike.
// The maxima, in percent of the machine, leave something even where weights do not help: while the kernel
// works for an instance in interrupts, and for threads that have just woken up.
const (
	weightOfInstances    = 50
	maxPercentOfInstance = 50
	maxPercentOfAll      = 75
	bandwidthPeriod      = 100_000 // microseconds, the kernel's own
)

// A limit is a file of a cgroup and what is written into it.
type limit struct{ file, value string }

// A hierarchy is one mounted cgroup file system that can carry a limit or name members.
type hierarchy struct {
	mount     string
	all, each []limit // of the instances' parent, and of each
	v2        bool
}

// hierarchies returns what this machine offers: the unified hierarchy where it has the
// controllers, the hierarchies of version 1 where they are mounted apart.
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
	queues -= queues % uint64(os.Getpagesize()) // as the kernel does
	for i, h := range found {
		if slices.ContainsFunc(h.each, func(l limit) bool { return l.file == queueLimit }) {
			found[i].all = append(h.all, limit{queueLimit, strconv.FormatUint(queues, 10)})
		}
	}
	return found
}

// hierarchiesAmong returns those of a list of mounts, for a machine with so many processors.
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

// processorLimitsV2 are for a maximum in percent of one processor (Documentation/admin-guide/cgroup-v2.rst,
// "CPU Interface Files"). The weight of a thread outside is 100.
func processorLimitsV2(percent int) []limit {
	return []limit{
		{"cpu.weight", strconv.Itoa(weightOfInstances)},
		{"cpu.max", fmt.Sprintf("%d %d", bandwidthPeriod/100*percent, bandwidthPeriod)},
	}
}

// processorLimitsV1 are the same (Documentation/scheduler/sched-bwc.rst). The shares of a thread outside
// are 1024.
func processorLimitsV1(percent int) []limit {
	return []limit{
		{"cpu.shares", strconv.Itoa(1024 * weightOfInstances / 100)},
		{"cpu.cfs_period_us", strconv.Itoa(bandwidthPeriod)},
		{"cpu.cfs_quota_us", strconv.Itoa(bandwidthPeriod / 100 * percent)},
	}
}

func (h hierarchy) dir(s Spec) string { return filepath.Join(h.mount, s.CgroupPrefix, s.Namespace) }

// joinCgroup makes the instance's cgroup in every hierarchy, sets the limits and moves the
// calling process into it. It returns what could not be limited: an instance without
// limits is better than none, and the node says so.
func joinCgroup(s Spec) (complaints []string) {
	if s.CgroupPrefix == "" {
		return nil
	}
	limited := map[string]bool{}
	for _, h := range hierarchies() {
		if err := h.join(s, limited); err != nil {
			complaints = append(complaints, err.Error())
		}
	}
	for _, what := range []string{"pids", "memory", "cpu"} {
		if !limited[what] {
			complaints = append(complaints, "no cgroup limits "+what)
		}
	}
	return complaints
}

func (h hierarchy) join(s Spec, limited map[string]bool) error {
	dir := h.dir(s)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if h.v2 {
		// A parent hands its controllers down only if told to; the machine's root
		// does on every systemd machine, ours must too.
		for _, parent := range []string{h.mount, filepath.Dir(dir)} {
			for _, controller := range []string{"+pids", "+memory", "+cpu"} {
				os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(controller), 0)
			}
		}
	}
	// What cannot be limited is no reason to stay outside.
	return errors.Join(
		h.set(filepath.Dir(dir), h.all, map[string]bool{}),
		h.set(dir, h.each, limited),
		os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0),
	)
}

// set writes limits into the files of a cgroup, and notes what they limit.
func (h hierarchy) set(dir string, limits []limit, limited map[string]bool) error {
	var errs []error
	for _, l := range limits {
		err := os.WriteFile(filepath.Join(dir, l.file), []byte(l.value), 0)
		switch {
		case err == nil:
			limited[strings.Split(l.file, ".")[0]] = true
		case h.v2 && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
			// This hierarchy has not the controller.
		case l.file == queueLimit && errors.Is(err, fs.ErrNotExist):
			// A kernel that has dropped it.
		default:
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// joinCgroupOf moves the calling process to where pid is.
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
		// "4:memory:/palisade-lab/lab-i-cfd732a6"; version 2 is "0::/…"
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

// removeCgroup ends whatever is left in the instance's cgroup and removes it, and the
// parent with the last one. The kernel lets go of a cgroup a moment after its last
// process, hence the tries.
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
