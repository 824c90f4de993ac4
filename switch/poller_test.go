package vswitch_test

import (
	"sync"
	"testing"
	"time"

	"palisade/conntrack"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

// A noted device appends its name to a log at each write.
type noted struct {
	*taptest.Device
	name string
	log  func(name string)
}

func (d noted) Write(b []byte) error {
	d.log(d.name)
	return d.Device.Write(b)
}

// TestSmallFramesDoNotWaitForAQueueOfLargeOnes: one poller has a port with hundreds of large frames
// and a port with one small frame. The small one leaves after at most one batch of large ones.
//
//	bulk, 500 frames of 64 kB -- [poller] -- bulk sink
//	trip, 1 frame of 64 bytes -- [      ] -- trip sink
func TestSmallFramesDoNotWaitForAQueueOfLargeOnes(t *testing.T) {
	tracker, err := conntrack.Open(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	sw, err := vswitch.NewRelay(vswitch.Config{Tracker: tracker, Pollers: 1})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []string
	arrived := make(chan struct{}, 1)
	log := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, name)
		if name == "trip sink" {
			arrived <- struct{}{}
		}
	}
	devices := map[string]*taptest.Device{}
	for _, name := range []string{"bulk", "bulk sink", "trip", "trip sink"} {
		if devices[name], err = taptest.New(); err != nil {
			t.Fatal(err)
		}
		if _, err := sw.AddPort(name, vswitch.InstancePort, noted{devices[name], name, log}); err != nil {
			t.Fatal(err)
		}
	}
	large := make([]byte, 64_000)
	for range 500 {
		if err := devices["bulk"].Send(large); err != nil {
			t.Fatal(err)
		}
	}
	if err := devices["trip"].Send(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	go sw.Run(t.Context())
	select {
	case <-arrived:
	case <-time.After(30 * time.Second):
		t.Fatal("the small frame did not leave within 30 s")
	}
	mu.Lock()
	defer mu.Unlock()
	for i, name := range order {
		if name == "trip sink" && i > 5 {
			t.Errorf("the small frame left after %d large frames, want at most 5", i)
		}
	}
}
