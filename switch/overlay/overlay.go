// Package overlay carries frames between the nodes of a cluster in sealed datagrams: the tunnels.
// Nobody on the underlay can read, change, replay or invent a frame, and the receiver knows which
// node sent it. On a trusted underlay the datagrams can be those of VXLAN instead, without these
// guarantees; see Form.
//
// Read datagram.go first: it draws what is on the wire. An association holds the keys of one pair
// of nodes for an hour, in both directions, with a counter and a replay window for each send queue
// (compare the security association of RFC 4301 §4.1). A key exchange makes one, over a stream of
// mutual TLS 1.3 between the two nodes. The Device is the data path, between a UDP socket and the
// switch. The Overlay owns all of them; SetPeers tells it the other nodes.
//
// An association stays in force until a newer one replaces it or its node is no peer any more. It
// needs neither the stream that made it nor a leader of the cluster (fail static).
//
// The package does not check what a frame says of its sender. The switch checks that the sending
// interface is leased to the sending node.
package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"palisade/internal/peer"
)

// Config has the settings of New.
type Config struct {
	// Peer has this node's certificate and opens the streams for key exchanges. It is required.
	Peer *peer.Peer
	// Node is this node's name in the cluster. It is required. With a wrong name both nodes of a
	// pair may wait for the other to begin, and no tunnel comes up.
	Node string
	// Listen is the local address from which datagrams are sent and on which they are received.
	// Port 0 lets the kernel choose. There is no default. The other nodes must know this address:
	// they drop datagrams from any other address as tunnel-unknown.
	Listen netip.AddrPort
	// Form is the form of the datagrams. Default: Sealed. All nodes of a cluster must have the same
	// form: two nodes that differ exchange neither keys nor frames.
	Form Form
	// MTU is how many bytes an IP packet may have that other nodes send to this one; see Form.MTU. They
	// take the smaller one of it and their own. Default: not told, so they take their own. If it is larger
	// than what the underlay of this node carries, large packets to this node are lost.
	MTU int
	// Logger gets the failures of key exchanges. Default: discard; Status reports them too.
	Logger *slog.Logger
}

// A Remote describes another node.
type Remote struct {
	Number    uint32 // the node's number in a frame's Origin; not 0
	Node      string
	Address   netip.AddrPort // where the node sends and receives datagrams
	PublicKey []byte         // the key of the node's certificate, as PKIX DER
}

func (r *Remote) equal(o *Remote) bool {
	return r.Number == o.Number && r.Node == o.Node && r.Address == o.Address && bytes.Equal(r.PublicKey, o.PublicKey)
}

const (
	// rekeyInterval is how long an association is used for sending. At a million datagrams a second
	// it seals 2^32 of them, far below the limit of one AES-GCM key with counted nonces.
	rekeyInterval = time.Hour
	// retireAfter is how long a replaced association still receives datagrams that were on their
	// way.
	retireAfter = time.Minute
	// maxAssociations bounds the associations with one node. When there would be more, the oldest
	// is dropped.
	maxAssociations = 4
)

// Overlay is the tunnels of one node. Its owner is the caller of New. The switch that its Device
// was added to closes the Device.
//
// Any goroutine may call its methods. mu guards peers and what they point to, and is held while the
// table is replaced. No other lock is taken while it is held. The data path takes no lock: it reads
// the table, which is immutable.
type Overlay struct {
	config   Config
	log      *slog.Logger
	device   *Device
	listener net.Listener
	table    atomic.Pointer[table]

	work  sync.WaitGroup
	mu    sync.Mutex
	ctx   context.Context        // of Run; nil before Run
	peers map[string]*remotePeer // by node name
	epoch uint64                 // of Renew: associations that were begun in an earlier one are renewed
}

// A table holds the associations that the data path uses. It is immutable.
type table struct {
	send    map[uint32]*association     // by number of the remote node
	receive map[uint32]*association     // by the index that this node gave the association
	vtep    map[netip.Addr]*association // by address of the remote node; only used for VXLAN
}

// A remotePeer is another node, and the associations and the stream with it. Overlay.mu guards it,
// except that Remote, ctx and end do not change.
type remotePeer struct {
	Remote
	ctx          context.Context // ends when the node is no peer any more, or Run ends
	end          context.CancelFunc
	current      *association   // the association to send on; nil until there is one
	associations []*association // the associations to receive on, oldest first
	stream       *peer.Conn     // the stream of the exchange that made current; nil when it has ended
	problem      string         // why there is no stream; empty if there is one
}

// New returns an Overlay and binds its UDP socket. Nothing is sent or received before Run.
func New(c Config) (*Overlay, error) {
	if c.Peer == nil || c.Node == "" {
		return nil, errors.New("overlay: Config.Peer and Config.Node are required")
	}
	if c.MTU < 0 || c.MTU > maxMTU {
		return nil, fmt.Errorf("overlay: Config.MTU is %d, the limit is %d", c.MTU, maxMTU)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	o := &Overlay{config: c, log: c.Logger, peers: map[string]*remotePeer{}}
	o.table.Store(&table{})
	device, err := openDevice(c.Form, c.Listen, &o.table)
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	o.device, o.listener = device, c.Peer.Listener(peer.ProtocolTunnel)
	return o, nil
}

// Addr returns the local address of the datagrams.
func (o *Overlay) Addr() netip.AddrPort { return o.device.addr }

// Form returns the form of the datagrams.
func (o *Overlay) Form() Form { return o.config.Form }

// Device returns the device that the switch uses for the tunnels.
func (o *Overlay) Device() *Device { return o.device }

// Run exchanges keys with the peers, and renews the keys, until ctx ends. It returns when all its
// goroutines have ended. The associations stay in force.
func (o *Overlay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.mu.Lock()
	o.ctx = ctx
	for _, p := range o.peers {
		o.startLocked(p)
	}
	o.mu.Unlock()
	o.work.Go(func() { o.runRetire(ctx) })
	stop := context.AfterFunc(ctx, func() { _ = o.listener.Close() }) // ends Accept
	err := o.runAccept(ctx)
	stop()
	cancel()
	o.mu.Lock()
	//lint:ignore SA2001 a startLocked that runs now adds to work before it releases the lock
	o.mu.Unlock()
	o.work.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// SetPeers tells the Overlay all other nodes. A node that is missing in remotes, or has changed,
// loses its associations and its stream at once.
func (o *Overlay) SetPeers(remotes []Remote) {
	o.mu.Lock()
	defer o.mu.Unlock()
	next := map[string]*remotePeer{}
	for _, r := range remotes {
		if r.Node == o.config.Node || r.Number == 0 {
			continue
		}
		p := o.peers[r.Node]
		if p == nil || !p.equal(&r) {
			p = &remotePeer{Remote: r, problem: "not connected yet"}
		}
		next[r.Node] = p
	}
	for name, old := range o.peers {
		if next[name] != old {
			o.endLocked(old)
		}
	}
	for name, p := range next {
		if o.peers[name] != p {
			o.startLocked(p)
		}
	}
	o.peers = next
	o.publishLocked()
}

// Renew replaces the keys of every association that was begun in an earlier epoch. It ends the
// streams, and the initiators begin new exchanges; until one has succeeded, the pair uses its old
// keys, so no datagram is lost. An epoch that is not newer than the last does nothing.
func (o *Overlay) Renew(epoch uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if epoch <= o.epoch {
		return
	}
	o.epoch = epoch
	for _, p := range o.peers {
		if p.stream != nil && p.current != nil && p.current.epoch < epoch {
			_ = p.stream.Close() // an error changes nothing: the stream is not used again
		}
	}
}

// Renewed returns the epoch of the last Renew, and the peers with which this node still uses keys of
// an earlier one, sorted by name.
func (o *Overlay) Renewed() (epoch uint64, pending []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, p := range o.peers {
		if p.current != nil && p.current.epoch < o.epoch {
			pending = append(pending, name)
		}
	}
	slices.Sort(pending)
	return o.epoch, pending
}

// DropRenewed drops the associations of earlier epochs that were replaced, without the usual wait for
// datagrams that are on their way. Call it when no node sends on them any more.
func (o *Overlay) DropRenewed() {
	o.mu.Lock()
	defer o.mu.Unlock()
	dropped := false
	for _, p := range o.peers {
		before := len(p.associations)
		p.associations = slices.DeleteFunc(p.associations, func(s *association) bool { return !s.replaced.IsZero() && s.epoch < o.epoch })
		dropped = dropped || len(p.associations) < before
	}
	if dropped {
		o.publishLocked()
	}
}

// startLocked begins to connect to a node. Of the two nodes, the one whose name sorts first opens
// the stream.
func (o *Overlay) startLocked(p *remotePeer) {
	if o.ctx == nil || o.ctx.Err() != nil {
		return // Run starts the connection when it begins, or Run has ended
	}
	p.ctx, p.end = context.WithCancel(o.ctx)
	if o.config.Node < p.Node {
		o.work.Go(func() { o.runDial(p) })
	}
}

// endLocked ends the exchange and the stream with a node that the caller removes from o.peers. The
// caller then publishes a table without the node's associations.
func (o *Overlay) endLocked(p *remotePeer) {
	if p.end != nil {
		p.end()
	}
	if p.stream != nil {
		_ = p.stream.Close() // an error changes nothing: the stream is not used again
	}
}

// publishLocked gives the data path a new table with the associations of all peers.
func (o *Overlay) publishLocked() {
	t := &table{send: map[uint32]*association{}, receive: map[uint32]*association{}, vtep: map[netip.Addr]*association{}}
	for _, p := range o.peers {
		if p.current != nil {
			t.send[p.Number] = p.current
		}
		for _, s := range p.associations {
			t.receive[s.index] = s
			t.vtep[s.address.Addr()] = s
		}
	}
	o.table.Store(t)
}

// runRetire drops replaced associations, until ctx ends.
func (o *Overlay) runRetire(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			o.retire(now)
		}
	}
}

func (o *Overlay) retire(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.peers {
		p.associations = slices.DeleteFunc(p.associations, func(s *association) bool {
			return !s.replaced.IsZero() && now.Sub(s.replaced) >= retireAfter
		})
	}
	o.publishLocked()
}

// Status is the state of the tunnel to another node.
type Status struct {
	Number  uint32         `json:"number"`
	Node    string         `json:"node"`
	Address netip.AddrPort `json:"address"`
	Up      bool           `json:"up"`                // there is an association to send on
	Since   time.Time      `json:"since,omitzero"`    // when its keys were exchanged
	Problem string         `json:"problem,omitempty"` // why the last key exchange failed
	MTU     int            `json:"mtu,omitempty"`     // of an IP packet that is sent to the node, as the node told
}

// Status returns the state of the tunnel to each peer, sorted by name.
func (o *Overlay) Status() []Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := []Status{}
	for _, name := range slices.Sorted(maps.Keys(o.peers)) {
		p := o.peers[name]
		s := Status{Number: p.Number, Node: name, Address: p.Address, Up: p.current != nil, Problem: p.problem}
		if p.current != nil {
			s.Since, s.MTU = p.current.begun, int(p.current.mtu.Load())
		}
		all = append(all, s)
	}
	return all
}
