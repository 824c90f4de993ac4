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
	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
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
		o := Options{Name: args[2], Nodes: 2}
		fmt.Sscan(args[3], &o.Port)
		if _, err := Up(context.Background(), o); err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	}
	if args[0] == "lab" {
		serve := ServeDoor
		if args[1] == "supervise" {
			serve = Supervise
		}
		if err := serve(context.Background(), args[3]); err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	}
	var c nodeConfig
	data, err := os.ReadFile(args[slices.Index(args, "--config")+1])
	if err == nil {
		err = toml.Unmarshal(data, &c)
	}
	if err == nil {
		switch args[0] {
		case "cluster":
			err = standInCluster(c, args)
		case "node":
			err = standInJoin(c, args)
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if args[0] == "cluster" {
		return 0
	}
	if _, err := os.Stat(outcast(c.DataDir)); err == nil {
		fmt.Println("this node is out")
		return OutcastStatus
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
		answer := nodeAnswer{Ready: true, Enforced: 7, Role: "follower", Leader: "node1", Instances: []InstanceStatus{
			{ID: "i-00000001", Name: "albert", Node: "node1", Namespace: c.Lab.NamespacePrefix + "i-00000001"}}}
		if c.Name == "node1" {
			answer.Role = "leader"
		}
		if _, err := os.Stat(leaderless(c.DataDir)); err == nil {
			answer.Role, answer.Leader = "candidate", ""
		}
		json.NewEncoder(w).Encode(answer)
	}))
	return 1
}

// leaderless is the file that makes the stand-in say that it knows no leader.
func leaderless(dataDir string) string { return filepath.Join(dataDir, "leaderless") }

// outcast is the file that makes the stand-in end as a node does that is out of its cluster.
func outcast(dataDir string) string { return filepath.Join(dataDir, "outcast") }

// standInCluster is the stand-in's `palisade cluster init` and `token`. It has one token
// for each role; nothing here depends on more.
func standInCluster(c nodeConfig, args []string) error {
	switch begun := filepath.Join(c.DataDir, "peer"); args[1] {
	case "init":
		if c.Peer == nil || c.Peer.Listen != "192.0.2.11:7400" {
			return fmt.Errorf("cluster init with [peer] %+v", c.Peer)
		}
		return os.Mkdir(begun, 0o700)
	case "token":
		if _, err := os.Stat(begun); err != nil {
			return err
		}
		fmt.Println("token-" + args[slices.Index(args, "--role")+1])
	}
	return nil
}

// standInJoin makes the node a member, if it is in no cluster of one.
func standInJoin(c nodeConfig, args []string) error {
	member := filepath.Join(c.DataDir, "peer")
	if _, err := os.Stat(member); c.Peer == nil || err == nil {
		return nil
	}
	join, token := slices.Index(args, "--join"), slices.Index(args, "--token")
	if join < 0 || args[join+1] != "192.0.2.11:7400" {
		return fmt.Errorf("a node without an identity, started with %q", args)
	}
	file, ok := strings.CutPrefix(args[token+1], "@")
	if !ok {
		return fmt.Errorf("a token that everybody can read: %q", args)
	}
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	if st.Mode().Perm() != 0o600 {
		return fmt.Errorf("the token's file has mode %v", st.Mode())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.Mkdir(member, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(member, "joined"), text, 0o600)
}

var failingPool = netip.MustParsePrefix("10.66.0.0/16")

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
	netnstest.NeedRoot(t)
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

// doorSays waits until the door gives an answer that begins so. A node that takes long to say
// how it is, on a busy machine, is left alone for two seconds.
func (l *Lab) doorSays(t *testing.T, why, want string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		got, err := get(l.Endpoint())
		if err == nil && strings.HasPrefix(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: the door says %q, %v; want %q", why, got, err, want)
		}
	}
}

func TestLabHasAnInternetAndAnUnderlay(t *testing.T) {
	l := up(t, Options{Name: "labtestnet", Nodes: 2})
	for _, tt := range []struct{ from, to string }{
		{laptopHost, "198.51.100.7"},
		{strangerHost, "203.0.113.25"},
		{laptopHost, "198.18.0.1"},
		{"node1", "192.0.2.12"},
	} {
		if out, err := on(t, l, tt.from, "ping", "-c1", "-W10", tt.to); err != nil {
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
		l.doorSays(t, "the nodes that live can serve", want)
	}
	want("200 API of node1")
	if err := l.KillNode(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	want("200 API of node2")
	if st := l.Status(t.Context()); st.Nodes[0].Role != "down" || st.Nodes[0].PID != 0 || st.Nodes[1].Role != "follower" || st.Leader != "node1" || len(st.Instances) != 1 {
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

// A node that answers and knows no leader can decide nothing; one that is stopped does not
// even answer.
func TestDoorLeadsToANodeThatCanServe(t *testing.T) {
	l := up(t, Options{Name: "labtestfit", Nodes: 3})
	eventually := func(why, want string) {
		t.Helper()
		l.doorSays(t, why, want)
	}
	eventually("at first", "200 API of node1")
	if err := os.WriteFile(leaderless(l.path("node1")), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually("node1 knows no leader", "200 API of node2")
	id, _ := l.running("node2")
	if err := unix.Kill(id.PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually("and node2 is stopped", "200 API of node3")
	if err := l.KillNode(t.Context(), "node3"); err != nil {
		t.Fatal(err)
	}
	eventually("and node3 is killed: better one that says why not", "200 API of node1")
	if err := unix.Kill(id.PID, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually("and node2 goes on", "200 API of node2")
}

func TestNodesJoinByTokensOfTheirRole(t *testing.T) {
	l := up(t, Options{Name: "labtestjoin", Nodes: 6})
	for node, want := range map[string]string{"node2": "voter", "node3": "voter", "node5": "voter", "node6": "nonvoter"} {
		token, err := os.ReadFile(l.path(node, "peer", "joined"))
		if err != nil || string(token) != "token-"+want+"\n" {
			t.Errorf("%s joined with %q, %v; want a %s's token", node, token, err, want)
		}
	}
	if left, _ := filepath.Glob(l.path("*.token")); left != nil {
		t.Errorf("tokens left: %v", left)
	}
	if four := (&Lab{Nodes: l.Nodes[:4]}); four.role(2) != "voter" || four.role(3) != "nonvoter" {
		t.Errorf("of four nodes the third is a %s, the fourth a %s; want three voters", four.role(2), four.role(3))
	}
	// A member needs no token.
	if err := errors.Join(l.KillNode(t.Context(), "node6"), l.StartNode(t.Context(), "node6")); err != nil {
		t.Error(err)
	}
}

// nodeHears says whether one node's packets to a port arrive at another. Those that should
// have longer to come, on a busy machine.
func nodeHears(t *testing.T, l *Lab, from, to, port string, want bool) bool {
	t.Helper()
	listen := exec.Command("ncat", "-l", port, "--send-only", "-k", "--sh-exec", "echo hello")
	if err := netns.Do(l.namespace(to), listen.Start); err != nil {
		t.Fatal(err)
	}
	defer func() { listen.Process.Kill(); listen.Wait() }()
	address := underlayAddress(slices.Index(l.Nodes, to))
	if out, err := on(t, l, to, "sh", "-c", "for i in $(seq 1000); do ss -Hltn | grep -q :"+port+" && exit; sleep 0.05; done; exit 1"); err != nil {
		t.Fatalf("nobody listens: %s", out)
	}
	within := "1" // second
	if want {
		within = "10"
	}
	out, _ := on(t, l, from, "ncat", "-w", within, "--recv-only", address, port)
	return strings.Contains(out, "hello")
}

func TestPartitionCutsOneSideFromTheOther(t *testing.T) {
	l := up(t, Options{Name: "labtestcut", Nodes: 4})
	pairs := func(want map[string]bool) {
		t.Helper()
		for pair, want := range want {
			from, rest, _ := strings.Cut(pair, ">")
			to, port, _ := strings.Cut(rest, ":")
			if got := nodeHears(t, l, from, to, port, want); got != want {
				t.Errorf("%s: arrives %v, want %v", pair, got, want)
			}
		}
	}
	cuts := func(want ...string) {
		t.Helper()
		var got []string
		opened, err := Open(l.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range opened.Status(t.Context()).Nodes {
			got = append(got, n.Cut)
		}
		if !slices.Equal(got, want) {
			t.Errorf("status says %q, want %q", got, want)
		}
	}
	pairs(map[string]bool{"node1>node3:7400": true, "node3>node1:7401": true})
	if err := l.Partition(t.Context(), Cut{Nodes: []string{"node3", "node4"}}); err != nil {
		t.Fatal(err)
	}
	cuts("", "", "underlay", "underlay")
	pairs(map[string]bool{"node1>node3:7400": false, "node4>node2:7402": false, "node1>node2:7400": true, "node3>node4:7400": true})
	if err := l.Partition(t.Context(), Cut{Nodes: []string{"node1"}, Gossip: true}); err != nil {
		t.Fatal(err)
	}
	cuts("gossip", "", "underlay", "underlay")
	pairs(map[string]bool{"node1>node2:7401": false, "node2>node1:7401": false, "node1>node2:7400": true, "node4>node2:7402": false})
	if err := l.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	cuts("", "", "", "")
	pairs(map[string]bool{"node1>node3:7400": true, "node2>node1:7401": true, "node4>node2:7402": true})
	if out, err := on(t, l, "node1", "nft", "list", "tables"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("healed, node1 has %q, %v", out, err)
	}

	for _, nodes := range [][]string{nil, {"node9"}, {"node1", "node1"}, l.Nodes} {
		if err := l.Partition(t.Context(), Cut{Nodes: nodes}); err == nil {
			t.Errorf("a cut of %q was made", nodes)
		}
	}
}

func TestCrashIsSilent(t *testing.T) {
	l := up(t, Options{Name: "labtestdark", Nodes: 2})
	if err := l.CrashNode(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	if out, err := on(t, l, "node1", "ping", "-c1", "-W1", "192.0.2.12"); err == nil {
		t.Errorf("a node without power answers: %s", out)
	}
	if err := l.StartNode(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	if out, err := on(t, l, "node1", "ping", "-c1", "-W10", "192.0.2.12"); err != nil {
		t.Errorf("a node that was started again does not answer: %s", out)
	}
}

func TestTwoLabsLiveSideBySide(t *testing.T) {
	a := up(t, Options{Name: "labtesta"})
	b := up(t, Options{Name: "labtestab"}) // one name begins with the other
	if err := Down(t.Context(), a.Name); err != nil {
		t.Fatal(err)
	}
	b.doorSays(t, "lab "+a.Name+" went down", "200 API of node1")
	if out, err := on(t, b, laptopHost, "ping", "-c1", "-W10", "198.51.100.7"); err != nil {
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
	case <-time.After(time.Minute):
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
	if _, err := l.Env("eve"); err == nil || !strings.Contains(err.Error(), "albert, mary, dev") {
		t.Errorf("env of an unknown account: %v", err)
	}
	platforms := map[string]string{"598916040194": "classic", "495219933132": "classic", "123456789012": "vpc"}
	for _, a := range l.Accounts {
		if platforms[a.ID] != a.Platform {
			t.Errorf("account %s %s has the platform %q, want %q", a.Name, a.ID, a.Platform, platforms[a.ID])
		}
		delete(platforms, a.ID)
	}
	if len(platforms) > 0 {
		t.Errorf("the lab has no account for %v", platforms)
	}
	st, err := os.Stat(l.path("lab.json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("lab.json: %v, %v; want mode 0600", st.Mode(), err)
	}
}
