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
	"palisade/internal/testwait"
)

// signal sends a signal to a daemon, without an order to the supervisor, and returns its process.
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

// awaitRestart waits until a daemon runs as another process than before, and returns the new process.
func (l *Lab) awaitRestart(t *testing.T, name string, before process.ID) process.ID {
	t.Helper()
	var now process.ID
	testwait.For(t, name+" runs again", func() bool {
		id, ok := l.running(name)
		now = id
		return ok && id != before
	})
	return now
}

// daemonsOf returns the number of processes that run a node's daemon.
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
		t.Errorf("after Up: supervisor %+v, door %+v, node1 %+v; want pids and 0 restarts of node1", st.Supervisor, st.Door, st.Nodes[0])
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
		t.Errorf("after a kill of each: node1 %+v, door %+v; want one restart each and no trouble", st.Nodes[0], st.Door)
	}
	// The restarts show that the supervisor has examined every daemon since KillNode. It must not have
	// restarted node2.
	if st.Nodes[1].PID != 0 || l.daemonsOf(t, "node2") != 0 || st.Nodes[1].Restarts != 0 {
		t.Errorf("after KillNode: node2 %+v, want no process and 0 restarts", st.Nodes[1])
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
		t.Errorf("after CrashNode: node2 %+v, want no process", st.Nodes[1])
	}
	log, err := os.ReadFile(l.logFile(supervisorName))
	if err != nil || strings.Count(string(log), "daemon restarted") != 4 || strings.Count(string(log), "\n") != 4 {
		t.Errorf("read of the supervisor's log: error %v; want one line for each of four restarts, got:\n%s", err, log)
	}
}

// The test stops the supervisor and kills the door, so that no door runs while it makes its connections.
// There are more connections than the door serves at once.
func TestConnectionsWaitWhileDoorIsDead(t *testing.T) {
	l := up(t, Options{Name: "labtestgap"})
	l.awaitDoor(t, "at first", "200 API of node1")
	l.signal(t, supervisorName, unix.SIGSTOP)
	before := l.signal(t, doorName, unix.SIGKILL)
	testwait.For(t, "the door is dead", func() bool { return !before.Alive() })
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
			t.Fatalf("connection %d of %d got the answer %q, error %v; want one of node1", i, len(clients), answer, err)
		}
	}
}

// Idle connections take all slots of the door. A further connection waits for a slot and is not refused.
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
		t.Errorf("with all slots taken the door answers %q, error %v; want no answer yet", answer, err)
	}
	idle.Close()
	client.SetDeadline(time.Now().Add(time.Minute))
	if answer, err := io.ReadAll(client); err != nil || !strings.Contains(string(answer), "API of node1") {
		t.Errorf("with a free slot the door answers %q, error %v; want an answer of node1", answer, err)
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
	testwait.For(t, "the status says why node1 does not stay up", func() bool {
		node = l.Status(t.Context()).Nodes[0]
		return node.Trouble != nil
	})
	why := node.Trouble
	if node.Restarts < 2 || !strings.Contains(why.What, "times within 1m0s") || why.End != "exit status 1" || !strings.Contains(strings.Join(why.Log, "\n"), "toml") {
		t.Errorf("node1 has %d restarts and the trouble %+v; want two or more restarts, exit status 1 and an error about TOML", node.Restarts, why)
	}
	if err := l.StartNode(t.Context(), "node1"); err == nil || !strings.Contains(err.Error(), "toml") {
		t.Errorf("StartNode with a damaged configuration: error %v, want the end of the node's log", err)
	}
	if err := os.WriteFile(l.configFile("node1"), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "node1 runs again with its configuration restored", func() bool { return l.Status(t.Context()).Nodes[0].Role == "leader" })
	if n := l.daemonsOf(t, "node1"); n != 1 {
		t.Errorf("node1 has %d daemons, want 1", n)
	}
}

func TestFencedNodeIsNotRestarted(t *testing.T) {
	l := up(t, Options{Name: "labtestout", Nodes: 2})
	if err := os.WriteFile(outcast(l.path("node2")), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.signal(t, "node2", unix.SIGKILL) // its next process is refused
	testwait.For(t, "the status says that node2 is fenced", func() bool { return l.Status(t.Context()).Nodes[1].Trouble != nil })
	l.awaitRestart(t, "node1", l.signal(t, "node1", unix.SIGKILL))
	st := l.Status(t.Context()).Nodes[1]
	if st.PID != 0 || st.Restarts != 1 || !strings.Contains(st.Trouble.What, "fenced or removed") || strings.Join(st.Trouble.Log, "") != "this node is fenced" {
		t.Errorf("the fenced node: status %+v, trouble %+v; want no process, 1 restart, and a trouble that says it is fenced", st, st.Trouble)
	}
	if err := l.StartNode(t.Context(), "node2"); err == nil || !strings.Contains(err.Error(), "this node is fenced") {
		t.Errorf("StartNode of a fenced node: error %v, want one with the end of its log", err)
	}
	if err := os.Remove(outcast(l.path("node2"))); err != nil {
		t.Fatal(err)
	}
	if err := l.StartNode(t.Context(), "node2"); err != nil {
		t.Errorf("StartNode of a node that is a member again: error %v, want none", err)
	}
	if st := l.Status(t.Context()).Nodes[1]; st.Trouble != nil && strings.Contains(st.Trouble.What, "fenced") {
		t.Errorf("a node that is a member again has the trouble %+v, want none", st.Trouble)
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
		t.Errorf("the status of a dead supervisor is %+v, want pid 0", st.Supervisor)
	}
	if err := l.Supervised(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := l.Status(t.Context())
	if st.Supervisor.PID == 0 || st.Nodes[0].PID != was.Nodes[0].PID || st.Nodes[1].PID != was.Nodes[1].PID || st.Door.PID != was.Door.PID {
		t.Errorf("status before the kill of the supervisor: %+v\nafter Supervised: %+v\nwant a supervisor, and the same pids of nodes and door", was, st)
	}
	// The new supervisor keeps the door's socket open, and restarts daemons that it did not start.
	l.signal(t, supervisorName, unix.SIGSTOP)
	door := l.signal(t, doorName, unix.SIGKILL)
	testwait.For(t, "the door is dead", func() bool { return !door.Alive() })
	l.connect(t).Close()
	l.signal(t, supervisorName, unix.SIGCONT)
	l.awaitRestart(t, doorName, door)
	l.awaitRestart(t, "node1", l.signal(t, "node1", unix.SIGKILL))

	// The next supervisor restarts daemons that died while no supervisor ran.
	kill()
	node2, door := l.signal(t, "node2", unix.SIGKILL), l.signal(t, doorName, unix.SIGKILL)
	testwait.For(t, "node2 and the door are dead", func() bool { return !node2.Alive() && !door.Alive() })
	if err := l.KillNode(t.Context(), "node1"); err != nil { // any command
		t.Fatal(err)
	}
	l.awaitRestart(t, "node2", node2)
	l.awaitRestart(t, doorName, door)
	l.awaitDoor(t, "node2 was restarted", "200 API of node2")
	if st = l.Status(t.Context()); st.Nodes[1].Restarts != 1 || st.Nodes[0].PID != 0 {
		t.Errorf("nodes: %+v; want 1 restart of node2 and pid 0 of node1", st.Nodes)
	}

	// The next supervisor kills a daemon whose record says that it must not run: the last one died before
	// the kill.
	kill()
	l.setRecord(t, "node2", func(r *record) { r.Wanted = false })
	if err := l.Supervised(t.Context()); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "node2 is killed", func() bool { return l.daemonsOf(t, "node2") == 0 })

	// The next supervisor finds daemons without a pid file: the last one died before it wrote the files.
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
		t.Errorf("after the pid files were removed: nodes %+v, door %+v, %d daemons of node1; want pids of node1 and the door, and 1 daemon", st.Nodes, st.Door, l.daemonsOf(t, "node1"))
	}
}

// setRecord calls change for the stored record of a daemon and stores the result. The supervisor must not
// run.
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

// TestCommandsSucceedWhenSupervisorDiesAtAnyMoment kills the supervisor, or the node, at random times
// while commands start and kill the node. Each command must have its effect.
func TestCommandsSucceedWhenSupervisorDiesAtAnyMoment(t *testing.T) {
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
			t.Fatalf("round %d, %s killed after %v: KillNode: %v", i, what, after, err)
		}
		if n := l.daemonsOf(t, "node1"); n != 0 {
			t.Fatalf("round %d, %s killed after %v: after KillNode, node1 has %d daemons, want 0", i, what, after, n)
		}
		after = time.Duration(random.IntN(60)) * time.Millisecond
		if id, ok := l.running(supervisorName); ok {
			time.AfterFunc(after, func() { unix.Kill(id.PID, unix.SIGKILL) })
		}
		if err := l.StartNode(ctx, "node1"); err != nil {
			t.Fatalf("round %d, supervisor killed after %v: StartNode: %v", i, after, err)
		}
		if n := l.daemonsOf(t, "node1"); n != 1 {
			t.Fatalf("round %d, supervisor killed after %v: after StartNode, node1 has %d daemons, want 1", i, after, n)
		}
		cancel()
	}
	if err := l.Supervised(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.awaitRestart(t, "node1", l.signal(t, "node1", unix.SIGKILL))
	l.awaitDoor(t, "after all that", "200 API of node1")
}
