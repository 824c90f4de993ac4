package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"palisade/internal/bench/world"
)

const (
	iperfPort = world.FirstPort
	echoPort  = world.FirstPort + 1
)

// What is measured, in the order of the report.
var measures = []struct{ name, unit string }{
	{"TCP, 1 stream", "Gbit/s"},
	{"TCP, 8 streams", "Gbit/s"},
	{"processor, 1 stream", "s/GB"},
	{"processor, 8 streams", "s/GB"},
	{"TCP round trip p50", "us"},
	{"UDP round trip p50", "us"},
}

// serve starts what the client talks to.
func serve(ctx context.Context, w *world.World, config Config) error {
	address := w.Server().Address
	echo := append(slices.Clone(config.Echo), "serve", netip.AddrPortFrom(address, echoPort).String())
	return errors.Join(
		w.Serve(ctx, w.Server(), iperfPort, "iperf3", "-4", "-s", "-B", address.String(), "-p", strconv.Itoa(iperfPort)),
		w.Serve(ctx, w.Server(), echoPort, echo...))
}

// measure takes one sample of everything.
func measure(ctx context.Context, w *world.World, config Config) ([]Sample, error) {
	var all []Sample
	add := func(measure int, value float64) {
		all = append(all, Sample{Measure: measures[measure].name, Unit: measures[measure].unit, Value: value})
	}
	for i, streams := range []int{1, 8} {
		before, err := w.CPU()
		if err != nil {
			return nil, err
		}
		bits, seconds, err := transfer(ctx, w, config, streams)
		if err != nil {
			return nil, err
		}
		after, err := w.CPU()
		if err != nil {
			return nil, err
		}
		add(i, bits/seconds/1e9)
		add(2+i, (after-before)/(bits/8e9))
	}
	for i, protocol := range []string{"tcp", "udp"} {
		p50, err := roundTrip(ctx, w, config, protocol)
		if err != nil {
			return nil, err
		}
		add(4+i, float64(p50)/float64(time.Microsecond))
	}
	return all, nil
}

// transfer sends as fast as TCP goes, and returns what has arrived.
func transfer(ctx context.Context, w *world.World, config Config, streams int) (bits, seconds float64, err error) {
	out, err := ask(ctx, w, time.Duration(config.Seconds)*time.Second, "iperf3", "-4", "-J",
		"-c", w.Server().Address.String(), "-p", strconv.Itoa(iperfPort), "-t", strconv.Itoa(config.Seconds), "-P", strconv.Itoa(streams))
	var result struct {
		Error string
		End   struct {
			SumReceived struct {
				Bytes   float64
				Seconds float64
			} `json:"sum_received"`
		}
	}
	if jsonErr := json.Unmarshal(out, &result); jsonErr == nil && result.Error != "" {
		return 0, 0, fmt.Errorf("iperf3: %s", result.Error)
	}
	if err != nil {
		return 0, 0, err
	}
	received := result.End.SumReceived
	if received.Bytes == 0 || received.Seconds == 0 {
		return 0, 1, nil // the report calls it void
	}
	return received.Bytes * 8, received.Seconds, nil
}

// roundTrip returns the median of a series of round trips, one at a time.
func roundTrip(ctx context.Context, w *world.World, config Config, protocol string) (time.Duration, error) {
	argv := append(append([]string(nil), config.Echo...), protocol, netip.AddrPortFrom(w.Server().Address, echoPort).String(), strconv.Itoa(config.RoundTrips))
	out, err := ask(ctx, w, time.Duration(config.RoundTrips)*time.Millisecond, argv...)
	if err != nil {
		return 0, err
	}
	return time.ParseDuration(strings.TrimSpace(string(out)))
}

// ask runs a client that should take about so long, and returns its output.
func ask(ctx context.Context, w *world.World, about time.Duration, argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, about+10*time.Second)
	defer cancel()
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := w.Start(w.Client(), cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return out.Bytes(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(problem.String()))
	}
	return out.Bytes(), nil
}
