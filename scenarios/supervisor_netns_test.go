package scenarios

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// TestDaemonsKilledFromOutsideComeBack: a node's daemon and the front door are killed, and
// neither a connection nor a call of the API is lost over it.
func TestDaemonsKilledFromOutsideComeBack(t *testing.T) {
	l := labtest.Up(t, "real", "--nodes", "3")
	server := l.Launch(t)
	l.EC2(t, "ec2-authorize default -p 22")
	var session net.Conn
	labtest.Eventually(t, "port 22 is open", func() bool {
		err := netns.Do(l.Name+"-laptop", func() (err error) {
			session, err = net.DialTimeout("tcp4", net.JoinHostPort(server.PublicAddress, "22"), time.Second)
			return err
		})
		return err == nil
	})
	defer session.Close()
	session.SetDeadline(time.Now().Add(2 * labtest.Patience))
	said := bufio.NewReader(session)
	if banner, err := said.ReadString('\n'); err != nil || !strings.HasPrefix(banner, "SSH-2.0-") {
		t.Fatalf("sshd says %q, %v", banner, err)
	}
	booted := func() string {
		t.Helper()
		out, err := l.On(server.ID, "stat", "-c", "%Y", "/proc/1")
		if err != nil {
			t.Fatalf("the instance: %v\n%s", err, out)
		}
		return out
	}
	before, was := l.Status(t), booted()
	victim := 0
	for i, n := range before.Nodes {
		if n.Name == server.Node {
			victim = i
		}
	}

	sendSignal(t, before.Nodes[victim].PID, syscall.SIGKILL)
	labtest.Eventually(t, server.Node+" is back", func() bool {
		n := l.Status(t).Nodes[victim]
		return n.PID != 0 && n.PID != before.Nodes[victim].PID && n.Role != "down"
	})
	// The connection goes on where it was: sshd hears our name and offers its keys.
	fmt.Fprint(session, "SSH-2.0-test\r\n")
	if _, err := said.ReadByte(); err != nil {
		t.Errorf("the connection that was open: %v", err)
	}
	if now := booted(); now != was {
		t.Errorf("the instance began at %s, before at %s", now, was)
	}

	// Connections as fast as one caller makes them, from before the door's death until it is back.
	stop := make(chan struct{})
	var calling sync.WaitGroup
	calling.Go(func() {
		for made := 0; ; made++ {
			select {
			case <-stop:
				if made == 0 {
					t.Error("no connection was made")
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
	labtest.Eventually(t, "the door is back", func() bool { now := l.Status(t).Door.PID; return now != 0 && now != door })
	close(stop)
	calling.Wait()
	l.EC2(t, "ec2-describe-instances "+server.ID)

	st := l.Status(t)
	for i, n := range st.Nodes {
		want := 0
		if i == victim {
			want = 1
		}
		if n.Restarts != want || n.Trouble != nil {
			t.Errorf("%s: %d restarts, trouble %+v; want %d, none", n.Name, n.Restarts, n.Trouble, want)
		}
	}
	if st.Door.Restarts != 1 {
		t.Errorf("the door: %d restarts, want 1", st.Door.Restarts)
	}
	text := l.Do(t, "lab", "status")
	if !strings.Contains(text, "\nFront door restarts: 1\n") || !strings.Contains(text, "RESTARTS") {
		t.Errorf("in text:\n%s", text)
	}

	// A node whose configuration is damaged says why it does not come up, in text too.
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
