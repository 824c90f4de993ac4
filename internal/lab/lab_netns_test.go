package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"palisade/internal/netns"
)

// The lab starts its own binary again as its daemons. Here that is the test binary, and
// its node is a stand-in that answers on both sockets: what these tests are about is
// what a lab makes, and what it leaves, also when a node does not start. The real node
// in a real lab is what scenarios/ is about.
func TestMain(m *testing.M) {
	if os.Args[0] == "palisade" {
		os.Exit(standIn(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func standIn(args []string) int {
	if args[0] == "lab" && args[1] == "up" {
		o := Options{Name: args[2]}
		fmt.Sscan(args[3], &o.Port)
		if _, err := Up(context.Background(), o); err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	}
	if args[0] == "lab" {
		if err := ServeDoor(context.Background(), args[3]); err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	}
	var c nodeConfig
	data, err := os.ReadFile(args[2])
	if err == nil {
		err = toml.Unmarshal(data, &c)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if slices.Contains(c.Classic.Pools, failingPool) {
		fmt.Println("this node does not like its pool")
		return 1
	}
	os.Remove(c.APISocket)
	os.Remove(c.ControlSocket)
	api, err1 := net.Listen("unix", c.APISocket)
	control, err2 := net.Listen("unix", c.ControlSocket)
	if err := errors.Join(err1, err2, os.WriteFile(c.Arena, nil, 0o600)); err != nil {
		fmt.Println(err)
		return 1
	}
	go http.Serve(api, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "API of %s", c.Name)
	}))
	http.Serve(control, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(nodeAnswer{Ready: true, Enforced: 7, Role: "leader", Instances: []InstanceStatus{
			{ID: "i-00000001", Name: "albert", Node: c.Name, Namespace: c.Lab.NamespacePrefix + "i-00000001"}}})
	}))
	return 1
}

var failingPool = netip.MustParsePrefix("10.66.0.0/16")

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test makes namespaces and must run as root; where CI is set it may not be skipped")
	}
	t.Skip("makes namespaces: run it as root")
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func up(t *testing.T, o Options) *Lab {
	t.Helper()
	needRoot(t)
	if o.Port == 0 {
		o.Port = freePort(t)
	}
	t.Cleanup(func() {
		if err := Down(context.Background(), o.Name); err != nil {
			t.Error(err)
		}
	})
	l, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// on runs a command in the namespace of host.
func on(t *testing.T, l *Lab, host string, argv ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := netns.Do(l.namespace(host), cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

func get(url string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return fmt.Sprintf("%d %s", response.StatusCode, body), err
}

func TestLabHasAnInternetAndAnUnderlay(t *testing.T) {
	l := up(t, Options{Name: "labtestnet", Nodes: 2})
	for _, tt := range []struct{ from, to string }{
		{laptopHost, "198.51.100.7"},
		{strangerHost, "203.0.113.25"},
		{laptopHost, "198.18.0.1"},
		{"node1", "192.0.2.12"},
	} {
		if out, err := on(t, l, tt.from, "ping", "-c1", "-W2", tt.to); err != nil {
			t.Errorf("%s does not reach %s: %v\n%s", tt.from, tt.to, err, out)
		}
	}
	if out, err := on(t, l, laptopHost, "ping", "-c1", "-W1", "192.0.2.11"); err == nil {
		t.Errorf("the laptop reaches the underlay: %s", out)
	}
	out, _ := on(t, l, internetHost, "ip", "-br", "address", "show", "dev", internetHost)
	if !strings.Contains(out, "198.18.0.1/16") || !strings.Contains(out, "2001:db8::1/32") {
		t.Errorf("addresses of the segment: %s", out)
	}
	out, _ = on(t, l, internetHost, "ip", "-br", "link", "show", "dev", internetHost)
	if !strings.Contains(out, gatewayMAC) {
		t.Errorf("the router on the segment: %s, want MAC %s", out, gatewayMAC)
	}
}

func TestDoorLeadsToANodeThatLives(t *testing.T) {
	l := up(t, Options{Name: "labtestdoor", Nodes: 2})
	want := func(want string) {
		t.Helper()
		if got, err := get(l.Endpoint()); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("GET %s = %q, %v; want %q", l.Endpoint(), got, err, want)
		}
	}
	want("200 API of node1")
	if err := l.KillNode(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	want("200 API of node2")
	if st := l.Status(t.Context()); st.Nodes[0].Role != "down" || st.Nodes[0].PID != 0 || st.Nodes[1].Role != "leader" || len(st.Instances) != 1 {
		t.Errorf("status with node1 killed: %+v", st)
	}
	if err := l.KillNode(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	want("503 ")
	if err := l.StartNode(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	want("200 API of node1")
	if err := l.StartNode(t.Context(), "node1"); err == nil {
		t.Error("a running node was started again")
	}
	if err := l.KillNode(t.Context(), "node3"); err == nil || !strings.Contains(err.Error(), "node1, node2") {
		t.Errorf("kill of an unknown node: %v", err)
	}
}

func TestTwoLabsLiveSideBySide(t *testing.T) {
	a := up(t, Options{Name: "labtesta"})
	b := up(t, Options{Name: "labtestab"}) // one name begins with the other
	if err := Down(t.Context(), a.Name); err != nil {
		t.Fatal(err)
	}
	if got, err := get(b.Endpoint()); err != nil || got != "200 API of node1" {
		t.Errorf("lab %s after lab %s went down: %q, %v", b.Name, a.Name, got, err)
	}
	if out, err := on(t, b, laptopHost, "ping", "-c1", "-W2", "198.51.100.7"); err != nil {
		t.Errorf("the network of lab %s after lab %s went down: %s", b.Name, a.Name, out)
	}
	if _, err := Open(a.Name); err == nil {
		t.Error("a lab that is down can be opened")
	}
}

func TestCrashTakesTheInstancesToo(t *testing.T) {
	l := up(t, Options{Name: "labtestcrash"})
	ns := l.namespace("i-00000001")
	if err := errors.Join(os.MkdirAll(filepath.Join(l.instanceDir("node1"), "i-00000001"), 0o700), netns.New(ns)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	if err := netns.Do(ns, cmd.Start); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := l.CrashNode(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the instance lives")
	}
	if _, err := os.Stat(l.arena("node1")); err == nil || netns.Exists(ns) {
		t.Errorf("arena: %v, namespace: %v; want both gone", err, netns.Exists(ns))
	}
	if err := l.StartNode(t.Context(), "node1"); err != nil {
		t.Error(err)
	}
}

func TestEnvPointsAShellAtTheLab(t *testing.T) {
	l := up(t, Options{Name: "labtestenv"})
	env, err := l.Env("mary")
	if err != nil {
		t.Fatal(err)
	}
	// A machine's own aws further down PATH shows what it is called with.
	own := t.TempDir()
	os.WriteFile(filepath.Join(own, "aws"), []byte("#!/bin/sh\necho aws \"$@\"\n"), 0o755)
	cmd := exec.Command("sh", "-euc", env+`
echo "$AWS_ACCESS_KEY_ID $AWS_DEFAULT_REGION $EC2_URL [$AWS_PAGER] [${AWS_PROFILE-unset}] [${AWS_SESSION_TOKEN-unset}]"
aws ec2 describe-instances`)
	cmd.Env = []string{"PATH=" + own + ":/usr/bin:/bin", "AWS_PROFILE=work", "AWS_SESSION_TOKEN=x"}
	out, err := cmd.CombinedOutput()
	mary, _ := l.account("mary")
	want := fmt.Sprintf("%s us-east-1 %s [] [unset] [unset]\naws --endpoint-url %s ec2 describe-instances\n", mary.AccessKey, l.Endpoint(), l.Endpoint())
	if err != nil || string(out) != want {
		t.Errorf("the shell says %q, %v; want %q", out, err, want)
	}
	if _, err := l.Env("eve"); err == nil || !strings.Contains(err.Error(), "albert, mary") {
		t.Errorf("env of an unknown account: %v", err)
	}
	st, err := os.Stat(l.path("lab.json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("lab.json: %v, %v; want mode 0600", st.Mode(), err)
	}
}
