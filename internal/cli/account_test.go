package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/controlclient"
	"palisade/internal/node"
	"palisade/internal/node/control"
)

const configText = `name = "node1"
zone = "us-east-1a"
region = "us-east-1"
data_dir = "%[1]s"
api_socket = "%[1]s/api.sock"
control_socket = "%[1]s/control.sock"
arena = "%[2]s/arena"

[classic]
network = "10.0.0.0/8"
pools = ["10.10.0.0/16"]
public_pools = ["198.18.0.0/16"]

[[account]]
id = "598916040194"
name = "albert"
platform = "classic"
access_key = "AKIDALBERT"
secret_key = "secret"
`

// startNode runs a node without uplink or images, which needs no root, and returns its
// configuration file.
func startNode(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "node1.toml")
	if err := os.WriteFile(path, fmt.Appendf(nil, configText, dir, bootfiletest.Dir(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := node.ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with error %v", err)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		var s control.Status
		if err := controlclient.Get(t.Context(), c.ControlSocket, "/v1/status", &s); err == nil && s.Ready {
			return path
		}
		if time.Now().After(deadline) {
			t.Fatal("the node is not ready after a minute")
		}
		<-time.After(5 * time.Millisecond)
	}
}

// run runs a palisade command and returns its output and its error.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// A nodeCommand runs palisade commands against one node.
type nodeCommand struct {
	*testing.T
	config string
}

func (c nodeCommand) must(args ...string) string {
	c.Helper()
	out, err := run(c.T, append(args, "--config", c.config)...)
	if err != nil {
		c.Fatalf("%q: %v", args, err)
	}
	return out
}

// fails runs a command, which must return an error that contains text.
func (c nodeCommand) fails(text string, args ...string) {
	c.Helper()
	if out, err := run(c.T, append(args, "--config", c.config)...); err == nil || !strings.Contains(err.Error(), text) {
		c.Errorf("%q: error %v, want one that contains %q; output\n%s", args, err, text, out)
	}
}

// exits runs a command through Main, which must return this exit status.
func (c nodeCommand) exits(status int, args ...string) {
	c.Helper()
	if got := Main(append([]string{"palisade"}, append(args, "--config", c.config)...)); got != status {
		c.Errorf("%q exits with %d, want %d", args, got, status)
	}
}

// printed matches the output of `account create --name carol`. Its groups are the account id,
// access key and secret key.
var printed = regexp.MustCompile(`^# carol: account ([1-9]\d{11}) \(vpc\)\nexport AWS_ACCESS_KEY_ID=(AKIA[A-Z2-7]{16})\nexport AWS_SECRET_ACCESS_KEY=(\S{40})\nexport AWS_DEFAULT_REGION=us-east-1\n$`)

func TestAccountCommandsManageKeysAndHideSecrets(t *testing.T) {
	c := nodeCommand{t, startNode(t)}
	created := c.must("account", "create", "--name", "carol")
	carol := printed.FindStringSubmatch(created)
	if carol == nil {
		t.Fatalf("account create prints\n%s\nwant a match of %s", created, printed)
	}
	students := createStudents(c)
	c.must("account", "create", "--name", "dora", "--id", "123456789012")
	refuseBadAccounts(c)

	second := changeKeys(c, carol)
	list := c.must("account", "list")
	if !regexp.MustCompile(`(?m)^carol +`+carol[1]+` +vpc +`+second+`$`).MatchString(list) || !strings.Contains(list, "albert") || strings.Count(list, "\n") != 34 {
		t.Errorf("account list prints\n%s\nwant 34 lines, with albert and with carol, whose only key is %s", list, second)
	}
	checkAudit(c, carol[1], second)
	everything := list + c.must("audit") + c.must("audit", "--json") + c.must("audit", "--cloudtrail")
	for _, secret := range []string{carol[3], students[7].SecretKey} {
		if strings.Contains(everything, secret) {
			t.Error("a secret was printed a second time")
		}
	}

	backup := filepath.Join(t.TempDir(), "backup")
	saved := c.must("cluster", "snapshot", "save", backup)
	inspected, err := run(t, "cluster", "snapshot", "inspect", backup)
	if err != nil || !strings.Contains(saved, "sealed under cluster key") || !strings.Contains(inspected, "keep a copy of it in another place") {
		t.Errorf("snapshot save prints\n%s\nsnapshot inspect prints\n%s\nand returns error %v; want both to mention the cluster key", saved, inspected, err)
	}
}

func createStudents(c nodeCommand) (students []control.NewKey) {
	c.Helper()
	out := c.must("account", "create", "--count", "30", "--prefix", "student", "--platform", "classic", "--json")
	if err := json.Unmarshal([]byte(out), &students); err != nil {
		c.Fatal(err)
	}
	if len(students) != 30 || students[0].Name != "student01" || students[29].Name != "student30" || students[29].Platform != ec2.Classic || students[0].Account == students[1].Account {
		c.Errorf("account create --count 30 prints %+v, want student01 to student30 on EC2-Classic with different ids", students)
	}
	return students
}

func refuseBadAccounts(c nodeCommand) {
	c.Helper()
	c.fails("EntityAlreadyExists", "account", "create", "--name", "carol")
	c.fails("EntityAlreadyExists", "account", "create", "--name", "other", "--id", "123456789012")
	c.fails("EntityAlreadyExists", "account", "create", "--count", "2", "--prefix", "student")
	c.fails("12 digits", "account", "create", "--name", "x", "--id", "12")
	c.fails("not a valid account name", "account", "create", "--name", "a b")
	c.fails("up to 500", "account", "create", "--count", "501", "--prefix", "s")
	for _, args := range [][]string{
		{"account", "create"}, {"account", "create", "--name", "x", "--count", "2"}, {"account", "create", "--count", "2"},
		{"account", "create", "--name", "x", "--prefix", "y"}, {"account", "create", "--name", "x", "--platform", "ipv6"},
		{"account", "keys", "delete", "carol"}, {"account", "keys", "add"}, {"account", "list", "carol"},
	} {
		c.exits(2, args...)
	}
}

// changeKeys adds a second access key to carol's account and deletes the first key. It returns
// the id of the second.
func changeKeys(c nodeCommand, carol []string) string {
	c.Helper()
	added := c.must("account", "keys", "add", "carol")
	second := regexp.MustCompile(`AWS_ACCESS_KEY_ID=(\S+)`).FindStringSubmatch(added)[1]
	c.fails("LimitExceeded", "account", "keys", "add", "carol")
	c.fails("no account", "account", "keys", "add", "nobody")
	c.fails("no account", "account", "keys", "list", "nobody")
	c.fails("NoSuchEntity", "account", "keys", "delete", "dora", second)
	c.must("account", "keys", "deactivate", "carol", carol[2])
	c.must("account", "keys", "deactivate", "carol", second)
	c.must("account", "keys", "activate", carol[1], second)
	if got := c.must("account", "keys", "list", "carol"); !regexp.MustCompile(carol[2]+` +inactive +sealed`).MatchString(got) || !regexp.MustCompile(second+` +active +sealed`).MatchString(got) {
		c.Errorf("account keys list carol prints\n%s\nwant %s inactive and %s active, both sealed", got, carol[2], second)
	}
	c.must("account", "keys", "delete", "carol", carol[2])
	return second
}

func checkAudit(c nodeCommand, account, key string) {
	c.Helper()
	audit := c.must("audit")
	for _, want := range []string{
		`operator +control socket of node1 +CreateAccount +done +Count=30 Name=student01 Platform=classic`,
		`operator +control socket of node1 +CreateAccount +EntityAlreadyExists \(node1\) +Count=1 Name=carol Platform=vpc`,
		`operator +control socket of node1 +UpdateAccessKey +done +AccessKey=` + key + ` Account=` + account + ` Do=activate`,
	} {
		if !regexp.MustCompile(want).MatchString(audit) {
			c.Errorf("no line of the audit trail matches %s:\n%s", want, audit)
		}
	}
	if got := c.must("audit", "--since", "1h", "--action", "deleteaccesskey"); strings.Count(got, "\n") != 3 {
		c.Errorf("audit --action deleteaccesskey prints\n%s\nwant the heading and 2 records", got)
	}
	if got := c.must("audit", "--since", "2099-01-01"); strings.Count(got, "\n") != 1 {
		c.Errorf("audit --since 2099-01-01 prints\n%s\nwant only the heading", got)
	}
	c.exits(2, "audit", "--since", "yesterday")
}
