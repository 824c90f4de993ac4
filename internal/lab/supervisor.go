package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"palisade/internal/atomicfile"
	"palisade/internal/process"
)

// OutcastStatus is the exit status of a node's daemon that the cluster has fenced or removed. The
// supervisor does not restart it, because the cluster would refuse it again.
const OutcastStatus = 3

const (
	// If a daemon ran for recovery or longer, its next death counts as the first in a row.
	recovery = time.Minute
	// The supervisor restarts a daemon at once after its first death in a row. It waits firstPause after
	// the second death, and twice as long after each further death, up to longestPause.
	firstPause   = 500 * time.Millisecond
	longestPause = 10 * time.Second
	// A daemon with this many starts within recovery has a Trouble in its status.
	troubled = 3
)

// pause returns the time from a daemon's death to its restart. deaths is the number of deaths in a row.
func pause(deaths int) time.Duration {
	if deaths <= 1 {
		return 0
	}
	return min(firstPause<<min(deaths-2, 16), longestPause)
}

// A supervisor starts the daemons of one lab, the nodes and the front door, and restarts them when
// they die. It is a process of its own, `palisade lab supervise`.
//
// The goroutine of run owns every field, so there is no lock. Only that goroutine starts or kills
// daemons, so that `lab kill` and a restart exclude each other. Commands send the supervisor orders over
// a socket (order.go). It stores each decision before it acts. If it is killed then, the next supervisor
// reads the decision and continues.
type supervisor struct {
	lab     *Lab
	log     *slog.Logger
	door    *os.File // the front door's listening socket, kept open across restarts of the door
	records map[string]*record
	running map[string]*child

	orders chan pendingOrder
	ended  chan struct{} // of capacity 1: signals that some child has ended
	wg     sync.WaitGroup
}

// A record is the stored state of one daemon. Only the supervisor writes it; commands read it.
type record struct {
	Wanted   bool        `json:"wanted"`             // false: killed by `lab kill` or `lab crash`, so not restarted
	Binary   string      `json:"binary"`             // path of the program
	Args     []string    `json:"args,omitempty"`     // appended to the daemon's usual arguments
	Restarts int         `json:"restarts"`           // how often the supervisor restarted it
	Starts   []time.Time `json:"starts,omitempty"`   // times of the last starts since `lab kill` or `lab crash`
	Deaths   int         `json:"deaths,omitempty"`   // in a row
	Outcast  bool        `json:"outcast,omitempty"`  // ended with OutcastStatus, so not restarted
	Ended    time.Time   `json:"ended,omitzero"`     // when it last died
	LastEnd  string      `json:"last_end,omitempty"` // how it last ended: "exit status 1", "signal: killed"
	LastLog  []string    `json:"last_log,omitempty"` // its last log lines before LastEnd
}

// A child is one process of a daemon. If an earlier supervisor started it, it is not a child in the
// kernel's sense, and its exit status cannot be read.
type child struct {
	id     process.ID
	handle *process.Handle // nil: the process had already ended
	begun  time.Time
	logged int64 // size of the log when the process began, in bytes
	done   chan struct{}
	how    string // how it ended; valid once done is closed
	status int    // exit status; -1: killed by a signal, or unknown
}

const howUnknown = "unknown, because the supervisor that started it was killed"

// Supervise runs the supervisor of the lab with this name until ctx ends. Descriptor 3 is the front
// door's listening socket. The daemons keep running after it returns.
func Supervise(ctx context.Context, name string) error {
	l, err := Open(name)
	if err != nil {
		return err
	}
	release, err := lock(name + supervisorLock)
	if err != nil {
		return fmt.Errorf("supervise lab %s: %w", name, err)
	}
	defer release()
	id, err := process.Of(os.Getpid())
	if err == nil {
		err = id.WriteFile(l.pidFile(supervisorName))
	}
	if err != nil {
		return fmt.Errorf("supervise lab %s: %w", name, err)
	}
	s := &supervisor{
		lab: l, log: slog.New(slog.NewTextHandler(os.Stderr, nil)), door: os.NewFile(3, doorName),
		records: map[string]*record{}, running: map[string]*child{},
		orders: make(chan pendingOrder), ended: make(chan struct{}, 1),
	}
	defer s.door.Close()
	if err := s.takeOver(ctx); err != nil {
		return fmt.Errorf("supervise lab %s: %w", name, err)
	}
	// With the lock held, no other supervisor uses the socket.
	if err := os.Remove(l.supervisorSocket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("supervise lab %s: %w", name, err)
	}
	listener, err := net.Listen("unix", l.supervisorSocket())
	if err != nil {
		return fmt.Errorf("supervise lab %s: %w", name, err)
	}
	defer s.wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	s.wg.Go(func() { s.runOrders(ctx, listener) })
	return s.run(ctx)
}

// supervisorLock is appended to the lab's name for the supervisor's own lock. No lab has a name with a
// hyphen.
const supervisorLock = "-supervisor"

// daemons returns the names of the supervised daemons.
func (l *Lab) daemons() []string { return append(slices.Clone(l.Nodes), doorName) }

// takeOver reads the records of an earlier supervisor and finds the daemons that still run.
func (s *supervisor) takeOver(ctx context.Context) error {
	records, err := s.lab.records()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, name := range s.lab.daemons() {
		id, alive, err := s.lab.find(name)
		if err != nil {
			return err
		}
		r := records[name]
		if r == nil {
			r = &record{Wanted: alive, Binary: self}
		}
		s.records[name] = r
		switch {
		case alive && r.Wanted:
			if err := id.WriteFile(s.lab.pidFile(name)); err != nil {
				return err
			}
			begun := time.Now()
			if n := len(r.Starts); n > 0 {
				begun = r.Starts[n-1]
			}
			if err := s.hold(name, &child{id: id, begun: begun}, nil); err != nil {
				return err
			}
		case alive: // the last supervisor was killed before it could kill the daemon
			if err := process.Kill(ctx, id); err != nil {
				return err
			}
		case r.Wanted && !r.Outcast && len(r.Starts) > 0 && r.Ended.Before(r.Starts[len(r.Starts)-1]):
			r.died(time.Now(), howUnknown, lastLog(s.lab.logFile(name), 0))
		}
	}
	return s.save()
}

// run restarts daemons that died and carries out orders, until ctx ends.
func (s *supervisor) run(ctx context.Context) error {
	for {
		var due <-chan time.Time
		if next := s.settle(time.Now()); !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case o := <-s.orders:
			o.answer <- s.obey(ctx, o.order)
		case <-s.ended:
		case <-due:
		}
	}
}

// settle records which children have ended, and restarts each dead daemon whose pause is over. It returns
// the time of the next restart, or zero if no daemon waits for one.
func (s *supervisor) settle(now time.Time) (next time.Time) {
	for _, name := range s.lab.daemons() {
		r := s.records[name]
		if c := s.running[name]; c != nil {
			select {
			case <-c.done:
			default:
				continue
			}
			s.bury(name, now)
		}
		if !r.Wanted || r.Outcast {
			continue
		}
		due := r.Ended.Add(pause(r.Deaths))
		if latest := now.Add(longestPause); due.After(latest) { // the clock was set back
			due = latest
		}
		if due.After(now) {
			if next.IsZero() || due.Before(next) {
				next = due
			}
			continue
		}
		r.Restarts++
		how := r.LastEnd
		c, err := s.spawn(name, now)
		if err != nil {
			s.log.Error("daemon not restarted", "daemon", name, "last end", how, "restarts", r.Restarts, "err", err)
			next = now // settle again: spawn has set a new pause
			continue
		}
		s.log.Warn("daemon restarted", "daemon", name, "last end", how, "restarts", r.Restarts, "deaths in a row", r.Deaths, "pid", c.id.PID)
	}
	return next
}

// bury records the end of a child that died without an order to stop it.
func (s *supervisor) bury(name string, now time.Time) {
	c, r := s.running[name], s.records[name]
	delete(s.running, name)
	if now.Sub(c.begun) >= recovery {
		r.Deaths = 0
	}
	r.died(now, c.how, lastLog(s.lab.logFile(name), c.logged))
	r.Outcast = c.status == OutcastStatus
	if r.Outcast {
		s.log.Warn("daemon is not restarted: the cluster has fenced or removed the node", "daemon", name, "end", c.how)
	}
	if err := s.save(); err != nil {
		s.log.Error("could not store the end of a daemon", "daemon", name, "err", err)
	}
}

func (r *record) died(now time.Time, how string, log []string) {
	r.Ended, r.LastEnd, r.LastLog = now, how, log
	r.Deaths++
}

// spawn starts a daemon that does not run, and returns its process. A failed start counts as a death.
func (s *supervisor) spawn(name string, now time.Time) (*child, error) {
	r := s.records[name]
	r.Starts = append(r.Starts, now)
	if n := len(r.Starts); n > maxStarts {
		r.Starts = slices.Delete(r.Starts, 0, n-maxStarts)
	}
	if err := s.save(); err != nil {
		s.log.Error("could not store the start of a daemon", "daemon", name, "err", err)
	}
	d := daemon{name: name, binary: r.Binary}
	if name == doorName {
		d.args, d.files = s.lab.doorArgs(), []*os.File{s.door}
	} else {
		d.namespace, d.args = s.lab.namespace(name), append([]string{"node", "--config", s.lab.configFile(name)}, r.Args...)
	}
	c := &child{begun: now}
	if st, err := os.Stat(s.lab.logFile(name)); err == nil {
		c.logged = st.Size()
	}
	cmd, err := s.lab.start(d)
	if err != nil {
		r.died(now, "could not be started", []string{err.Error()})
		return nil, errors.Join(err, s.save())
	}
	// The pid still belongs to our child or its zombie, because nothing has waited for it yet.
	c.id, err = process.Of(cmd.Process.Pid)
	if errors.Is(err, process.ErrGone) {
		c.id = process.ID{PID: cmd.Process.Pid}
		err = nil
	}
	if err == nil {
		err = c.id.WriteFile(s.lab.pidFile(name))
	}
	if err == nil {
		err = s.hold(name, c, cmd)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		r.died(now, "could not be started", []string{err.Error()})
		return nil, errors.Join(err, s.save())
	}
	return c, nil
}

// maxStarts bounds the starts in a record. The pauses allow fewer starts than that within recovery.
const maxStarts = 16

// hold starts a goroutine that waits for the end of c. cmd is nil if another supervisor started c.
func (s *supervisor) hold(name string, c *child, cmd *exec.Cmd) error {
	handle, err := c.id.Open()
	if err != nil && !errors.Is(err, process.ErrGone) {
		return fmt.Errorf("watch %s: %w", name, err)
	}
	if err == nil {
		c.handle = handle
	}
	c.done = make(chan struct{})
	s.running[name] = c
	go c.runWait(cmd, s.ended)
	return nil
}

// runWait waits until the process ends, records how it ended, and signals this on ended.
func (c *child) runWait(cmd *exec.Cmd, ended chan<- struct{}) {
	c.how, c.status = howUnknown, -1
	switch {
	case cmd != nil:
		cmd.Wait()
		c.how, c.status = cmd.ProcessState.String(), cmd.ProcessState.ExitCode()
	case c.handle != nil:
		<-c.handle.Done()
	}
	if c.handle != nil {
		c.handle.Close()
	}
	close(c.done)
	select {
	case ended <- struct{}{}:
	default:
	}
}

// obey carries out one order and returns the answer.
func (s *supervisor) obey(ctx context.Context, o order) answer {
	var a answer
	err := fmt.Errorf("the supervisor of lab %s cannot %s %q: unknown order or daemon", s.lab.Name, o.Do, o.Name)
	if r := s.records[o.Name]; r != nil {
		switch o.Do {
		case orderStart:
			a, err = s.obeyStart(r, o)
		case orderStop:
			err = s.obeyStop(ctx, r, o.Name)
		}
	}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

func (s *supervisor) obeyStart(r *record, o order) (answer, error) {
	s.settle(time.Now())
	if c := s.running[o.Name]; c != nil && c.id.Alive() {
		return answer{Process: c.id, Running: true}, nil
	}
	if s.running[o.Name] != nil { // it has just ended
		<-s.running[o.Name].done
		s.bury(o.Name, time.Now())
	}
	r.Wanted, r.Outcast, r.Deaths, r.Binary, r.Args = true, false, 0, o.Binary, o.Args
	c, err := s.spawn(o.Name, time.Now())
	if err != nil {
		return answer{}, err
	}
	return answer{Process: c.id}, nil
}

func (s *supervisor) obeyStop(ctx context.Context, r *record, name string) error {
	*r = record{Binary: r.Binary, Restarts: r.Restarts}
	// Save the record before the kill, so that the next supervisor knows the order if this one dies in between.
	if err := s.save(); err != nil {
		return err
	}
	if c := s.running[name]; c != nil {
		ctx, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		if err := process.Kill(ctx, c.id); err != nil {
			return err
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for process %d to end: %w", c.id.PID, ctx.Err())
		}
		delete(s.running, name)
	}
	if err := os.Remove(s.lab.pidFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// save stores the records. A reader sees either the old or the new file.
func (s *supervisor) save() error {
	data, err := json.MarshalIndent(s.records, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(s.lab.recordsFile(), append(data, '\n'), 0o600)
}

// lastLog returns up to 10 lines of a daemon's log, from the offset since on. These are the lines from the
// first panic or fatal error that the Go runtime reported there, or else the last lines.
func lastLog(path string, since int64) []string {
	const most, longest, maxBytes = 10, 400, 64 << 10
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	if st, err := file.Stat(); err == nil {
		since = max(since, st.Size()-maxBytes)
	}
	data, _ := io.ReadAll(io.NewSectionReader(file, since, maxBytes))
	text := strings.TrimSpace(string(bytes.ToValidUTF8(data, []byte("?"))))
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	from := max(0, len(lines)-most)
	if i := slices.IndexFunc(lines, func(line string) bool {
		return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ")
	}); i >= 0 {
		from = i
	}
	lines = lines[from:min(from+most, len(lines))]
	for i, line := range lines {
		if len(line) > longest {
			lines[i] = line[:longest] + "…"
		}
	}
	return lines
}
