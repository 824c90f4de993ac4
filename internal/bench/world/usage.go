package world

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"palisade/internal/netns"
)

// CPU is how long all processors together have worked since boot, in seconds, the kernel's
// interrupts included: what a packet costs is spread over many processes and the kernel.
// It counts what else the machine does, too.
func CPU() (float64, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(first)
	ticks := 0.0
	for i, field := range fields {
		if i == 0 || i == 4 || i == 5 || i == 8 { // the name, idle, iowait, steal; see proc(5)
			continue
		}
		if i > 8 { // guest time is in user time already
			break
		}
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %q", first)
		}
		ticks += n
	}
	const hertz = 100 // USER_HZ, on every architecture that Go runs on
	return ticks / hertz, nil
}

// Memory is what the contestant takes now, in bytes, as far as it can be told apart:
//
//   - of programs of others, what is resident of them: their code, too;
//   - of Switches, which run in this process, what is resident of their trackers' arenas
//     and what the heap grew by when they were built;
//   - of what the kernel does, its connections, and neither rules, sets nor buffers.
func (w *World) Memory() (int64, error) {
	total := w.heap
	for _, pid := range w.between {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		kilobytes, err := field(status, "VmRSS:")
		if err != nil {
			return 0, err
		}
		total += kilobytes << 10
	}
	for _, path := range w.arenas {
		resident, err := residentOf(path)
		if err != nil {
			return 0, err
		}
		total += resident
	}
	for _, namespace := range w.tracking {
		size, err := connectionsIn(namespace)
		if err != nil {
			return 0, err
		}
		total += size
	}
	return total, nil
}

// residentOf is how much of a file this process has mapped and touched; see proc(5),
// /proc/pid/smaps.
func residentOf(path string) (total int64, err error) {
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return 0, err
	}
	for _, entry := range bytes.SplitAfter(maps, []byte("VmFlags:")) {
		if !bytes.Contains(entry, []byte(" "+path+"\n")) {
			continue
		}
		kilobytes, err := field(entry, "Rss:")
		if err != nil {
			return 0, err
		}
		total += kilobytes << 10
	}
	return total, nil
}

// connectionsIn is what the kernel's connections in a namespace take.
func connectionsIn(namespace string) (int64, error) {
	var count []byte
	err := netns.Do(namespace, func() (err error) {
		count, err = os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		return err
	})
	if err != nil {
		return 0, err
	}
	entries, err := strconv.ParseInt(strings.TrimSpace(string(count)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("nf_conntrack_count: %w", err)
	}
	slabs, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(slabs)) {
		if f := strings.Fields(line); len(f) > 3 && f[0] == "nf_conntrack" {
			size, err := strconv.ParseInt(f[3], 10, 64)
			return entries * size, err
		}
	}
	return 0, errors.New("/proc/slabinfo does not say how large a connection is")
}

// field is the number behind a name, as files of /proc have it.
func field(text []byte, name string) (int64, error) {
	_, rest, _ := bytes.Cut(text, []byte(name))
	f := bytes.Fields(rest)
	if len(f) == 0 {
		return 0, fmt.Errorf("no %s in /proc", name)
	}
	return strconv.ParseInt(string(f[0]), 10, 64)
}

// heapInUse is what live objects take.
func heapInUse() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
