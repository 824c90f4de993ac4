package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// maxVisitors bounds the front door's connections. More wait in the socket's queue, and not for
// long: a node closes connections that are idle.
const maxVisitors = 512

// closedDoor is what a client hears when no node lives: aws and the SDKs try again on it.
const closedDoor = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
const closedDoorBody = `<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>Unavailable</Code><Message>No node of the lab answers.</Message></Error></Errors></Response>
`

func (l *Lab) doorArgs() []string { return []string{"lab", "door", "--name", l.Name} }

// doorDescriptor is the listening socket in the door's process. It stays open there: a
// supervisor that follows one that was killed takes it from there.
const doorDescriptor = 3

// ServeDoor is the front door: it carries connections from the loopback port, which is
// doorDescriptor, to the API socket of a node that can serve, or at least lives. It returns when ctx ends.
func ServeDoor(ctx context.Context, name string) error {
	l, err := Open(name)
	if err != nil {
		return err
	}
	file := os.NewFile(doorDescriptor, doorName)
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("open the front door: %w", err)
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()

	d := &door{lab: l, slots: make(chan struct{}, maxVisitors), health: make([]health, len(l.Nodes))}
	for {
		select {
		case d.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		visitor, err := listener.Accept()
		if err != nil {
			<-d.slots
			if ctx.Err() != nil {
				return nil
			}
			slog.Warn("front door", "err", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors: let some end
			continue
		}
		go d.runVisit(visitor)
	}
}

// A door carries connections; each runs on two goroutines of its own and ends them.
type door struct {
	lab   *Lab
	slots chan struct{}

	mu     sync.Mutex
	health []health // by the node's index
}

// health is what a node said of itself.
type health struct {
	fitness fitness
	until   time.Time // when it is to be asked again
}

// A fitness orders nodes by how much may be expected of them.
type fitness int

const (
	silent  fitness = iota // its daemon does not answer
	waiting                // it answers, and can decide nothing: it is not ready or knows no leader
	serving
)

const (
	// healthLasts bounds how long a visitor may still be sent to a node that lost its
	// leader. Nobody is asked while nobody calls: an idle lab is idle.
	healthLasts = 200 * time.Millisecond

	// healthWithin is how long a visitor waits for a node to say how it is. One that
	// takes longer, as a stopped process does, is left alone for silenceLasts.
	healthWithin = 250 * time.Millisecond
	silenceLasts = 2 * time.Second
)

func (d *door) runVisit(visitor net.Conn) {
	defer func() { <-d.slots }()
	defer visitor.Close()
	node, err := d.dial()
	if err != nil {
		slog.Warn("front door", "err", err)
		fmt.Fprintf(visitor, closedDoor, len(closedDoorBody), closedDoorBody)
		return
	}
	defer node.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(node, visitor)
	}()
	carry(visitor, node)
	visitor.Close() // an answer that has ended ends the visit
	<-done
}

// dial returns a connection to the fittest node that takes one.
func (d *door) dial() (net.Conn, error) {
	var errs []error
	for _, node := range d.byFitness() {
		conn, err := net.DialTimeout("unix", d.lab.apiSocket(node), time.Second)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// byFitness returns all nodes, the fittest first and otherwise in the lab's order. It asks
// those whose last word is too old, all at once; visitors that come meanwhile wait for the
// same answers.
func (d *door) byFitness() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var wg sync.WaitGroup
	for i, node := range d.lab.Nodes {
		if time.Now().After(d.health[i].until) {
			wg.Go(func() { d.health[i] = d.examine(node) })
		}
	}
	wg.Wait()
	order := make([]int, len(d.lab.Nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(d.health[b].fitness - d.health[a].fitness) })
	nodes := make([]string, len(order))
	for i, index := range order {
		nodes[i] = d.lab.Nodes[index]
	}
	return nodes
}

// examine asks a node how it is.
func (d *door) examine(node string) health {
	ctx, cancel := context.WithTimeout(context.Background(), healthWithin)
	defer cancel()
	answer, err := d.lab.ask(ctx, node)
	h := health{fitness: waiting, until: time.Now().Add(healthLasts)}
	switch {
	case ctx.Err() != nil:
		return health{fitness: silent, until: time.Now().Add(silenceLasts)}
	case err != nil:
		h.fitness = silent
	case answer.Ready && answer.Leader != "":
		h.fitness = serving
	}
	return h
}

// carry copies until src ends and tells dst that nothing more comes.
func carry(dst, src net.Conn) {
	io.Copy(dst, src)
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}
