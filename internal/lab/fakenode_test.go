package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// TestMain lets the test binary act as palisade, because a lab starts its own binary for its daemons. The
// node is a fake that answers on both sockets: these tests check what a lab makes and removes, also when
// a node does not start. The tests of package scenarios run labs with real nodes.
func TestMain(m *testing.M) {
	if os.Args[0] == "palisade" {
		os.Exit(fakeBinary(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fakeBinary runs the commands of `palisade` that a lab uses, and returns the exit status.
func fakeBinary(args []string) int {
	var err error
	switch {
	case args[0] == "lab" && args[1] == "up":
		o := Options{Name: args[2], Nodes: 2}
		fmt.Sscan(args[3], &o.Port)
		_, err = Up(context.Background(), o)
	case args[0] == "lab" && args[1] == "supervise":
		err = Supervise(context.Background(), args[3])
	case args[0] == "lab":
		err = ServeDoor(context.Background(), args[3])
	default:
		return fakeNodeCommand(args)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// fakeNodeCommand runs `palisade cluster` or `palisade node` and returns the exit status.
func fakeNodeCommand(args []string) int {
	var c nodeConfig
	data, err := os.ReadFile(args[slices.Index(args, "--config")+1])
	if err == nil {
		err = toml.Unmarshal(data, &c)
	}
	if err == nil && args[0] == "cluster" {
		if err = fakeCluster(c, args); err == nil {
			return 0
		}
	}
	if err == nil {
		err = fakeJoin(c, args)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err := os.Stat(outcast(c.DataDir)); err == nil {
		fmt.Println("this node is fenced")
		return OutcastStatus
	}
	if slices.Contains(c.Classic.Pools, failingPool) {
		fmt.Println("this node does not accept its pool")
		return 1
	}
	fmt.Println(serveFakeNode(c))
	return 1
}

// serveFakeNode answers on the sockets of a node. It returns only if it fails.
func serveFakeNode(c nodeConfig) error {
	os.Remove(c.APISocket)
	os.Remove(c.ControlSocket)
	api, err1 := net.Listen("unix", c.APISocket)
	control, err2 := net.Listen("unix", c.ControlSocket)
	if err := errors.Join(err1, err2, os.WriteFile(c.Arena, nil, 0o600)); err != nil {
		return err
	}
	go http.Serve(api, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "API of %s", c.Name)
	}))
	return http.Serve(control, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
}

// leaderless returns the path of a file. While it exists, the fake node answers that it knows no leader.
func leaderless(dataDir string) string { return filepath.Join(dataDir, "leaderless") }

// outcast returns the path of a file. While it exists, the fake node ends like a fenced node.
func outcast(dataDir string) string { return filepath.Join(dataDir, "outcast") }

// fakeCluster runs `palisade cluster init` or `palisade cluster token`, which prints the same token for all
// nodes of a role.
func fakeCluster(c nodeConfig, args []string) error {
	switch begun := filepath.Join(c.DataDir, "peer"); args[1] {
	case "init":
		if c.Peer == nil || c.Peer.Listen != "192.0.2.11:7400" {
			return fmt.Errorf("cluster init of a node with the [peer] section %+v, want one that listens on 192.0.2.11:7400", c.Peer)
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

// fakeJoin makes the node a member of the cluster, unless it is one already or is the only node.
func fakeJoin(c nodeConfig, args []string) error {
	member := filepath.Join(c.DataDir, "peer")
	if _, err := os.Stat(member); c.Peer == nil || err == nil {
		return nil
	}
	join, token := slices.Index(args, "--join"), slices.Index(args, "--token")
	if join < 0 || args[join+1] != "192.0.2.11:7400" {
		return fmt.Errorf("a node that is no member yet was started with %q, want --join 192.0.2.11:7400", args)
	}
	file, ok := strings.CutPrefix(args[token+1], "@")
	if !ok {
		return fmt.Errorf("the token is on the command line: %q", args)
	}
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	if st.Mode().Perm() != 0o600 {
		return fmt.Errorf("the token's file has mode %v, want 0600", st.Mode())
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

// failingPool is the address pool with which the fake node does not start.
var failingPool = netip.MustParsePrefix("10.66.0.0/16")
