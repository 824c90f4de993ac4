package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"palisade/internal/bench/traffic"
)

// A trips measures a series of round trips: alone, or while one TCP stream fills the path.
type trips struct {
	protocol string // "tcp" or "udp"
	loaded   bool
}

func (t trips) measures() []Measure {
	name := strings.ToUpper(t.protocol) + " round trip "
	suffix := ""
	if t.loaded {
		suffix = " under load"
	}
	return []Measure{
		{Name: name + "p50" + suffix, Unit: "us", Group: groupLatency, Smaller: true},
		{Name: name + "p99" + suffix, Unit: "us", Group: groupLatency, Smaller: true},
	}
}

func (t trips) run(ctx context.Context, r *rig, d Durations) (results []result, err error) {
	if t.loaded {
		filled := make(chan error, 1)
		go func() { _, _, err := r.transfer(ctx, d.Load, bulk{streams: 1}); filled <- err }()
		defer func() { err = errors.Join(err, <-filled) }()
		// The stream reaches its full rate in this time. The series ends well before the stream.
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return nil, err
		}
	}
	within := time.Duration(d.Load)*time.Second - 500*time.Millisecond
	l, err := r.client.RoundTrips(ctx, traffic.RoundTrips{
		Protocol: t.protocol, To: netip.AddrPortFrom(r.Server().Address, echoPort), Count: d.Trips, Within: within,
	})
	if err != nil {
		return nil, fmt.Errorf("round trips over %s: %w", t.protocol, err)
	}
	// While a stream fills the path, all messages may be lost; alone, that is an error.
	if l.Lost == l.Count && !t.loaded {
		return nil, fmt.Errorf("no answer to %d messages over %s", l.Count, t.protocol)
	}
	detail := map[string]float64{"count": float64(l.Count), "lost": float64(l.Lost)}
	return []result{{value: micro(l.P50), detail: detail}, {value: micro(l.P99), detail: detail}}, nil
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
