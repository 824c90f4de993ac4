package overlay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
	"palisade/switch/tap"
)

// newWired returns a cluster with TAP devices:
//
//	pal-PID-tunnel-web                                             pal-PID-tunnel-app
//	  10.10.0.4 eth0 -- switch of node1 -- loopback, sealed -- switch of node2 -- eth0 10.10.0.5
func newWired(t testing.TB, mtu int) *cluster {
	t.Helper()
	netnstest.NeedRoot(t)
	return newClusterOn(t, Sealed, func(host string) vswitch.Device { return plug(t, host, mtu) })
}

func namespace(host string) string { return fmt.Sprintf("pal-%d-tunnel-%s", os.Getpid(), host) }

func plug(t testing.TB, host string, mtu int) vswitch.Device {
	t.Helper()
	ns := namespace(host)
	if err := netns.New(ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(ns); err != nil {
			t.Error(err)
		}
	})
	device, err := tap.Open(tap.Config{Name: "eth0", Namespace: ns})
	if err != nil {
		t.Fatal(err)
	}
	err = netns.Do(ns, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		mac := macOf(host)
		if err := errors.Join(netlink.LinkSetHardwareAddr(link, mac[:]), netlink.LinkSetMTU(link, mtu)); err != nil {
			return err
		}
		for _, h := range hosts {
			if h.name != host {
				continue
			}
			address, err := netlink.ParseAddr(h.private + "/8")
			if err := errors.Join(err, netlink.AddrAdd(link, address)); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	})
	if err != nil {
		t.Fatal(err)
	}
	return device
}

// transfer sends bytes by TCP from the web's kernel to the app's kernel, and returns how long that
// took.
func transfer(t testing.TB, bytes int64) time.Duration {
	t.Helper()
	var listener net.Listener
	var conn net.Conn
	if err := netns.Do(namespace("app"), func() (err error) {
		listener, err = net.Listen("tcp4", "10.10.0.5:8000")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	received := make(chan int64, 1)
	go func() {
		in, err := listener.Accept()
		if err != nil {
			received <- -1
			return
		}
		defer in.Close()
		n, _ := io.Copy(io.Discard, in)
		received <- n
	}()
	began := time.Now()
	if err := netns.Do(namespace("web"), func() (err error) {
		conn, err = net.DialTimeout("tcp4", "10.10.0.5:8000", patience)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(9 * patience)); err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	for left := bytes; left > 0; left -= int64(len(chunk)) {
		if _, err := conn.Write(chunk[:min(left, int64(len(chunk)))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-received; n != bytes {
		t.Fatalf("%d of %d bytes arrived over TCP", n, bytes)
	}
	return time.Since(began)
}

// Pings and a TCP connection pass between two kernels, while the keys change.
func TestTwoKernelsCommunicateThroughTunnel(t *testing.T) {
	c := newWired(t, tunnelMTU)
	out, err := exec.Command("ip", "netns", "exec", namespace("web"), "ping", "-c", "3", "-i", "0.2", "-W", "5", "-M", "do", "-s", strconv.Itoa(tunnelMTU-28), "10.10.0.5").CombinedOutput()
	if err != nil || !strings.Contains(string(out), " 0% packet loss") {
		t.Errorf("ping: %v\n%s", err, out)
	}
	c.nodes[1].overlay.rekey()
	took := transfer(t, 64<<20)
	t.Logf("64 MiB in %v, %.2f Gbit/s", took, 8*64/1024.0*1.073741824/took.Seconds())
}

// The interface of an instance has a larger MTU than the tunnel. The instance is told, and its
// kernel uses the smaller MTU.
func TestSenderLearnsTheTunnelsMTU(t *testing.T) {
	c := newWired(t, networkMTU)
	transfer(t, 1<<20)
	if got := c.nodes[0].ports["web"].Counters().Verdicts[verdict.TooBig]; got == 0 {
		t.Error("no packet was too big for the tunnel, want at least 1")
	}
	out, err := exec.Command("ip", "netns", "exec", namespace("web"), "ip", "route", "get", "10.10.0.5").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "mtu "+strconv.Itoa(tunnelMTU)) {
		t.Errorf("the web's route has not the tunnel's MTU %d: error %v\n%s", tunnelMTU, err, out)
	}
}
