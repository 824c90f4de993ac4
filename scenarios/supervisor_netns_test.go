package scenarios

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// TestKilledDaemonsAreRestarted kills a node's daemon and the front door. An instance's open connection must
// survive, and no call of the API may fail.
func TestKilledDaemonsAreRestarted(t *testing.T) {
	l := labtest.Up(t, "real", "--nodes", "3")
	server := l.Launch(t)
	l.EC2(t, "ec2-authorize default -p 22")
	before := l.Status(t)
	victim := slices.IndexFunc(before.Nodes, func(n lab.NodeStatus) bool { return n.Name == server.Node })

	killNode(t, l, server, victim)
	killDoor(t, l, server)
	st := l.Status(t)
	for i, n := range st.Nodes {
		want := 0
		if i == victim {
			want = 1
		}
		if n.Restarts != want || n.Trouble != nil {
			t.Errorf("%s has %d restarts and the trouble %+v, want %d and none", n.Name, n.Restarts, n.Trouble, want)
		}
	}
	if st.Door.Restarts != 1 {
		t.Errorf("the front door has %d restarts, want 1", st.Door.Restarts)
	}
	text := l.Do(t, "lab", "status")
	if !strings.Contains(text, "\nFront door restarts: 1\n") || !strings.Contains(text, "RESTARTS") {
		t.Errorf("lab status does not show the front door's restart and the column RESTARTS:\n%s", text)
	}

	// The text of lab status must say why a node with a damaged configuration does not start.
	config := filepath.Join("/var/lib/palisade/labs", l.Name, server.Node+".toml")
	if err := os.WriteFile(config, []byte("name = [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sendSignal(t, st.Nodes[victim].PID, syscall.SIGKILL)
	labtest.Eventually(t, "the status says why "+server.Node+" does not come up", func() bool {
		text = l.Do(t, "lab", "status")
		return strings.Contains(text, "\n"+server.Node+": it was started ") &&
			strings.Contains(text, "last exit: exit status 1\n  palisade: ")
	})
}

// killNode kills the daemon of the server's node, whose index is victim. It fails t unless the server keeps
// running, and a connection to it stays open.
func killNode(t *testing.T, l *labtest.Lab, server lab.InstanceStatus, victim int) {
	t.Helper()
	before := l.Status(t).Nodes[victim].PID
	var conn net.Conn
	labtest.Eventually(t, "port 22 is open", func() bool {
		err := netns.Do(l.Name+"-laptop", func() (err error) {
			conn, err = net.DialTimeout("tcp4", net.JoinHostPort(server.PublicAddress, "22"), time.Second)
			return err
		})
		return err == nil
	})
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * labtest.Patience))
	answers := bufio.NewReader(conn)
	if banner, err := answers.ReadString('\n'); err != nil || !strings.HasPrefix(banner, "SSH-2.0-") {
		t.Fatalf("the banner of sshd is %q, error %v; want SSH-2.0-…", banner, err)
	}
	booted := func() string {
		t.Helper()
		out, err := l.On(server.ID, "stat", "-c", "%Y", "/proc/1")
		if err != nil {
			t.Fatalf("read the boot time of the instance: %v\n%s", err, out)
		}
		return out
	}
	was := booted()
	sendSignal(t, before, syscall.SIGKILL)
	labtest.Eventually(t, server.Node+" is restarted", func() bool {
		n := l.Status(t).Nodes[victim]
		return n.PID != 0 && n.PID != before && n.Role != "down"
	})
	// If the connection is still open, sshd receives our banner and starts its key exchange.
	fmt.Fprint(conn, "SSH-2.0-test\r\n")
	if _, err := answers.ReadByte(); err != nil {
		t.Errorf("the connection that was open before the kill has failed: %v", err)
	}
	if now := booted(); now != was {
		t.Errorf("the instance was restarted: it booted at %s, before the kill at %s", now, was)
	}
}

// killDoor kills the front door while a client makes connections as fast as it can. It fails t if a connection
// fails.
func killDoor(t *testing.T, l *labtest.Lab, server lab.InstanceStatus) {
	t.Helper()
	before := l.Status(t)
	stop := make(chan struct{})
	var calling sync.WaitGroup
	calling.Go(func() {
		for made := 0; ; made++ {
			select {
			case <-stop:
				if made == 0 {
					t.Error("void: the client made no connection")
				}
				return
			default:
			}
			conn, err := net.DialTimeout("tcp4", strings.TrimPrefix(before.Endpoint, "http://"), labtest.Patience)
			if err != nil {
				t.Errorf("connection %d: %v", made, err)
				return
			}
			conn.Close()
		}
	})
	door := before.Door.PID
	sendSignal(t, door, syscall.SIGKILL)
	labtest.Eventually(t, "the door is restarted", func() bool { now := l.Status(t).Door.PID; return now != 0 && now != door })
	close(stop)
	calling.Wait()
	l.EC2(t, "ec2-describe-instances "+server.ID)
}
