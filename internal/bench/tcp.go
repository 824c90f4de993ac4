package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"palisade/internal/bench/traffic"
)

// A bulk is a TCP transfer by iperf3, as fast as possible.
type bulk struct {
	streams int
	reverse bool // from the server to the client
}

func (b bulk) name() string {
	name := fmt.Sprintf("TCP, %d streams", b.streams)
	if b.streams == 1 {
		name = "TCP, 1 stream"
	}
	if b.reverse {
		name += ", reverse"
	}
	return name
}

func (b bulk) measures() []Measure {
	return []Measure{
		{Name: b.name(), Unit: "Gbit/s", Group: groupTCP},
		{Name: "processor, " + b.name(), Unit: "s/GB", Group: groupProcessor, Smaller: true},
	}
}

func (b bulk) run(ctx context.Context, r *rig, d Durations) ([]result, error) {
	var bits, seconds float64
	processor, err := processorSeconds(func() (err error) {
		bits, seconds, err = r.transfer(ctx, d.TCP, b)
		return err
	})
	if err != nil {
		return nil, err
	}
	return []result{{value: bits / seconds / 1e9}, {value: processor / (bits / 8e9)}}, nil
}

// errBusy means that the iperf3 server has not ended the previous transfer yet. On a busy
// machine that can take a moment.
var errBusy = errors.New("the iperf3 server is busy")

// A transfer is tried busyTries times, with a pause of busyPause, while the server is busy.
const (
	busyTries = 10
	busyPause = 200 * time.Millisecond
)

// transfer sends for some seconds. It returns the bits that arrived and the time they took.
func (r *rig) transfer(ctx context.Context, seconds int, b bulk) (bits, took float64, err error) {
	for range busyTries {
		if bits, took, err = r.iperf3(ctx, seconds, b); !errors.Is(err, errBusy) {
			break
		}
		if err := pause(ctx, busyPause); err != nil {
			return 0, 0, err
		}
	}
	return bits, took, err
}

// iperf3 makes one transfer.
func (r *rig) iperf3(ctx context.Context, seconds int, b bulk) (bits, took float64, err error) {
	argv := []string{"-4", "-J", "-c", r.Server().Address.String(), "-p", strconv.Itoa(iperfPort),
		"-t", strconv.Itoa(seconds), "-P", strconv.Itoa(b.streams), "--connect-timeout", "5000"}
	if b.reverse {
		argv = append(argv, "-R")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+15*time.Second)
	defer cancel()
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(ctx, "iperf3", argv...)
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := r.Start(r.Client(), cmd); err != nil {
		return 0, 0, err
	}
	ended := cmd.Wait()
	var said struct {
		Error string
		End   struct {
			SumReceived struct {
				Bytes   float64
				Seconds float64
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(out.Bytes(), &said); err == nil && strings.Contains(said.Error, "server is busy") {
		return 0, 0, errBusy
	} else if err == nil && said.Error != "" {
		return 0, 0, fmt.Errorf("iperf3: %s", said.Error)
	}
	if ended != nil {
		return 0, 0, fmt.Errorf("iperf3 %s: %w: %s", strings.Join(argv, " "), errors.Join(ended, ctx.Err()), strings.TrimSpace(problem.String()))
	}
	received := said.End.SumReceived
	if received.Bytes == 0 || received.Seconds == 0 {
		return 0, 0, fmt.Errorf("%s delivered nothing", b.name())
	}
	return received.Bytes * 8, received.Seconds, nil
}

// connections measures the rate of new TCP connections.
type connections struct{}

// connectParallel is the number of connections that are made at the same time.
const connectParallel = 8

func (connections) measures() []Measure {
	return []Measure{
		{Name: "new connections", Unit: "1/s", Group: groupConnections},
		{Name: "processor, new connections", Unit: "ms each", Group: groupProcessor, Smaller: true},
	}
}

func (connections) run(ctx context.Context, r *rig, d Durations) ([]result, error) {
	var c traffic.Connected
	processor, err := processorSeconds(func() (err error) {
		c, err = r.client.Connect(ctx, traffic.Connect{To: netip.AddrPortFrom(r.Server().Address, acceptPort), Parallel: connectParallel, For: d.Connect})
		return err
	})
	if err != nil {
		return nil, err
	}
	if c.Made == 0 {
		return nil, errors.New("no connection was made")
	}
	return []result{
		{value: float64(c.Made) / c.Took.Seconds(), detail: map[string]float64{"failed": float64(c.Failed)}},
		{value: processor / float64(c.Made) * 1e3},
	}, nil
}
