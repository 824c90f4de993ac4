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

// CPU returns how long all processors together have worked since boot, in seconds, including
// the kernel's interrupts, because the cost of a packet is spread over many processes and the
// kernel. It includes all other work of the machine.
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

// Memory returns the memory that the contestant uses now, in bytes, as far as it can be
// measured:
//
//   - programs of other projects: their resident memory, including code;
//   - Switches, which run in this process: the resident part of their trackers' files, and
//     the growth of the heap when they were built;
//   - the kernel: its tracked connections, but not its rules, sets and buffers.
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

// residentOf returns the resident bytes of a file that this process has mapped; see proc(5),
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

// connectionsIn returns the bytes that the kernel uses for connections in a namespace.
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

// field returns the number after a name in a file of /proc.
func field(text []byte, name string) (int64, error) {
	_, rest, _ := bytes.Cut(text, []byte(name))
	f := bytes.Fields(rest)
	if len(f) == 0 {
		return 0, fmt.Errorf("no %s in /proc", name)
	}
	return strconv.ParseInt(string(f[0]), 10, 64)
}

// heapInUse returns the bytes of all live objects.
func heapInUse() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
