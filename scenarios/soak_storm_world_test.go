//go:build soak

package scenarios

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/internal/bench/storm"
	"palisade/internal/lab"
	"palisade/internal/netns"
	vswitch "palisade/switch"
)

// A stormWorld is the network of a storm: the lab, or the Linux bridges that it is compared with.
type stormWorld struct {
	name  string
	hosts map[string]storm.Host // by role, each with the MAC of its own device
	// via returns the destination MAC for frames to a host.
	via func(storm.Host) ec2.MAC
	// namespace has the names of the network namespaces, by role.
	namespace map[string]string
	// command returns a command that runs as a role; start starts it.
	command func(ctx context.Context, role string, argv ...string) *exec.Cmd
	start   func(role string, cmd *exec.Cmd) error
	program func(role string) string // path of the test binary for a role

	lab    *soakLab // nil: the network is the bridges
	limits stormLimits
	storm  *storm.Process
	corpus []storm.Frame
}

// A stormLimits bounds mallory. With the bridges, mallory has the same limits as in the lab.
type stormLimits struct {
	init  int // pid of a process in mallory's cgroup
	loops int // busy loops
	slow  int // slow packet sockets
}

// to returns the host of a role with the MAC to which frames for it must go.
func (w *stormWorld) to(role string) storm.Host {
	h := w.hosts[role]
	return storm.Host{Address: h.Address, MAC: w.via(h)}
}

// run runs a command as a role and returns its standard output.
func (w *stormWorld) run(ctx context.Context, role string, argv ...string) ([]byte, error) {
	cmd := w.command(ctx, role, argv...)
	var out, problem strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problem
	err := w.start(role, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", argv[0], err, problem.String())
	}
	return []byte(out.String()), err
}

// newStormLab launches the instances of the storm in a lab.
func newStormLab(l *soakLab) *stormWorld {
	t := l.t
	t.Helper()
	api := l.api("albert")
	names := []string{"mallory", "client", "server", "target", "victim", "prober", "steady", "friends"}
	l.groups(api, names...)
	anybody := "0.0.0.0/0"
	for group, rules := range map[string][]soakRule{
		"server": {{protocol: "tcp", port: iperfPort, group: "client"}},
		"target": {{protocol: "tcp", port: openPort, cidr: anybody}, {protocol: "udp", port: openPort, cidr: anybody}, {protocol: "tcp", port: groupPort, group: "friends"}},
		"victim": {{protocol: "tcp", port: groupPort, group: "friends"}, {protocol: "tcp", port: 22, cidr: lab.LaptopAddress + "/32"}},
		"steady": {{protocol: "tcp", port: steadyPort, group: "steady"}},
	} {
		if _, err := api.authorize(group, rules...); err != nil {
			t.Fatalf("rules of %s: %v", group, err)
		}
	}
	nodes := []string{l.nodes[0].Name, l.nodes[1].Name, l.nodes[2].Name}
	w := &stormWorld{name: "palisade", lab: l, hosts: map[string]storm.Host{}, namespace: map[string]string{}}
	ids := map[string]string{}
	add := func(role string, in lab.InstanceStatus) {
		mac, err := net.ParseMAC(in.MAC)
		if err != nil {
			t.Fatalf("MAC of %s: %v", role, err)
		}
		w.hosts[role] = storm.Host{Address: netip.MustParseAddr(in.PrivateAddress), MAC: ec2.MAC(mac)}
		w.namespace[role], ids[role] = in.Namespace, in.ID
	}
	// Launch few instances at a time: their services must listen within seconds, even while fuzz targets use
	// the processors.
	for _, group := range []struct {
		name  string
		roles []string // one on each node, from the first node on
	}{
		{"victim", []string{"victim1", "victim2", "victim3"}}, {"prober", []string{"prober1", "prober2", "prober3"}},
		{"steady", []string{"steady1", "steady2", "steady3"}}, {"server", []string{"near", "far"}}, {"target", []string{"target1", "target2"}},
		{"mallory", []string{"mallory"}}, {"client", []string{"client"}},
	} {
		placed := l.launchIn(api, nodes[:len(group.roles)], group.name)
		for i, role := range group.roles {
			add(role, placed[group.name][nodes[i]])
		}
	}

	w.via = func(storm.Host) ec2.MAC { return vswitch.GatewayMAC }
	w.command = func(ctx context.Context, role string, argv ...string) *exec.Cmd {
		return exec.CommandContext(ctx, l.Palisade, append([]string{"lab", "exec", "--name", l.Name, ids[role], "--"}, argv...)...)
	}
	w.start = func(_ string, cmd *exec.Cmd) error { return cmd.Start() }
	w.program = func(string) string { return "/tmp/storm" }
	for _, role := range []string{"mallory", "prober1", "prober2", "prober3"} {
		w.install(t, role)
	}
	w.limits = w.limitsOf(t)
	w.serveOpenPort(t)
	return w
}

// install copies the test binary into an instance.
func (w *stormWorld) install(t *testing.T, role string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := w.command(t.Context(), role, "sh", "-c", "cat > /tmp/storm && chmod 755 /tmp/storm")
	cmd.Stdin = file
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("copy the test binary into %s: %v\n%s", role, err, out)
	}
}

// limitsOf returns mallory's limits. It reads mallory's limit of processes, and leaves 64 of them for the
// senders and the instance's own programs.
func (w *stormWorld) limitsOf(t *testing.T) stormLimits {
	t.Helper()
	limits := stormLimits{init: initOf(t, w.namespace["mallory"]), loops: 512, slow: stormSlow}
	for _, dir := range cgroupsOf(t, limits.init) {
		text, err := os.ReadFile(dir.path + "/pids.max")
		if most, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
			limits.loops = min(limits.loops, most-64)
		}
	}
	return limits
}

// listen listens on a TCP port of a role until the test ends.
func (w *stormWorld) listen(t *testing.T, role string, port uint16) net.Listener {
	t.Helper()
	var listener net.Listener
	err := netns.Do(w.namespace[role], func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(w.hosts[role].Address, port).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// serveOpenPort accepts connections on openPort of the first target and sends without end.
func (w *stormWorld) serveOpenPort(t *testing.T) {
	t.Helper()
	listener := w.listen(t, "target1", openPort)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				zeros := make([]byte, 64<<10)
				for {
					if _, err := conn.Write(zeros); err != nil {
						return
					}
				}
			}()
		}
	}()
}
