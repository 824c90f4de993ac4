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

// OutcastStatus is the exit status of a node's daemon that the cluster has fenced or removed.
// The supervisor does not start it again: it would be refused again.
const OutcastStatus = 3

const (
	// A daemon that lived for recovery is healthy: when it dies, that is its first death in a row.
	recovery = time.Minute
	// The first death in a row is answered at once, the second after firstPause, each further
	// one after twice the pause before, up to longestPause.
	firstPause   = 500 * time.Millisecond
	longestPause = 10 * time.Second
	// troubled is how many starts within recovery make the status say why.
	troubled = 3
)

// pause is the time between the last of so many deaths in a row and the next start.
func pause(deaths int) time.Duration {
	if deaths <= 1 {
		return 0
	}
	return min(firstPause<<min(deaths-2, 16), longestPause)
}

// A supervisor starts the daemons of one lab, the nodes and the front door, and starts them
// again when they die. It is a process of its own, `palisade lab supervise`.
//
// The goroutine of run owns every field; it is the only one that starts or ends a daemon, so
// that `lab kill` and a restart exclude each other. Commands reach it over a socket
// (supervise.go). What it has decided is on disk before it is done, so that the next
// supervisor goes on where one was killed.
type supervisor struct {
	lab     *Lab
	log     *slog.Logger
	door    *os.File // the front door's listening socket: open here, it outlives the door's process
	records map[string]*record
	running map[string]*child

	orders chan pendingOrder
	ended  chan struct{} // holds one: some child has ended since it was read
	wg     sync.WaitGroup
}

// A record is what is known of one daemon. Commands read it, the supervisor alone writes it.
type record struct {
	Wanted   bool        `json:"wanted"`             // false: `lab kill` or `lab crash` ended it
	Binary   string      `json:"binary"`             // that it is started with
	Args     []string    `json:"args,omitempty"`     // behind those that every start has
	Restarts int         `json:"restarts"`           // how often the supervisor started it again
	Starts   []time.Time `json:"starts,omitempty"`   // the last of them, until `lab kill` or `lab crash`
	Deaths   int         `json:"deaths,omitempty"`   // in a row
	Outcast  bool        `json:"outcast,omitempty"`  // ended with OutcastStatus, not started again
	Ended    time.Time   `json:"ended,omitzero"`     // when it last died
	LastEnd  string      `json:"last_end,omitempty"` // how: "exit status 1", "signal: killed"
	LastLog  []string    `json:"last_log,omitempty"` // what it logged last before that
}

// A child is one process of a daemon. It need not be a child in the kernel's sense: a
// supervisor takes over what an earlier one started, and cannot learn how that ends.
type child struct {
	id     process.ID
	handle *process.Handle // nil: it had ended before it could be held
	begun  time.Time
	logged int64 // the log's size when it began
	done   chan struct{}
	how    string // it ended; valid once done is closed
	status int    // exit status; -1 for a signal, or if it is not known
}

const howUnknown = "how is not known: the supervisor that started it was killed"

// Supervise runs the supervisor of the lab called name until ctx ends. Descriptor 3 is the front
// door's listening socket. The daemons live on.
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
	// Removing what an earlier one left is safe behind the lock.
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

// supervisorLock makes the name of a lock that no lab has.
const supervisorLock = "-supervisor"

// daemons are the names of what is supervised.
func (l *Lab) daemons() []string { return append(slices.Clone(l.Nodes), doorName) }

// takeOver finds what an earlier supervisor left, alive or not.
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
		case alive: // the last supervisor was killed before it could end it
			if err := process.Kill(ctx, id); err != nil {
				return err
			}
		case r.Wanted && !r.Outcast && len(r.Starts) > 0 && r.Ended.Before(r.Starts[len(r.Starts)-1]):
			r.died(time.Now(), howUnknown, lastLog(s.lab.logFile(name), 0))
		}
	}
	return s.save()
}

// run starts what dies and carries out what commands ask for, until ctx ends.
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

// settle notes which children have ended, starts again what is due, and returns when the next
// is due; zero if nothing is waiting.
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
			s.log.Error("cannot start it again", "daemon", name, "ended", how, "restarts", r.Restarts, "err", err)
			next = now // ask again what is due
			continue
		}
		s.log.Warn("started again", "daemon", name, "ended", how, "restarts", r.Restarts, "deaths in a row", r.Deaths, "pid", c.id.PID)
	}
	return next
}

// bury notes the end of a child that has ended by itself.
func (s *supervisor) bury(name string, now time.Time) {
	c, r := s.running[name], s.records[name]
	delete(s.running, name)
	if now.Sub(c.begun) >= recovery {
		r.Deaths = 0
	}
	r.died(now, c.how, lastLog(s.lab.logFile(name), c.logged))
	r.Outcast = c.status == OutcastStatus
	if r.Outcast {
		s.log.Warn("not started again: the cluster has fenced or removed it", "daemon", name, "ended", c.how)
	}
	if err := s.save(); err != nil {
		s.log.Error("cannot write down an end", "daemon", name, "err", err)
	}
}

func (r *record) died(now time.Time, how string, log []string) {
	r.Ended, r.LastEnd, r.LastLog = now, how, log
	r.Deaths++
}

// spawn starts a daemon that does not run. If it cannot, that counts as a death.
func (s *supervisor) spawn(name string, now time.Time) (*child, error) {
	r := s.records[name]
	r.Starts = append(r.Starts, now)
	if n := len(r.Starts); n > maxStarts {
		r.Starts = slices.Delete(r.Starts, 0, n-maxStarts)
	}
	if err := s.save(); err != nil {
		s.log.Error("cannot write down a start", "daemon", name, "err", err)
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
	// It cannot be reaped meanwhile: what has this pid is our child, or its zombie.
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

// maxStarts bounds what a record remembers of starts; a minute has fewer.
const maxStarts = 16

// hold waits for the end of c, whose command is nil if another supervisor started it.
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

// runWait ends with its process. The supervisor's own end leaves it waiting, and the daemon alive.
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

// obey carries out one order.
func (s *supervisor) obey(ctx context.Context, o order) answer {
	var a answer
	err := fmt.Errorf("the supervisor of lab %s does not know how to %s %q", s.lab.Name, o.Do, o.Name)
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
	if s.running[o.Name] != nil { // it ended this moment
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
	// First, for a supervisor that is killed now is followed by one that reads it.
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

// save writes the records so that nobody ever reads half of them.
func (s *supervisor) save() error {
	data, err := json.MarshalIndent(s.records, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(s.lab.recordsFile(), append(data, '\n'), 0o600)
}

// lastLog is what a daemon logged last, since its log had the size since: from the line on which
// Go says why the process ends, or else the end.
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
