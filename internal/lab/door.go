package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"
)

// maxVisitors bounds the front door's connections; more are closed at once.
const maxVisitors = 512

// closedDoor is what a client hears when no node lives: aws and the SDKs try again on it.
const closedDoor = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
const closedDoorBody = `<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>Unavailable</Code><Message>No node of the lab answers.</Message></Error></Errors></Response>
`

func (l *Lab) doorArgs() []string { return []string{"lab", "door", "--name", l.Name} }

// openDoor hands the listener to the process that serves it from now on.
func (l *Lab) openDoor(listener net.Listener) error {
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return fmt.Errorf("open the front door: %w", err)
	}
	defer file.Close()
	_, err = l.start(daemon{name: "door", args: l.doorArgs(), files: []*os.File{file}})
	return err
}

// ServeDoor is the front door: it carries connections from the loopback port, which is
// descriptor 3, to the API socket of a node that lives. It returns when ctx ends.
func ServeDoor(ctx context.Context, name string) error {
	l, err := Open(name)
	if err != nil {
		return err
	}
	file := os.NewFile(3, "door")
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("open the front door: %w", err)
	}
	file.Close()
	defer context.AfterFunc(ctx, func() { listener.Close() })()

	d := &door{lab: l, slots: make(chan struct{}, maxVisitors)}
	for {
		visitor, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			slog.Warn("front door", "err", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors: let some end
			continue
		}
		select {
		case d.slots <- struct{}{}:
			go d.runVisit(visitor)
		default:
			visitor.Close()
		}
	}
}

// A door carries connections; each runs on two goroutines of its own and ends them.
type door struct {
	lab   *Lab
	slots chan struct{}
}

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

// dial returns a connection to the first node that takes one.
func (d *door) dial() (net.Conn, error) {
	var errs []error
	for _, node := range d.lab.Nodes {
		conn, err := net.DialTimeout("unix", d.lab.apiSocket(node), time.Second)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// carry copies until src ends and tells dst that nothing more comes.
func carry(dst, src net.Conn) {
	io.Copy(dst, src)
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}
