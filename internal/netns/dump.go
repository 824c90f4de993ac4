package netns

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumpTries bounds how often Dump asks. Each time, something must have changed in between.
const dumpTries = 20

// Dump returns a list of the kernel's, such as netlink.LinkList returns. It asks again if the list changed while the kernel
// wrote it (NLM_F_DUMP_INTR), because such a list may be incomplete.
func Dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumpTries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
