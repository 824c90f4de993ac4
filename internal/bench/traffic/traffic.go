// Package traffic has the programs at the two endpoints of a measurement. They send, count
// and answer.
//
// One process runs at each endpoint, in the endpoint's network namespace. It calls Serve,
// which reads requests as lines of JSON from standard input, answers each with a line, and
// returns at the end of the input. An Agent starts such a process and sends the requests:
//
//	Listen      open the sink, the echo and the acceptors; they stay until the process ends
//	Count       what the sink has received and lost so far
//	Send        send a stream of UDP frames, as fast as possible or at a rate
//	RoundTrips  send one small message at a time and wait for its echo: p50 and p99
//	Connect     make new TCP connections, each with one byte in each direction
//
// The programs use blocking system calls, because the wake-ups of Go's network poller would
// add to the cost of every contestant. The sender writes single frames to the endpoint's
// device, so no segmentation offload can join them. The sink counts at an ordinary socket.
package traffic

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// A Listen says where the server listens. All ports are at one address; port 0 is not opened.
type Listen struct {
	Address   netip.Addr `json:"address"`
	Sink      int        `json:"sink"`       // first UDP port of the sink
	SinkPorts int        `json:"sink_ports"` // number of ports. Default 1
	Echo      int        `json:"echo"`       // TCP and UDP
	Accept    int        `json:"accept"`     // TCP, for Connect
}

// A Count has the datagrams of a sink since it was opened. Two counts give a rate.
type Count struct {
	Received uint64        `json:"received"` // datagrams that the program has read
	Dropped  uint64        `json:"dropped"`  // datagrams that reached the socket when its buffer was full
	At       time.Duration `json:"at"`       // CLOCK_MONOTONIC
}

// A Send is a stream of UDP frames that leaves by a device.
type Send struct {
	Device    string        `json:"device"`
	From      netip.Addr    `json:"from"`
	To        netip.Addr    `json:"to"`
	FromMAC   [6]byte       `json:"from_mac"` // zero: the device carries IP packets without an Ethernet header
	ToMAC     [6]byte       `json:"to_mac"`
	Port      int           `json:"port"`       // first port of the sink
	SinkPorts int           `json:"sink_ports"` // number of ports of the sink. Default 1
	Flows     int           `json:"flows"`      // they differ by source port, then by the sink's port. Default 1
	Size      int           `json:"size"`       // bytes on the wire: the frame with its 4-byte checksum
	Rate      float64       `json:"rate"`       // frames each second; 0: as fast as possible
	For       time.Duration `json:"for"`
}

// A Sent is the result of a Send.
type Sent struct {
	Offered uint64        `json:"offered"` // frames handed to the device
	Refused uint64        `json:"refused"` // frames of these that the device refused because its queue was full
	Took    time.Duration `json:"took"`
}

// A RoundTrips is a series of round trips to an echo.
type RoundTrips struct {
	Protocol string         `json:"protocol"` // "tcp" or "udp"
	To       netip.AddrPort `json:"to"`
	Count    int            `json:"count"`
	Within   time.Duration  `json:"within"` // the series ends after this time, but not before the first round trip. 0: no limit
}

// A Latency is the distribution of round trips. A lost datagram counts as a round trip of
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

// A Connected is the result of a Connect.
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

// Serve answers requests until in ends. It needs a process of its own, because only the end
// of the process closes its sockets.
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

// A server is the state that the requests of one process share.
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
