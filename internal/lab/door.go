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

// maxConnections bounds the front door's connections. Others wait in the socket's queue, but not for
// long: a node closes idle connections.
const maxConnections = 512

// unavailable is the answer if no node can be reached: aws and the SDKs retry on it.
const unavailable = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
const unavailableBody = `<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>Unavailable</Code><Message>No node of the lab answers.</Message></Error></Errors></Response>
`

func (l *Lab) doorArgs() []string { return []string{"lab", "door", "--name", l.Name} }

// doorDescriptor is the listening socket in the door's process. It stays open there, so that a
// supervisor that replaces a killed one can duplicate it.
const doorDescriptor = 3

// ServeDoor runs the front door: it forwards connections from the loopback port, whose listening
// socket is doorDescriptor, to the API socket of a node, preferably one that can serve. It returns
// when ctx ends.
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

	d := &door{lab: l, slots: make(chan struct{}, maxConnections), health: make([]health, len(l.Nodes))}
	for {
		select {
		case d.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		client, err := listener.Accept()
		if err != nil {
			<-d.slots
			if ctx.Err() != nil {
				return nil
			}
			slog.Warn("connection not accepted", "err", err)
			time.Sleep(10 * time.Millisecond) // no descriptor is free: let connections end
			continue
		}
		go d.runConnection(client)
	}
}

// A door forwards connections. Each connection has two goroutines, which end with it. The mutex
// guards health only; it is held while nodes are asked, and not while a connection is forwarded.
type door struct {
	lab   *Lab
	slots chan struct{} // one for each connection, at most maxConnections

	mu     sync.Mutex
	health []health // by the node's index
}

// health is the last answer of a node about itself.
type health struct {
	fitness fitness
	until   time.Time // valid until then; the node is asked again afterwards
}

// A fitness orders nodes by how well they can serve.
type fitness int

const (
	silent  fitness = iota // its daemon does not answer
	waiting                // it answers, but cannot decide: it is not ready or knows no leader
	serving
)

const (
	// healthLasts bounds how long connections still go to a node that has lost its leader. Nodes
	// are asked only when there is a connection, so that an idle lab uses no processor time.
	healthLasts = 200 * time.Millisecond

	// healthWithin bounds the wait for a node's answer. A node that takes longer, such as a stopped
	// process, is not asked again for silenceLasts.
	healthWithin = 250 * time.Millisecond
	silenceLasts = 2 * time.Second
)

func (d *door) runConnection(client net.Conn) {
	defer func() { <-d.slots }()
	defer client.Close()
	node, err := d.dial()
	if err != nil {
		slog.Warn("no node can be reached", "err", err)
		fmt.Fprintf(client, unavailable, len(unavailableBody), unavailableBody)
		return
	}
	defer node.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		forward(node, client)
	}()
	forward(client, node)
	client.Close() // the node has ended its answer
	<-done
}

// dial returns a connection to the fittest node that accepts one.
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

// byFitness returns all nodes, the fittest first and otherwise in the lab's order. It asks those
// whose last answer is too old, all at once. Other connections wait for these answers.
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

// examine asks a node for its status.
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

// forward copies until src ends, and then closes dst for writing.
func forward(dst, src net.Conn) {
	io.Copy(dst, src)
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}
