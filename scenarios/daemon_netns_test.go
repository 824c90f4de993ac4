package scenarios

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// rx returns the number of packets that an instance's interface has received, by the kernel's counter.
func rx(t *testing.T, in lab.InstanceStatus) string {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", in.Namespace, "cat", "/sys/class/net/eth0/statistics/rx_packets").CombinedOutput()
	if err != nil {
		t.Fatalf("rx of %s: %v\n%s", in.ID, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestNothingIsForwardedWithoutDaemon checks that no packet reaches an instance while the daemon is stopped,
// is dead or refuses to start, even if a rule admits it. When the daemon runs again, admitted packets pass.
func TestNothingIsForwardedWithoutDaemon(t *testing.T) {
	l := labtest.Up(t, "real")
	server, fellow := l.Launch(t), l.Launch(t)
	l.EC2(t, "ec2-authorize default -p 22")
	mark := filepath.Join("/var/lib/palisade/labs", l.Name, "node1", "enforced")

	opens := func(when string) {
		t.Helper()
		labtest.Eventually(t, "port 22 is open "+when, func() bool {
			_, err := l.On("laptop", "ncat", "-z", "-w", "1", server.PublicAddress, "22")
			return err == nil
		})
		if out, err := l.On(fellow.ID, "ping", "-c", "1", "-W", "10", server.PrivateAddress); err != nil {
			t.Errorf("%s, another instance gets no answer to its ping: %v\n%s", when, err, out)
		}
	}
	closed := func(when string) {
		t.Helper()
		before := rx(t, server)
		if out, err := l.On("laptop", "ncat", "-z", "-w", "1", server.PublicAddress, "22"); err == nil {
			t.Errorf("%s, port 22 is open to the laptop:\n%s", when, out)
		}
		out, err := exec.Command("ip", "netns", "exec", fellow.Namespace, "ping", "-c", "3", "-i", "0.2", "-W", "1", server.PrivateAddress).CombinedOutput()
		if err == nil {
			t.Errorf("%s, another instance gets an answer to its ping:\n%s", when, out)
		}
		if after := rx(t, server); after != before {
			t.Errorf("%s, the server received packets: its counter went from %s to %s", when, before, after)
		}
	}
	opens("at first")

	pid := daemonOf(t, l)
	sendSignal(t, pid, syscall.SIGSTOP)
	closed("while the daemon is stopped")
	sendSignal(t, pid, syscall.SIGCONT)
	opens("when the daemon continues")

	l.Do(t, "lab", "kill", "node1")
	closed("while the daemon is dead")

	whole, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mark, whole[:5], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := l.Try("lab", "start", "node1"); err == nil || !strings.Contains(out, mark+" is damaged") {
		t.Errorf("start of a daemon with a damaged enforced index: error %v, want one that says so; output:\n%s", err, out)
	}
	closed("while the daemon refuses to start")

	// Remove the damaged file, as the daemon's error says. The supervisor then starts the daemon again.
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	opens("when the daemon runs again")
}

// TestInstanceOfLabIsConfined runs the test binary of package instance in an instance of a real lab. The
// binary tries to reach the daemon's process and files.
func TestInstanceOfLabIsConfined(t *testing.T) {
	l := labtest.Up(t, "real")
	probe := filepath.Join(t.TempDir(), "probe")
	if out, err := exec.Command("go", "test", "-c", "-o", probe, "palisade/internal/instance").CombinedOutput(); err != nil {
		t.Fatalf("build the prober: %v\n%s", err, out)
	}
	in := l.Launch(t)
	file, err := os.Open(probe)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	copying := exec.Command(l.Palisade, "lab", "exec", "--name", l.Name, in.ID, "--", "sh", "-c", "cat > /tmp/probe && chmod 755 /tmp/probe")
	copying.Stdin = file
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("copy the prober: %v\n%s", err, out)
	}
	pid := daemonOf(t, l)
	for _, secret := range []string{
		filepath.Join("/var/lib/palisade/labs", l.Name, "lab.json"),
		filepath.Join("/run/palisade", l.Name, "node1.sock"),
		"/dev/shm/palisade-" + l.Name + "-node1",
	} {
		if _, err := os.Stat(secret); err != nil {
			t.Fatalf("void: the file to reach does not exist: %v", err)
		}
		if out, err := l.On(in.ID, "/tmp/probe", "probe", fmt.Sprint(pid), secret); err != nil {
			t.Errorf("the prober that tried to reach %s: %v\n%s", secret, err, out)
		}
	}
	if daemonOf(t, l) != pid {
		t.Error("the daemon was restarted while the prober ran")
	}
}
