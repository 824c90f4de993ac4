package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/process"
)

// This file is the protocol between commands and the supervisor: a command connects to the
// supervisor's socket, sends one order and reads one answer. Only root can open the socket.

const (
	supervisorName = "supervisor"
	doorName       = "door"

	orderStart = "start"
	orderStop  = "stop"
)

// An order is a command's request to the supervisor. It is idempotent, so that a command can repeat it
// to the next supervisor if one dies while it carries out the order.
type order struct {
	Do     string   `json:"do"`
	Name   string   `json:"name"` // of the daemon
	Binary string   `json:"binary,omitempty"`
	Args   []string `json:"args,omitempty"` // appended to the daemon's own
}

type answer struct {
	Process process.ID `json:"process"`
	Running bool       `json:"running,omitempty"` // the daemon to start ran already
	Error   string     `json:"error,omitempty"`
}

// A pendingOrder is an order whose command waits for the answer.
type pendingOrder struct {
	order
	answer chan answer
}

const (
	// superviseWithin bounds the start of a supervisor, which takes longest on a busy machine.
	superviseWithin = 30 * time.Second
	// orderWithin bounds the time from an order to its answer. The order waits for earlier ones, each of
	// which may take stopTimeout.
	orderWithin = 30 * time.Second
	maxOrder    = 64 << 10
)

func (l *Lab) superviseArgs() []string  { return []string{"lab", "supervise", "--name", l.Name} }
func (l *Lab) supervisorSocket() string { return filepath.Join(l.sockets(), "supervisor.sock") }
func (l *Lab) recordsFile() string      { return l.path("supervisor.json") }

// records reads the records that the supervisor has stored, by daemon. The map is nil if there are none.
func (l *Lab) records() (map[string]*record, error) {
	data, err := os.ReadFile(l.recordsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var records map[string]*record
	if err == nil {
		err = json.Unmarshal(data, &records)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", l.recordsFile(), err)
	}
	return records, nil
}

// Supervised starts a supervisor for the lab if none runs.
func (l *Lab) Supervised(ctx context.Context) error {
	if l.answers() {
		return nil
	}
	release, err := func() {}, error(nil)
	if !l.locked {
		release, err = lock(l.Name)
	}
	if l.answers() { // another command has started one in the meantime
		if err == nil {
			release()
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("the supervisor of lab %s does not run: %w", l.Name, err)
	}
	defer release()
	if _, err := Open(l.Name); err != nil { // the lab may have gone down in the meantime
		return err
	}
	socket, err := l.doorSocket(ctx)
	if err != nil {
		return fmt.Errorf("start the supervisor of lab %s: %w", l.Name, err)
	}
	defer socket.Close()
	return l.startSupervisor(ctx, socket)
}

// answers reports whether a supervisor accepts connections.
func (l *Lab) answers() bool {
	conn, err := net.Dial("unix", l.supervisorSocket())
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// doorSocket returns the front door's listening socket: a duplicate of the one in the door's process, or a
// new one if no door runs.
func (l *Lab) doorSocket(ctx context.Context) (*os.File, error) {
	id, alive, err := l.find(doorName)
	if err != nil {
		return nil, err
	}
	if alive {
		file, err := takeDescriptor(ctx, id, doorDescriptor)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, process.ErrGone) {
			return nil, fmt.Errorf("duplicate the front door's socket: %w", err)
		}
	}
	return listenDoor(l.Port)
}

// takeDescriptor returns a duplicate of a descriptor that a process keeps open until it ends. If the
// process has closed it, the process is ending: takeDescriptor waits for its end and returns
// process.ErrGone.
func takeDescriptor(ctx context.Context, id process.ID, descriptor int) (*os.File, error) {
	handle, err := id.Open()
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	file, err := handle.Duplicate(descriptor)
	if !errors.Is(err, process.ErrGone) && !errors.Is(err, unix.EBADF) { // EBADF: before Linux 6.8
		return file, err
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	select {
	case <-handle.Done():
		return nil, process.ErrGone
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for process %d to end: %w", id.PID, ctx.Err())
	}
}

// listenDoor opens the front door's listening socket.
func listenDoor(port int) (*os.File, error) {
	listener, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("open the front door: %w", err)
	}
	defer listener.Close()
	return listener.(*net.TCPListener).File()
}

// startSupervisor starts the lab's supervisor with the front door's socket, and waits until it accepts
// orders. The caller holds the lab's lock.
func (l *Lab) startSupervisor(ctx context.Context, socket *os.File) error {
	cmd, err := l.start(daemon{name: supervisorName, args: l.superviseArgs(), files: []*os.File{socket}})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { // reap the process if it ends while we are its parent
		cmd.Wait()
		close(ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, superviseWithin)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !l.answers() {
		select {
		case <-tick.C:
		case <-ended:
			return fmt.Errorf("the supervisor ended while it started; %s", l.logTail(supervisorName))
		case <-ctx.Done():
			return fmt.Errorf("the supervisor does not accept orders: %w; %s", ctx.Err(), l.logTail(supervisorName))
		}
	}
	return nil
}

// order sends o to the supervisor and returns the answer. If the supervisor dies before it answers, order
// starts another and sends o again.
func (l *Lab) order(ctx context.Context, o order) (answer, error) {
	for try := 0; ; try++ {
		if err := l.Supervised(ctx); err != nil {
			return answer{}, err
		}
		a, err := l.send(ctx, o)
		switch {
		case err == nil && a.Error != "":
			return a, fmt.Errorf("%s %s: %s", o.Do, o.Name, a.Error)
		case err == nil:
			// After a retry, the daemon may run because the supervisor that died started it for this order.
			a.Running = a.Running && try == 0
			return a, nil
		case try == 2 || ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
			return a, fmt.Errorf("%s %s: the supervisor does not answer: %w", o.Do, o.Name, err)
		}
	}
}

func (l *Lab) send(ctx context.Context, o order) (a answer, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", l.supervisorSocket())
	if err != nil {
		return a, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(orderWithin)); err != nil {
		return a, err
	}
	if err := json.NewEncoder(conn).Encode(o); err != nil {
		return a, err
	}
	err = json.NewDecoder(io.LimitReader(conn, maxOrder)).Decode(&a)
	return a, err
}

// runOrders accepts orders until the listener is closed.
func (s *supervisor) runOrders(ctx context.Context, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			s.log.Warn("the supervisor did not accept a connection", "err", err)
			select {
			case <-time.After(10 * time.Millisecond): // no descriptor is free: let connections end
			case <-ctx.Done():
				return
			}
			continue
		}
		s.wg.Go(func() { s.runOrder(ctx, conn) })
	}
}

// runOrder reads one order from conn, passes it to the goroutine of run, and sends the answer back.
func (s *supervisor) runOrder(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(orderWithin))
	o := pendingOrder{answer: make(chan answer, 1)}
	if err := json.NewDecoder(io.LimitReader(conn, maxOrder)).Decode(&o.order); err != nil {
		return // made by the function answers, which sends no order
	}
	select {
	case s.orders <- o:
	case <-ctx.Done():
		return
	}
	select {
	case a := <-o.answer:
		json.NewEncoder(conn).Encode(a)
	case <-ctx.Done():
	}
}
