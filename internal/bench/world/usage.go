package world

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// CPU is how long all processors together have worked since boot, in seconds, the kernel's
// interrupts included: what a packet costs is spread over many processes and the kernel.
// It counts what else the machine does, too.
func (w *World) CPU() (float64, error) {
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
