package bench

import (
	"context"
	"fmt"
	"time"

	"palisade/internal/bench/traffic"
	"palisade/internal/bench/world"
)

// A packets floods the path with UDP frames of one size.
type packets struct {
	size     int // bytes on the wire
	flows    int
	lossless bool   // also search for the highest rate without loss
	title    string // replaces the name, if not ""
}

func (p packets) name() string {
	if p.title != "" {
		return p.title
	}
	if p.flows == 1 {
		return fmt.Sprintf("UDP, %d bytes, 1 flow", p.size)
	}
	return fmt.Sprintf("UDP, %d bytes, %d flows", p.size, p.flows)
}

func (p packets) measures() []Measure {
	all := []Measure{
		{Name: p.name(), Unit: "kpps", Group: groupPackets},
		{Name: "processor, " + p.name(), Unit: "us each", Group: groupProcessor, Smaller: true},
	}
	if p.lossless {
		all = append(all, Measure{Name: "without loss, " + p.name(), Unit: "kpps", Group: groupPackets})
	}
	return all
}

func (p packets) run(ctx context.Context, r *rig, d Durations) ([]result, error) {
	flood, err := r.flood(ctx, p, d.Flood)
	if err != nil {
		return nil, err
	}
	results := []result{
		{value: flood.rate / 1e3, detail: map[string]float64{"offered kpps": flood.offered / 1e3, "dropped by the receiver's socket, kpps": flood.dropped / 1e3}},
		{value: flood.processor / flood.rate * 1e6},
	}
	if !p.lossless {
		return results, nil
	}
	trial := func(rate float64) (trial, error) { return r.trial(ctx, p, rate, d.Trial) }
	best, trials, err := search(min(2*flood.rate, flood.offered), trial)
	if err != nil {
		return nil, err
	}
	return append(results, result{value: best / 1e3, detail: map[string]float64{"trials": float64(trials)}}), nil
}

func (r *rig) stream(p packets, rate float64, duration time.Duration) traffic.Send {
	from := r.Client()
	s := traffic.Send{
		Device: from.Device, From: from.Address, To: r.Server().Address, FromMAC: from.MAC, ToMAC: from.Peer,
		Port: sinkPort, SinkPorts: sinkPorts, Flows: p.flows, Size: p.size, Rate: rate, For: duration,
	}
	if r.flows != 0 {
		s.Flows = r.flows
	}
	return s
}

// A flood is the result of sending as fast as possible.
type flood struct {
	offered, rate, dropped float64 // frames each second
	processor              float64 // processor seconds each second
}

const (
	// A flood runs for floodLead, and perFlow for each flow, before the measurement begins,
	// so that the switch has seen each flow. It ends at least floodTail after the measurement.
	floodLead = 200 * time.Millisecond
	perFlow   = 7 * time.Microsecond
	floodTail = 100 * time.Millisecond
	// floodTries is how often a flood is tried. On a busy machine a flood can end before its
	// measurement does, or nothing arrives during the measurement.
	floodTries = 3
)

// The method flood sends as fast as possible and counts at the receiver's socket. The result
// is the forwarding rate at maximum offered load (RFC 2285 §3.6.2).
func (r *rig) flood(ctx context.Context, p packets, window time.Duration) (flood, error) {
	stream := r.stream(p, 0, 0)
	lead := floodLead + time.Duration(stream.Flows)*perFlow
	stream.For = lead + window + floodTail
	var f flood
	for range floodTries {
		type sent struct {
			traffic.Sent
			at  time.Time
			err error
		}
		done := make(chan sent, 1)
		go func() {
			s, err := r.client.Send(ctx, stream)
			done <- sent{s, time.Now(), err}
		}()
		var err error
		f, err = r.watch(ctx, lead, window)
		watched := time.Now()
		s := <-done
		if s.err != nil {
			return f, s.err
		}
		if err != nil {
			return f, err
		}
		if f.offered = float64(s.Offered) / s.Took.Seconds(); watched.Before(s.at) && f.rate > 0 {
			return f, nil
		}
	}
	if f.rate == 0 {
		return f, fmt.Errorf("%s delivered none of %.0f frames a second", p.name(), f.offered)
	}
	return f, fmt.Errorf("%s: the machine is too busy to count while frames are sent", p.name())
}

// watch counts what arrives in a window that begins after the lead.
func (r *rig) watch(ctx context.Context, lead, window time.Duration) (f flood, err error) {
	var counts [2]traffic.Count
	var busy [2]float64
	for i, wait := range []time.Duration{lead, window} {
		if err := pause(ctx, wait); err != nil {
			return f, err
		}
		if counts[i], err = r.server.Count(ctx); err != nil {
			return f, err
		}
		if busy[i], err = world.CPU(); err != nil {
			return f, err
		}
	}
	seconds := (counts[1].At - counts[0].At).Seconds()
	f.rate = float64(counts[1].Received-counts[0].Received) / seconds
	f.dropped = float64(counts[1].Dropped-counts[0].Dropped) / seconds
	f.processor = (busy[1] - busy[0]) / seconds
	return f, nil
}

// A trial is a stream at one rate. Its loss includes the drops of the receiver's socket.
type trial struct {
	rate float64 // the rate that was sent, which can be lower than the rate that was asked for
	lost uint64
}

// The method trial sends at a rate, and then waits until no more frames arrive.
func (r *rig) trial(ctx context.Context, p packets, rate float64, duration time.Duration) (trial, error) {
	before, err := r.server.Count(ctx)
	if err != nil {
		return trial{}, err
	}
	sent, err := r.client.Send(ctx, r.stream(p, rate, duration))
	if err != nil {
		return trial{}, err
	}
	t := trial{rate: float64(sent.Offered) / sent.Took.Seconds()}
	const patience = 20 // counts, 5 ms apart, without a new frame
	for last, idle := uint64(0), 0; idle < patience; idle++ {
		now, err := r.server.Count(ctx)
		if err != nil {
			return t, err
		}
		got := now.Received - before.Received
		if t.lost = sent.Offered - min(got, sent.Offered); t.lost == 0 {
			return t, nil
		}
		if got != last {
			last, idle = got, 0
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return t, err
		}
	}
	return t, nil
}

// searchSteps is how often the search halves its interval: so the result is exact to 1/64 of
// the initial limit.
const searchSteps = 6

// search finds the highest rate without loss, by bisection between 0 and limit. This is the
// throughput of RFC 2544 §26.1, except that a trial takes a fraction of a second and not
// sixty. A rate fails when two trials in succession lose frames, because a machine with
// other work sometimes loses frames at any rate.
func search(limit float64, attempt func(rate float64) (trial, error)) (best float64, trials int, err error) {
	low, high := 0.0, limit
	for range searchSteps {
		rate := (low + high) / 2
		var t trial
		for range 2 {
			if t, err = attempt(rate); err != nil {
				return best, trials, err
			}
			if trials++; t.lost == 0 {
				break
			}
		}
		if t.lost > 0 {
			high = rate
			continue
		}
		low, best = rate, max(best, t.rate)
	}
	if best == 0 {
		best = limit / (1 << (searchSteps + 1)) // the search cannot tell a lower rate from 0
	}
	return best, trials, nil
}
