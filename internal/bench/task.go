package bench

import (
	"context"
	"time"
)

// A Measure is one quantity that is measured for every contestant of a phase.
type Measure struct {
	Name    string `json:"name"`
	Unit    string `json:"unit"`
	Group   string `json:"group"`             // name of its chart
	Smaller bool   `json:"smaller,omitempty"` // smaller values are better
}

// The groups, which are also the names of the charts.
const (
	groupTCP         = "TCP"
	groupPackets     = "packets"
	groupProcessor   = "processor"
	groupConnections = "connections"
	groupLatency     = "round trips"
	groupMemory      = "memory"
)

// A task takes one sample of each of its measures.
type task interface {
	measures() []Measure
	run(ctx context.Context, r *rig, d Durations) ([]result, error)
}

// A result is the sample of a measure.
type result struct {
	value  float64
	detail map[string]float64
}

// memory measures the memory that a contestant uses after the previous tasks.
type memory struct{}

func (memory) measures() []Measure {
	return []Measure{{Name: "memory", Unit: "MiB", Group: groupMemory, Smaller: true}}
}

func (memory) run(_ context.Context, r *rig, _ Durations) ([]result, error) {
	bytes, err := r.memory()
	return []result{{value: float64(bytes) / (1 << 20)}}, err
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
