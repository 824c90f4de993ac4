package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/process"
)

// signal sends a signal to a daemon without the lab's commands.
func (l *Lab) signal(t *testing.T, name string, sig unix.Signal) process.ID {
	t.Helper()
	id, ok := l.running(name)
	if !ok {
		t.Fatalf("%s does not run", name)
	}
	if err := unix.Kill(id.PID, sig); err != nil {
		t.Fatalf("signal %s: %v", name, err)
	}
	return id
}

// connect connects to the front door's port, whether or not a door runs.
func (l *Lab) connect(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", l.Port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// until waits until is returns true.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// awaitRestart waits until a daemon runs as another process than before.
func (l *Lab) awaitRestart(t *testing.T, name string, before process.ID) process.ID {
	t.Helper()
	var now process.ID
	until(t, name+" runs again", func() bool {
		id, ok := l.running(name)
		now = id
		return ok && id != before
	})
	return now
}

// daemonsOf returns the number of a node's daemons.
func (l *Lab) daemonsOf(t *testing.T, node string) int {
	t.Helper()
	ids, err := l.processes(func(args []string) bool {
		return len(args) > 2 && args[0] == "node" && args[2] == l.configFile(node)
	})
	if err != nil {
		t.Fatal(err)
	}
	return len(ids)
}

func TestSupervisorRestartsDaemonThatDies(t *testing.T) {
	l := up(t, Options{Name: "labtestdie", Nodes: 2})
	st := l.Status(t.Context())
	if st.Supervisor.PID == 0 || st.Door.PID == 0 || st.Nodes[0].Restarts != 0 {
		t.Errorf("at first: supervisor %+v, door %+v, node1 %+v", st.Supervisor, st.Door, st.Nodes[0])
	}
	if err := l.KillNode(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	l.awaitRestart(t, "node1", l.signal(t, "node1", unix.SIGKILL))
	l.awaitDoor(t, "node1 was restarted", "200 API of node1")
	l.awaitRestart(t, doorName, l.signal(t, doorName, unix.SIGTERM))
	l.awaitDoor(t, "the door was restarted", "200 API of node1")
	st = l.Status(t.Context())
	if st.Nodes[0].Restarts != 1 || st.Nodes[0].Trouble != nil || st.Door.Restarts != 1 {
		t.Errorf("node1 %+v, door %+v; want one restart each and no trouble", st.Nodes[0], st.Door)
	}
	// The supervisor has looked at every daemon since, and has not restarted node2.
	if st.Nodes[1].PID != 0 || l.daemonsOf(t, "node2") != 0 || st.Nodes[1].Restarts != 0 {
		t.Errorf("node2, killed by lab kill: %+v", st.Nodes[1])
	}
	if err := l.StartNode(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	l.awaitRestart(t, "node2", l.signal(t, "node2", unix.SIGKILL))
	if err := l.CrashNode(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	l.awaitRestart(t, "node1", l.signal(t, "node1", unix.SIGKILL))
	if st = l.Status(t.Context()); st.Nodes[1].PID != 0 || l.daemonsOf(t, "node2") != 0 {
		t.Errorf("node2, killed by lab crash: %+v", st.Nodes[1])
	}
	log, err := os.ReadFile(l.logFile(supervisorName))
	if err != nil || strings.Count(string(log), "daemon restarted") != 4 || strings.Count(string(log), "\n") != 4 {
		t.Errorf("the supervisor's log, %v; want one line for each of four restarts:\n%s", err, log)
	}
}

// The supervisor is stopped while the door is dead, so that all connections are made while there is no
// door. There are more connections than the door serves at once.
func TestConnectionsWaitWhileDoorIsDead(t *testing.T) {
	l := up(t, Options{Name: "labtestgap"})
	l.awaitDoor(t, "at first", "200 API of node1")
	l.signal(t, supervisorName, unix.SIGSTOP)
	before := l.signal(t, doorName, unix.SIGKILL)
	until(t, "the door is dead", func() bool { return !before.Alive() })
	var clients []net.Conn
	for range maxConnections + 100 {
		conn := l.connect(t)
		clients = append(clients, conn)
		fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		conn.SetDeadline(time.Now().Add(time.Minute))
	}
	l.signal(t, supervisorName, unix.SIGCONT)
	for i, conn := range clients {
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.Contains(string(answer), "API of node1") {
			t.Fatalf("connection %d of %d is answered %q, %v", i, len(clients), answer, err)
		}
	}
}

// Idle connections take all slots of the door. A further connection waits for a slot; it is not
// refused.
func TestConnectionWaitsAtFullDoor(t *testing.T) {
	l := up(t, Options{Name: "labtestfull"})
	l.awaitDoor(t, "at first", "200 API of node1")
	var idle net.Conn
	for range maxConnections {
		idle = l.connect(t)
	}
	client := l.connect(t)
	fmt.Fprint(client, "GET / HTTP/1.0\r\n\r\n")
	client.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if answer, err := io.ReadAll(client); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with all slots taken the door answers %q, %v; want no answer yet", answer, err)
	}
	idle.Close()
	client.SetDeadline(time.Now().Add(time.Minute))
	if answer, err := io.ReadAll(client); err != nil || !strings.Contains(string(answer), "API of node1") {
		t.Errorf("with a free slot the answer is %q, %v", answer, err)
	}
}

func TestStatusSaysWhyNodeDiesAtEachStart(t *testing.T) {
	l := up(t, Options{Name: "labtestwhy", Nodes: 2})
	whole, err := os.ReadFile(l.configFile("node1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.configFile("node1"), []byte("name = [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.signal(t, "node1", unix.SIGKILL)
	var node NodeStatus
	until(t, "the status says why", func() bool {
		node = l.Status(t.Context()).Nodes[0]
		return node.Trouble != nil
	})
	why := node.Trouble
	if node.Restarts < 2 || !strings.Contains(why.What, "times within 1m0s") || why.End != "exit status 1" || !strings.Contains(strings.Join(why.Log, "\n"), "toml") {
		t.Errorf("%d restarts, %+v; want two or more, exit status 1 and the error of the TOML reader", node.Restarts, why)
	}
	if err := l.StartNode(t.Context(), "node1"); err == nil || !strings.Contains(err.Error(), "toml") {
		t.Errorf("start of the node: %v, want the end of its log", err)
	}
	if err := os.WriteFile(l.configFile("node1"), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "it runs again with its configuration restored", func() bool { return l.Status(t.Context()).Nodes[0].Role == "leader" })
	if n := l.daemonsOf(t, "node1"); n != 1 {
		t.Errorf("it has %d daemons", n)
	}
}

func TestFencedNodeIsNotRestarted(t *testing.T) {
	l := up(t, Options{Name: "labtestout", Nodes: 2})
	if err := os.WriteFile(outcast(l.path("node2")), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.signal(t, "node2", unix.SIGKILL) // its next process is refused
	until(t, "the status says that node2 is fenced", func() bool { return l.Status(t.Context()).Nodes[1].Trouble != nil })
	l.awaitRestart(t, "node1", l.signal(t, "node1", unix.SIGKILL))
	st := l.Status(t.Context()).Nodes[1]
	if st.PID != 0 || st.Restarts != 1 || !strings.Contains(st.Trouble.What, "fenced or removed") || strings.Join(st.Trouble.Log, "") != "this node is fenced" {
		t.Errorf("%+v %+v, want one restart and the reason why there is no second", st, st.Trouble)
	}
	if err := l.StartNode(t.Context(), "node2"); err == nil || !strings.Contains(err.Error(), "this node is fenced") {
		t.Errorf("start of a fenced node: %v", err)
	}
	if err := os.Remove(outcast(l.path("node2"))); err != nil {
		t.Fatal(err)
	}
	if err := l.StartNode(t.Context(), "node2"); err != nil {
		t.Errorf("start of a node that is a member again: %v", err)
	}
	if st := l.Status(t.Context()).Nodes[1]; st.Trouble != nil && strings.Contains(st.Trouble.What, "fenced") {
		t.Errorf("status of a node that is a member again: %+v", st.Trouble)
	}
}

func TestNextCommandRestartsSupervisor(t *testing.T) {
	l := up(t, Options{Name: "labtestnext", Nodes: 2})
	kill := func() {
		t.Helper()
		if err := l.kill(t.Context(), supervisorName); err != nil { // also waits until its socket is closed
			t.Fatal(err)
		}
	}
	was := l.Status(t.Context())
	kill()
	if st := l.Status(t.Context()); st.Supervisor.PID != 0 {
		t.Errorf("a dead supervisor is shown as %+v", st.Supervisor)
	}
	if err := l.Supervised(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := l.Status(t.Context())
	if st.Supervisor.PID == 0 || st.Nodes[0].PID != was.Nodes[0].PID || st.Nodes[1].PID != was.Nodes[1].PID || st.Door.PID != was.Door.PID {
		t.Errorf("before %+v\nafter %+v\nwant a supervisor, and the same daemons", was, st)
	}
	// The new supervisor has the door's socket, and restarts daemons that it did not start.
	l.signal(t, supervisorName, unix.SIGSTOP)
	door := l.signal(t, doorName, unix.SIGKILL)
	until(t, "the door is dead", func() bool { return !door.Alive() })
	l.connect(t).Close()
	l.signal(t, supervisorName, unix.SIGCONT)
	l.awaitRestart(t, doorName, door)
	l.awaitRestart(t, "node1", l.signal(t, "node1", unix.SIGKILL))

	// The next supervisor restarts daemons that died while there was none.
	kill()
	node2, door := l.signal(t, "node2", unix.SIGKILL), l.signal(t, doorName, unix.SIGKILL)
	until(t, "both are dead", func() bool { return !node2.Alive() && !door.Alive() })
	if err := l.KillNode(t.Context(), "node1"); err != nil { // any command
		t.Fatal(err)
	}
	l.awaitRestart(t, "node2", node2)
	l.awaitRestart(t, doorName, door)
	l.awaitDoor(t, "node2 was restarted", "200 API of node2")
	if st = l.Status(t.Context()); st.Nodes[1].Restarts != 1 || st.Nodes[0].PID != 0 {
		t.Errorf("%+v", st.Nodes)
	}

	// A daemon that runs although it was to be killed: the supervisor died before it killed the daemon.
	kill()
	l.setRecord(t, "node2", func(r *record) { r.Wanted = false })
	if err := l.Supervised(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "node2 is killed", func() bool { return l.daemonsOf(t, "node2") == 0 })

	// A daemon without a pid file: the supervisor died before it wrote the file.
	if err := l.StartNode(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	kill()
	if err := errors.Join(os.Remove(l.pidFile("node1")), os.Remove(l.pidFile(doorName))); err != nil {
		t.Fatal(err)
	}
	if err := l.Supervised(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st = l.Status(t.Context()); st.Nodes[0].PID == 0 || st.Door.PID == 0 || l.daemonsOf(t, "node1") != 1 {
		t.Errorf("without pid files: %+v, door %+v, %d daemons of node1", st.Nodes, st.Door, l.daemonsOf(t, "node1"))
	}
}

// setRecord changes a stored record. The supervisor must not run.
func (l *Lab) setRecord(t *testing.T, name string, change func(*record)) {
	t.Helper()
	records, err := l.records()
	if err != nil {
		t.Fatal(err)
	}
	change(records[name])
	if err := (&supervisor{lab: l, records: records}).save(); err != nil {
		t.Fatal(err)
	}
}

// TestSupervisorMayDieAtAnyMoment kills the supervisor, or the node, at random times while commands
// start and kill the node. Each command must have its effect.
func TestSupervisorMayDieAtAnyMoment(t *testing.T) {
	l := up(t, Options{Name: "labtestrace"})
	const rounds = 25
	random := rand.New(rand.NewPCG(1, 2))
	for i := range rounds {
		after := time.Duration(random.IntN(60)) * time.Millisecond
		what := []string{supervisorName, "node1"}[random.IntN(2)]
		if id, ok := l.running(what); ok {
			time.AfterFunc(after, func() { unix.Kill(id.PID, unix.SIGKILL) })
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := l.KillNode(ctx, "node1"); err != nil {
			t.Fatalf("round %d, %s killed after %v: kill: %v", i, what, after, err)
		}
		if n := l.daemonsOf(t, "node1"); n != 0 {
			t.Fatalf("round %d, %s killed after %v: after kill there are %d daemons", i, what, after, n)
		}
		after = time.Duration(random.IntN(60)) * time.Millisecond
		if id, ok := l.running(supervisorName); ok {
			time.AfterFunc(after, func() { unix.Kill(id.PID, unix.SIGKILL) })
		}
		if err := l.StartNode(ctx, "node1"); err != nil {
			t.Fatalf("round %d, supervisor killed after %v: start: %v", i, after, err)
		}
		if n := l.daemonsOf(t, "node1"); n != 1 {
			t.Fatalf("round %d, supervisor killed after %v: after start there are %d daemons", i, after, n)
		}
		cancel()
	}
	if err := l.Supervised(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.awaitRestart(t, "node1", l.signal(t, "node1", unix.SIGKILL))
	l.awaitDoor(t, "after all that", "200 API of node1")
}
