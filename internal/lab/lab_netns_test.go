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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
)

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// up makes a lab and takes it down when t ends. If t fails, it prints the status and the logs.
func up(t *testing.T, o Options) *Lab {
	t.Helper()
	netnstest.NeedRoot(t)
	if o.Port == 0 {
		o.Port = freePort(t)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(report(o.Name))
		}
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

// report returns the status of a lab of fake nodes and the last lines of its logs, in fewer than 100
// lines.
func report(name string) string {
	l, err := Open(name)
	if err != nil {
		return err.Error()
	}
	status, _ := json.MarshalIndent(l.Status(context.Background()), "", " ")
	lines := strings.Split(string(status), "\n")
	text := strings.Join(lines[:min(len(lines), 40)], "\n")
	for _, daemon := range append(l.daemons(), supervisorName) {
		text += "\nlog of " + daemon + ": " + strings.Join(lastLog(l.logFile(daemon), 0), "\n  ")
	}
	lines = strings.Split(text, "\n")
	return strings.Join(lines[:min(len(lines), 95)], "\n")
}

// on runs a command in the namespace of host and returns its output.
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

// awaitDoor waits until the door's answer begins with want. why is the start of the failure message. The wait
// may take some seconds on a busy machine, because the door does not ask a slow node again for silenceLasts.
func (l *Lab) awaitDoor(t *testing.T, why, want string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		got, err := get(l.Endpoint())
		if err == nil && strings.HasPrefix(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: the door answers %q, error %v; want %q", why, got, err, want)
		}
	}
}

func TestLabHasInternetAndUnderlay(t *testing.T) {
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
		t.Errorf("the laptop reaches node1 on the underlay:\n%s", out)
	}
	out, _ := on(t, l, internetHost, "ip", "-br", "address", "show", "dev", internetHost)
	if !strings.Contains(out, "198.18.0.1/16") || !strings.Contains(out, "2001:db8::1/32") {
		t.Errorf("the router has the addresses %s, want 198.18.0.1/16 and 2001:db8::1/32", out)
	}
	out, _ = on(t, l, internetHost, "ip", "-br", "link", "show", "dev", internetHost)
	if !strings.Contains(out, gatewayMAC) {
		t.Errorf("the router's device on the segment is %s, want the MAC %s", out, gatewayMAC)
	}
}

func TestDoorForwardsToNodeThatRuns(t *testing.T) {
	l := up(t, Options{Name: "labtestdoor", Nodes: 2})
	want := func(want string) {
		t.Helper()
		l.awaitDoor(t, "the nodes that run can serve", want)
	}
	want("200 API of node1")
	if err := l.KillNode(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	want("200 API of node2")
	if st := l.Status(t.Context()); st.Nodes[0].Role != "down" || st.Nodes[0].PID != 0 || st.Nodes[1].Role != "follower" || st.Leader != "node1" || len(st.Instances) != 1 {
		t.Errorf("status after node1 was killed: %+v; want node1 down without a pid, node2 a follower, node1 as leader and one instance", st)
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
		t.Error("StartNode of a running node returned no error")
	}
	if err := l.KillNode(t.Context(), "node3"); err == nil || !strings.Contains(err.Error(), "node1, node2") {
		t.Errorf("KillNode of an unknown node: error %v, want one that lists node1, node2", err)
	}
}

// A node that knows no leader answers, but cannot accept changes. A stopped node does not answer.
func TestDoorPrefersNodeThatCanServe(t *testing.T) {
	l := up(t, Options{Name: "labtestfit", Nodes: 3})
	eventually := func(why, want string) {
		t.Helper()
		l.awaitDoor(t, why, want)
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
	eventually("node2 is stopped too", "200 API of node3")
	if err := l.KillNode(t.Context(), "node3"); err != nil {
		t.Fatal(err)
	}
	eventually("node3 is killed too, so a node without a leader must do", "200 API of node1")
	if err := unix.Kill(id.PID, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually("node2 continues", "200 API of node2")
}

func TestNodesJoinWithTokensOfTheirRole(t *testing.T) {
	l := up(t, Options{Name: "labtestjoin", Nodes: 6})
	for node, want := range map[string]string{"node2": "voter", "node3": "voter", "node5": "voter", "node6": "nonvoter"} {
		token, err := os.ReadFile(l.path(node, "peer", "joined"))
		if err != nil || string(token) != "token-"+want+"\n" {
			t.Errorf("%s joined with the token %q, error %v; want the token of a %s", node, token, err, want)
		}
	}
	if left, _ := filepath.Glob(l.path("*.token")); left != nil {
		t.Errorf("files with tokens are left: %v, want none", left)
	}
	if four := (&Lab{Nodes: l.Nodes[:4]}); four.role(2) != "voter" || four.role(3) != "nonvoter" {
		t.Errorf("in a lab of four nodes the third is a %s, the fourth a %s; want voter, nonvoter", four.role(2), four.role(3))
	}
	// A member that starts again needs no token.
	if err := errors.Join(l.KillNode(t.Context(), "node6"), l.StartNode(t.Context(), "node6")); err != nil {
		t.Error(err)
	}
}

// reaches reports whether one node's packets to a TCP port of another arrive. It waits longer if want is
// true, because the machine may be busy.
func reaches(t *testing.T, l *Lab, from, to, port string, want bool) bool {
	t.Helper()
	listen := exec.Command("ncat", "-l", port, "--send-only", "-k", "--sh-exec", "echo hello")
	if err := netns.Do(l.namespace(to), listen.Start); err != nil {
		t.Fatal(err)
	}
	defer func() { listen.Process.Kill(); listen.Wait() }()
	address := underlayAddress(slices.Index(l.Nodes, to))
	if out, err := on(t, l, to, "sh", "-c", "for i in $(seq 1000); do ss -Hltn | grep -q :"+port+" && exit; sleep 0.05; done; exit 1"); err != nil {
		t.Fatalf("ncat does not listen on port %s of %s: %v\n%s", port, to, err, out)
	}
	within := "1" // second
	if want {
		within = "10"
	}
	out, _ := on(t, l, from, "ncat", "-w", within, "--recv-only", address, port)
	return strings.Contains(out, "hello")
}

func TestPartitionSeparatesItsSides(t *testing.T) {
	l := up(t, Options{Name: "labtestcut", Nodes: 4})
	pairs := func(want map[string]bool) {
		t.Helper()
		for pair, want := range want {
			from, rest, _ := strings.Cut(pair, ">")
			to, port, _ := strings.Cut(rest, ":")
			if got := reaches(t, l, from, to, port, want); got != want {
				t.Errorf("packets %s arrive: %v, want %v", pair, got, want)
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
			t.Errorf("the status shows the cuts %q, one for each node; want %q", got, want)
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
		t.Errorf("after Heal, node1 has the nftables tables %q, error %v; want no table", out, err)
	}

	for _, nodes := range [][]string{nil, {"node9"}, {"node1", "node1"}, l.Nodes} {
		if err := l.Partition(t.Context(), Cut{Nodes: nodes}); err == nil {
			t.Errorf("Partition of the nodes %q returned no error", nodes)
		}
	}
}

func TestCrashedNodeDoesNotAnswer(t *testing.T) {
	l := up(t, Options{Name: "labtestdark", Nodes: 2})
	if err := l.CrashNode(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	if out, err := on(t, l, "node1", "ping", "-c1", "-W1", "192.0.2.12"); err == nil {
		t.Errorf("a crashed node answers a ping:\n%s", out)
	}
	if err := l.StartNode(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	if out, err := on(t, l, "node1", "ping", "-c1", "-W10", "192.0.2.12"); err != nil {
		t.Errorf("a node that was started after a crash does not answer a ping: %v\n%s", err, out)
	}
}

func TestTwoLabsRunSideBySide(t *testing.T) {
	a := up(t, Options{Name: "labtesta"})
	b := up(t, Options{Name: "labtestab"}) // the name of the first lab is its prefix
	if err := Down(t.Context(), a.Name); err != nil {
		t.Fatal(err)
	}
	b.awaitDoor(t, "lab "+a.Name+" went down", "200 API of node1")
	if out, err := on(t, b, laptopHost, "ping", "-c1", "-W10", "198.51.100.7"); err != nil {
		t.Errorf("after lab %s went down, a ping in lab %s fails: %v\n%s", a.Name, b.Name, err, out)
	}
	if _, err := Open(a.Name); err == nil {
		t.Error("Open of a lab that is down returned no error")
	}
}

func TestCrashEndsInstances(t *testing.T) {
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
		t.Error("a process of the instance still runs a minute after the crash")
	}
	if _, err := os.Stat(l.arena("node1")); err == nil || netns.Exists(ns) {
		t.Errorf("after the crash, Stat of the arena returns %v, and the namespace exists: %v; want both gone", err, netns.Exists(ns))
	}
	if err := l.StartNode(t.Context(), "node1"); err != nil {
		t.Error(err)
	}
}

func TestEnvMakesShellUseLab(t *testing.T) {
	l := up(t, Options{Name: "labtestenv"})
	env, err := l.Env("mary")
	if err != nil {
		t.Fatal(err)
	}
	// This stands for the machine's aws, later on PATH. It prints its arguments.
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
		t.Errorf("the shell prints %q, error %v; want %q", out, err, want)
	}
	if _, err := l.Env("eve"); err == nil || !strings.Contains(err.Error(), "albert, mary, dev") {
		t.Errorf("Env of an unknown account: error %v, want one that lists albert, mary, dev", err)
	}
	platforms := map[string]string{"598916040194": "classic", "495219933132": "classic", "123456789012": "vpc"}
	for _, a := range l.Accounts {
		if platforms[a.ID] != a.Platform {
			t.Errorf("account %s %s has the platform %q, want %q", a.Name, a.ID, a.Platform, platforms[a.ID])
		}
		delete(platforms, a.ID)
	}
	if len(platforms) > 0 {
		t.Errorf("the lab lacks these accounts, listed with their platforms: %v", platforms)
	}
	st, err := os.Stat(l.path("lab.json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("lab.json has mode %v, error %v; want mode 0600", st.Mode(), err)
	}
}
