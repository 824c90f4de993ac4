package netns

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestDumpAsksAgainUntilTheListIsWhole(t *testing.T) {
	failed := errors.New("failed")
	for _, tc := range []struct {
		interrupted int
		err         error // then
		asked       int
		want        error
	}{
		{0, nil, 1, nil}, {3, nil, 4, nil}, {0, failed, 1, failed}, {2, failed, 3, failed}, {100, nil, dumpTries, netlink.ErrDumpInterrupted},
	} {
		asked := 0
		got, err := Dump(func() ([]int, error) {
			if asked++; asked <= tc.interrupted {
				return []int{0}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, tc.err
		})
		if asked != tc.asked || !errors.Is(err, tc.want) || err == nil && !slices.Equal(got, []int{1, 2}) {
			t.Errorf("after %d interrupted lists: asked %d times, got %v, error %v; want %d and error %v", tc.interrupted, asked, got, err, tc.asked, tc.want)
		}
	}
}
