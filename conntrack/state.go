package conntrack

import (
	"time"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
)

// A state is the progress of a connection.
type state uint8

const (
	single      state = iota // UDP until its second exchange; ICMP and other protocols always
	stream                   // UDP with more than one exchange
	synSent                  // SYN seen
	synReceived              // SYN and SYN+ACK seen
	established              // the handshake is complete
	closing                  // one end has sent FIN
	timeWait                 // both ends have sent FIN
	closed                   // one end has sent RST
)

var stateNames = [...]string{"single", "stream", "syn-sent", "syn-received", "established", "closing", "time-wait", "closed"}

func (s state) String() string { return stateNames[s] }

// Timeouts say how long an idle connection is kept. A zero field means AWS's default. The
// comments give the default and, in parentheses, AWS's limits (EC2 User Guide, "Idle
// connection tracking timeout"). A connection that is idle for longer ends without notice to
// its two ends.
type Timeouts struct {
	TCPEstablished time.Duration // 432,000 s (60 s to 432,000 s)
	UDP            time.Duration // one exchange only: 30 s (30 s to 60 s)
	UDPStream      time.Duration // more than one exchange: 180 s (60 s to 180 s)
}

func (t Timeouts) withDefaults() Timeouts {
	if t.TCPEstablished == 0 {
		t.TCPEstablished = 432_000 * time.Second
	}
	if t.UDP == 0 {
		t.UDP = 30 * time.Second
	}
	if t.UDPStream == 0 {
		t.UDPStream = 180 * time.Second
	}
	return t
}

const (
	halfOpenTimeout = 30 * time.Second
	closingTimeout  = 120 * time.Second
	timeWaitTimeout = 60 * time.Second
	closedTimeout   = 10 * time.Second
	icmpTimeout     = 30 * time.Second
	otherTimeout    = 600 * time.Second
	blockedTimeout  = 180 * time.Second
)

// assured reports whether a connection may not be evicted: its TCP handshake is complete,
// or the other end has answered.
func (e *entry) assured() bool {
	if e.protocol == packet.ProtocolTCP {
		return e.state == established || e.state == closing
	}
	return e.packets[reply] > 0
}

func (e *entry) timeout(t *Timeouts) time.Duration {
	if e.has(isBlocked) {
		return blockedTimeout
	}
	switch e.protocol {
	case packet.ProtocolTCP:
		switch e.state {
		case established:
			return t.TCPEstablished
		case closing:
			return closingTimeout
		case timeWait:
			return timeWaitTimeout
		case closed:
			return closedTimeout
		}
		return halfOpenTimeout
	case packet.ProtocolUDP:
		if e.state == stream {
			return t.UDPStream
		}
		return t.UDP
	case packet.ProtocolICMP:
		return icmpTimeout
	}
	return otherTimeout
}

// ended reports whether both ends have closed the connection, or one has reset it.
func (e *entry) ended() bool {
	return e.state == timeWait || e.state == closed // which only TCP has
}

// advance changes the state of a connection for its packet p of direction w, which the connection
// does not ignore.
func (e *entry) advance(p *packet.Packet, w way) {
	switch e.protocol {
	case packet.ProtocolUDP:
		if e.packets[original] > 1 && e.packets[reply] > 1 {
			e.state = stream
		}
	case packet.ProtocolTCP:
		e.advanceTCP(p, w)
		if !e.has(isUntracked) {
			e.follow(p, w)
		}
	}
}

func (e *entry) advanceTCP(p *packet.Packet, w way) {
	failpoint.Reach()
	f := p.TCPFlags
	switch {
	case f&packet.RST != 0:
		e.state = closed
		return
	case e.state == closed && e.has(isUntracked) && f&packet.SYN == 0:
		// The rules judge each packet, and nobody checks the sequence number of a RST: it was
		// forged, or its receiver ignored it.
		e.state = established
	case e.state == synSent && w == reply && f&packet.SYN != 0:
		e.state = synReceived
	case e.state == synReceived && w == original && f&packet.ACK != 0:
		e.state = established
	}
	if f&packet.FIN != 0 && e.state >= synReceived && e.state != closed {
		e.tcp |= finSent.of(w)
		e.state = closing
		if e.tcp&bothFINs == bothFINs {
			e.state = timeWait
		}
	}
}
