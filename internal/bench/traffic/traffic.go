// Package traffic is the programs at the two endpoints of a measurement: what sends, what
// counts, what answers.
//
// One process runs at each endpoint, in its network namespace. Serve is its body: it reads
// requests as lines of JSON from its input, answers each with a line, and ends with its
// input. Agent is the other end of the two pipes. The requests:
//
//	Listen      open the sink, the echo and the acceptors; they stay until the process ends
//	Count       what the sink has received and lost so far
//	Send        a stream of crafted UDP frames, as fast as it goes or at a rate
//	RoundTrips  one small message at a time, there and back: p50 and p99
//	Connect     new TCP connections, one byte each way
//
// Programs use blocking system calls, so that Go's own poller does not add its wake-ups to
// every contestant's. The sender writes whole frames to the endpoint's device, so that no
// segmentation offload makes one frame of many; the sink counts at an ordinary socket.
package traffic

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// A Listen says where the server listens. Each is one address; a zero port is not opened.
type Listen struct {
	Address   netip.Addr `json:"address"`
	Sink      int        `json:"sink"`       // first UDP port of the sink
	SinkPorts int        `json:"sink_ports"` // how many there are. Default 1
	Echo      int        `json:"echo"`       // TCP and UDP
	Accept    int        `json:"accept"`     // TCP, for Connect
}

// A Count is what a sink has seen since it was opened. Two counts give a rate.
type Count struct {
	Received uint64        `json:"received"` // datagrams that the program has read
	Dropped  uint64        `json:"dropped"`  // that reached the socket and found its buffer full
	At       time.Duration `json:"at"`       // CLOCK_MONOTONIC
}

// A Send is a stream of UDP frames out of a device.
type Send struct {
	Device    string        `json:"device"`
	From      netip.Addr    `json:"from"`
	To        netip.Addr    `json:"to"`
	FromMAC   [6]byte       `json:"from_mac"` // zero: the device has no addresses, and carries packets
	ToMAC     [6]byte       `json:"to_mac"`
	Port      int           `json:"port"`       // first port of the sink
	SinkPorts int           `json:"sink_ports"` // that flows are spread over. Default 1
	Flows     int           `json:"flows"`      // by source port, and where those end by the sink's. Default 1
	Size      int           `json:"size"`       // bytes on a wire: the frame and four of checksum
	Rate      float64       `json:"rate"`       // frames a second; 0 as fast as it goes
	For       time.Duration `json:"for"`
}

// A Sent is what became of a Send.
type Sent struct {
	Offered uint64        `json:"offered"` // frames handed to the device
	Refused uint64        `json:"refused"` // of those, that found the device's queue full
	Took    time.Duration `json:"took"`
}

// A RoundTrips is a series of round trips to an echo.
type RoundTrips struct {
	Protocol string         `json:"protocol"` // "tcp" or "udp"
	To       netip.AddrPort `json:"to"`
	Count    int            `json:"count"`
	Within   time.Duration  `json:"within"` // ends the series early, but not before the first
}

// A Latency is the distribution of round trips. A datagram that was lost counts as one of
// lostAfter.
type Latency struct {
	P50   time.Duration `json:"p50"`
	P99   time.Duration `json:"p99"`
	Count int           `json:"count"`
	Lost  int           `json:"lost"`
}

// A Connect makes connections for a while, several at a time.
type Connect struct {
	To       netip.AddrPort `json:"to"`
	Parallel int            `json:"parallel"`
	For      time.Duration  `json:"for"`
}

// A Connected is what became of a Connect.
type Connected struct {
	Made   int           `json:"made"`
	Failed int           `json:"failed"`
	Took   time.Duration `json:"took"`
}

type request struct {
	Verb string          `json:"verb"`
	Args json.RawMessage `json:"args"`
}

type reply struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// Serve answers requests until in ends. It is the body of a process of its own: what it
// opens is closed by the process's end.
func Serve(in io.Reader, out io.Writer) error {
	requests, replies := json.NewDecoder(in), json.NewEncoder(out)
	var s server
	for {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		var answer reply
		result, err := s.do(r)
		if err == nil {
			answer.Result, err = json.Marshal(result)
		}
		if err != nil {
			answer = reply{Error: fmt.Sprintf("%s: %v", r.Verb, err)}
		}
		if err := replies.Encode(answer); err != nil {
			return fmt.Errorf("answer %s: %w", r.Verb, err)
		}
	}
}

// A server is what the requests of one process share.
type server struct{ sink *sink }

func (s *server) do(r request) (any, error) {
	switch r.Verb {
	case "listen":
		return with(r.Args, func(l Listen) (struct{}, error) { return struct{}{}, s.listen(l) })
	case "count":
		if s.sink == nil {
			return nil, errors.New("no sink is open")
		}
		return s.sink.count()
	case "send":
		return with(r.Args, send)
	case "round-trips":
		return with(r.Args, roundTrips)
	case "connect":
		return with(r.Args, connect)
	}
	return nil, errors.New("no such request")
}

func with[A, R any](raw json.RawMessage, do func(A) (R, error)) (R, error) {
	var args A
	if err := json.Unmarshal(raw, &args); err != nil {
		var none R
		return none, err
	}
	return do(args)
}

func (s *server) listen(l Listen) (err error) {
	if l.Sink != 0 {
		if s.sink, err = newSink(l.Address, l.Sink, max(1, l.SinkPorts)); err != nil {
			return err
		}
	}
	if l.Echo != 0 {
		if err := serveEcho(netip.AddrPortFrom(l.Address, uint16(l.Echo))); err != nil {
			return err
		}
	}
	if l.Accept != 0 {
		return serveAccept(netip.AddrPortFrom(l.Address, uint16(l.Accept)))
	}
	return nil
}
