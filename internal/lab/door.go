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

// maxConnections bounds the connections that the front door forwards at once. Further ones wait in the
// socket's queue, but not for long, because nodes close idle connections.
const maxConnections = 512

// unavailable is the answer if no node can be reached: aws and the SDKs retry on it.
const unavailable = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
const unavailableBody = `<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>Unavailable</Code><Message>No node of the lab answers.</Message></Error></Errors></Response>
`

func (l *Lab) doorArgs() []string { return []string{"lab", "door", "--name", l.Name} }

// doorDescriptor is the descriptor of the listening socket in the door's process. The door keeps it open, so
// that a new supervisor can duplicate it if the old supervisor was killed.
const doorDescriptor = 3

// ServeDoor runs the front door: it forwards connections from the loopback port, whose listening
// socket is doorDescriptor, to the API socket of a node, preferably of a node that can serve. ServeDoor
// returns when ctx ends.
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
			slog.Warn("the front door did not accept a connection", "err", err)
			time.Sleep(10 * time.Millisecond) // no descriptor is free: let connections end
			continue
		}
		go d.runConnection(client)
	}
}

// A door forwards connections. Each connection has two goroutines, which end with it. The mutex
// guards health only: byFitness holds it while it asks nodes; forward does not hold it.
type door struct {
	lab   *Lab
	slots chan struct{} // one for each connection, at most maxConnections

	mu     sync.Mutex
	health []health // by the node's index
}

// health is what the last answer of a node says about its fitness.
type health struct {
	fitness fitness
	until   time.Time // after this time the node is asked again
}

// A fitness orders nodes by how well they can serve.
type fitness int

const (
	silent  fitness = iota // its daemon does not answer
	waiting                // it answers, but cannot decide: it is not ready or knows no leader
	serving
)

const (
	// healthLasts is how long an answer counts. During that time, connections may still go to a node
	// that no longer knows a leader. Nodes are asked only when there is a connection, so that an idle lab
	// uses no processor time.
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

// byFitness returns all nodes, the fittest first, and equally fit ones in the lab's order. It asks all
// nodes whose last answer is too old at once, and waits for the answers.
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

// examine asks a node for its status and returns its fitness.
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
