package bench

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"palisade/internal/bench/world"
)

// localPlace starts the programs of both endpoints in this process's namespace.
type localPlace struct{ place }

func (localPlace) Client() world.Endpoint { return world.Endpoint{} }
func (localPlace) Server() world.Endpoint {
	return world.Endpoint{Address: netip.MustParseAddr("192.0.2.2")}
}
func (localPlace) Start(_ world.Endpoint, cmd *exec.Cmd) error { return cmd.Start() }

// busyTwice is an iperf3 whose server is busy for the first two calls.
const busyTwice = `#!/bin/sh
echo >>"$0.calls"
if test $(wc -l <"$0.calls") -le 2; then
	echo '{"error": "the server is busy running a test. try again later"}'
	exit 1
fi
echo '{"end": {"sum_received": {"bytes": 1000, "seconds": 2}}}'
`

func TestTransferIsTriedAgainWhileTheServerIsBusy(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "iperf3"), []byte(busyTwice), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	r := &rig{place: localPlace{}}
	bits, seconds, err := r.transfer(context.Background(), 1, bulk{streams: 1})
	if err != nil || bits != 8000 || seconds != 2 {
		t.Errorf("got %v bits in %v s, %v; want 8000 in 2 s", bits, seconds, err)
	}
}
