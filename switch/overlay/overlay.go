// Package overlay carries frames between the nodes of a cluster in sealed datagrams: the
// tunnels. Nobody on the underlay can read a frame, change one, replay one or invent one,
// and the receiver knows which node it is from. Where the underlay is trusted, they can be
// those of VXLAN instead, of which none of that holds; see Form.
//
// Read datagram.go first, for what is on the wire. A session holds the keys of one pair of
// nodes for an hour, both ways, with a counter and a replay window for each sender queue.
// An exchange makes one, over a stream of mutual TLS 1.3 between the two nodes. The Device
// is the data path, between a UDP socket and the switch. The Overlay owns all of them and
// is told by SetPeers which nodes there are.
//
// A session stays in force until a newer one has taken its place or its node is no peer any
// more. Whether the stream that made it still stands, or anybody governs the cluster, does
// not matter to it (fail static).
//
// What a frame may say of itself is not decided here: that its interface is leased to the
// node that sent it, the switch checks.
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

// Config is what an Overlay needs. All but Logger is required.
type Config struct {
	Peer   *peer.Peer
	Node   string         // this node's name
	Listen netip.AddrPort // of the datagrams; they leave from here too
	Form   Form           // of the datagrams; default Sealed
	Logger *slog.Logger   // default: discard
}

// A Remote is another node.
type Remote struct {
	Number    uint32 // what frames know it by; not 0
	Node      string
	Address   netip.AddrPort // where its datagrams come from and go to
	PublicKey []byte         // of its certificate, PKIX DER
}

func (r *Remote) equal(o *Remote) bool {
	return r.Number == o.Number && r.Node == o.Node && r.Address == o.Address && bytes.Equal(r.PublicKey, o.PublicKey)
}

const (
	// rekeyEvery is how long a session is sent on. At a million datagrams a second it
	// seals 2^32, far below what one AES-GCM key bears with nonces that count.
	rekeyEvery = time.Hour
	// retireAfter is how long one that was replaced still receives what was under way.
	retireAfter = time.Minute
	// maxSessions bounds those of one node; the oldest makes room.
	maxSessions = 4
)

// Overlay is the tunnels of one node.
//
// Its mutex guards what is known of the peers, and is held by whoever changes it. The data
// path reads the table alone, which is immutable.
type Overlay struct {
	config   Config
	log      *slog.Logger
	device   *Device
	listener net.Listener
	table    atomic.Pointer[table]

	work sync.WaitGroup
	mu   sync.Mutex
	ctx  context.Context // of Run; nil before
	far  map[string]*far // by name
}

// A table is the sessions there are.
type table struct {
	send    map[uint32]*session     // by node number
	receive map[uint32]*session     // by receiver index
	vtep    map[netip.Addr]*session // by the node's address; in the form of VXLAN alone
}

// A far is another node and what connects this one with it.
type far struct {
	Remote
	ctx      context.Context // ends when it is no peer any more
	end      context.CancelFunc
	current  *session   // nil until there is one
	sessions []*session // that receive, oldest first
	stream   *peer.Conn // that current came by; nil when it broke
	problem  string     // why there is no stream
}

// New binds the address. Nothing is sent or received before Run.
func New(c Config) (*Overlay, error) {
	if c.Peer == nil || c.Node == "" {
		return nil, errors.New("overlay: a Config wants a Peer and a Node")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	o := &Overlay{config: c, log: c.Logger, far: map[string]*far{}}
	o.table.Store(&table{})
	device, err := openDevice(c.Form, c.Listen, &o.table)
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	o.device, o.listener = device, c.Peer.Listener(peer.ProtocolTunnel)
	return o, nil
}

// Addr is where the datagrams come from and go to.
func (o *Overlay) Addr() netip.AddrPort { return o.device.addr }

// Form is that of the datagrams.
func (o *Overlay) Form() Form { return o.config.Form }

// Device is the tunnels as the switch sees them.
func (o *Overlay) Device() *Device { return o.device }

// Run makes sessions and renews them until ctx ends, and returns when nothing of it runs
// any more. Those that there are go on.
func (o *Overlay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.mu.Lock()
	o.ctx = ctx
	for _, f := range o.far {
		o.startLocked(f)
	}
	o.mu.Unlock()
	o.work.Go(func() { o.runRetire(ctx) })
	stop := context.AfterFunc(ctx, func() { _ = o.listener.Close() }) // ends Accept
	err := o.runAccept(ctx)
	stop()
	cancel()
	o.mu.Lock()
	//lint:ignore SA2001 what startLocked let in is counted once its caller gives the lock back
	o.mu.Unlock()
	o.work.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// SetPeers says which other nodes there are. One that is none any more, or is another under
// the same name, loses its sessions at once, and its stream.
func (o *Overlay) SetPeers(remotes []Remote) {
	o.mu.Lock()
	defer o.mu.Unlock()
	next := map[string]*far{}
	for _, r := range remotes {
		if r.Node == o.config.Node || r.Number == 0 {
			continue
		}
		f := o.far[r.Node]
		if f == nil || !f.equal(&r) {
			f = &far{Remote: r, problem: "not connected yet"}
		}
		next[r.Node] = f
	}
	for name, old := range o.far {
		if next[name] != old {
			o.endLocked(old)
		}
	}
	for name, f := range next {
		if o.far[name] != f {
			o.startLocked(f)
		}
	}
	o.far = next
	o.publishLocked()
}

// startLocked begins to connect a node. The one whose name sorts first asks the other.
func (o *Overlay) startLocked(f *far) {
	if o.ctx == nil || o.ctx.Err() != nil {
		return // Run will, or is over
	}
	f.ctx, f.end = context.WithCancel(o.ctx)
	if o.config.Node < f.Node {
		o.work.Go(func() { o.runDial(f) })
	}
}

// endLocked ends what is under way with a node that is about to leave o.far. Its sessions end
// with the next table.
func (o *Overlay) endLocked(f *far) {
	if f.end != nil {
		f.end()
	}
	if f.stream != nil {
		_ = f.stream.Close() // it is of no use whatever it says
	}
}

// publishLocked puts the sessions there are before the data path.
func (o *Overlay) publishLocked() {
	t := &table{send: map[uint32]*session{}, receive: map[uint32]*session{}, vtep: map[netip.Addr]*session{}}
	for _, f := range o.far {
		if f.current != nil {
			t.send[f.Number] = f.current
		}
		for _, s := range f.sessions {
			t.receive[s.index] = s
			t.vtep[s.address.Addr()] = s
		}
	}
	o.table.Store(t)
}

// Rekey replaces every session by one with other keys, soon: the end of a stream makes
// whoever asked for it ask anew.
func (o *Overlay) Rekey() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.far {
		if f.stream != nil {
			_ = f.stream.Close()
		}
	}
}

// runRetire forgets sessions that were replaced a while ago.
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
	for _, f := range o.far {
		f.sessions = slices.DeleteFunc(f.sessions, func(s *session) bool {
			return !s.replaced.IsZero() && now.Sub(s.replaced) >= retireAfter
		})
	}
	o.publishLocked()
}

// Status is what stands between this node and another.
type Status struct {
	Number  uint32         `json:"number"`
	Node    string         `json:"node"`
	Address netip.AddrPort `json:"address"`
	Up      bool           `json:"up"`                // there is a session to send on
	Since   time.Time      `json:"since,omitzero"`    // of its keys
	Problem string         `json:"problem,omitempty"` // why no newer one can be made now
}

// Status says it of every peer, by name.
func (o *Overlay) Status() []Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := []Status{}
	for _, name := range slices.Sorted(maps.Keys(o.far)) {
		f := o.far[name]
		s := Status{Number: f.Number, Node: name, Address: f.Address, Up: f.current != nil, Problem: f.problem}
		if f.current != nil {
			s.Since = f.current.begun
		}
		all = append(all, s)
	}
	return all
}

// MTU is that of sealed datagrams.
func MTU(underlay int) int { return Sealed.MTU(underlay) }
