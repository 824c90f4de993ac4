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
	"palisade/internal/controlclient"
	"palisade/internal/node"
)

const configText = `name = "node1"
zone = "us-east-1a"
region = "us-east-1"
data_dir = "%[1]s"
api_socket = "%[1]s/api.sock"
control_socket = "%[1]s/control.sock"
arena = "%[1]s/arena"

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
	if err := os.WriteFile(path, fmt.Appendf(nil, configText, dir), 0o600); err != nil {
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
			t.Errorf("the node: %v", err)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		var s node.Status
		if err := controlclient.Get(t.Context(), c.ControlSocket, "/v1/status", &s); err == nil && s.Ready {
			return path
		}
		if time.Now().After(deadline) {
			t.Fatal("the node is not ready after a minute")
		}
		<-time.After(5 * time.Millisecond)
	}
}

// run runs a command line and returns what it prints.
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

func TestAccountsAndTheirKeys(t *testing.T) {
	config := startNode(t)
	must := func(args ...string) string {
		t.Helper()
		out, err := run(t, append(args, "--config", config)...)
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		return out
	}
	fails := func(text string, args ...string) {
		t.Helper()
		if out, err := run(t, append(args, "--config", config)...); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v, want an error with %q\n%s", args, err, text, out)
		}
	}

	carol := must("account", "create", "--name", "carol")
	env := regexp.MustCompile(`^# carol: account ([1-9]\d{11}) \(vpc\)\nexport AWS_ACCESS_KEY_ID=(AKIA[A-Z2-7]{16})\nexport AWS_SECRET_ACCESS_KEY=(\S{40})\nexport AWS_DEFAULT_REGION=us-east-1\n$`)
	keys := env.FindStringSubmatch(carol)
	if keys == nil {
		t.Fatalf("create prints\n%s", carol)
	}
	var class []node.NewKey
	if err := json.Unmarshal([]byte(must("account", "create", "--count", "30", "--prefix", "student", "--platform", "classic", "--json")), &class); err != nil {
		t.Fatal(err)
	}
	if len(class) != 30 || class[0].Name != "student01" || class[29].Name != "student30" || class[29].Platform != ec2.Classic || class[0].Account == class[1].Account {
		t.Errorf("a class is %+v", class)
	}
	must("account", "create", "--name", "dora", "--id", "123456789012")

	fails("EntityAlreadyExists", "account", "create", "--name", "carol")
	fails("EntityAlreadyExists", "account", "create", "--name", "other", "--id", "123456789012")
	fails("EntityAlreadyExists", "account", "create", "--count", "2", "--prefix", "student")
	fails("12 digits", "account", "create", "--name", "x", "--id", "12")
	fails("no name for an account", "account", "create", "--name", "a b")
	fails("up to 500", "account", "create", "--count", "501", "--prefix", "s")
	for _, args := range [][]string{
		{"account", "create"}, {"account", "create", "--name", "x", "--count", "2"}, {"account", "create", "--count", "2"},
		{"account", "create", "--name", "x", "--prefix", "y"}, {"account", "create", "--name", "x", "--platform", "ipv6"},
		{"account", "keys", "delete", "carol"}, {"account", "keys", "add"}, {"account", "list", "carol"},
	} {
		if got := Main(append([]string{"palisade"}, append(args, "--config", config)...)); got != 2 {
			t.Errorf("%q exits with %d, want 2", args, got)
		}
	}

	added := must("account", "keys", "add", "carol")
	second := regexp.MustCompile(`AWS_ACCESS_KEY_ID=(\S+)`).FindStringSubmatch(added)[1]
	fails("LimitExceeded", "account", "keys", "add", "carol")
	fails("no account", "account", "keys", "add", "nobody")
	fails("no account", "account", "keys", "list", "nobody")
	fails("NoSuchEntity", "account", "keys", "delete", "dora", second)
	must("account", "keys", "deactivate", "carol", keys[2])
	must("account", "keys", "deactivate", "carol", second)
	must("account", "keys", "activate", keys[1], second)
	if got := must("account", "keys", "list", "carol"); !regexp.MustCompile(keys[2]+` +inactive +sealed`).MatchString(got) || !regexp.MustCompile(second+` +active +sealed`).MatchString(got) {
		t.Errorf("carol's keys are\n%s", got)
	}
	must("account", "keys", "delete", "carol", keys[2])
	list := must("account", "list")
	if !regexp.MustCompile(`(?m)^carol +`+keys[1]+` +vpc +`+second+`$`).MatchString(list) || !strings.Contains(list, "albert") || strings.Count(list, "\n") != 34 {
		t.Errorf("the accounts are\n%s", list)
	}

	audit := must("audit")
	for _, want := range []string{
		`operator +control socket of node1 +CreateAccount +done +Count=30 Name=student01 Platform=classic`,
		`operator +control socket of node1 +CreateAccount +EntityAlreadyExists +Count=1 Name=carol Platform=vpc`,
		`operator +control socket of node1 +UpdateAccessKey +done +AccessKey=` + second + ` Account=` + keys[1] + ` Do=activate`,
	} {
		if !regexp.MustCompile(want).MatchString(audit) {
			t.Errorf("the audit trail lacks %s:\n%s", want, audit)
		}
	}
	everything := audit + must("audit", "--json") + must("audit", "--cloudtrail") + list
	for _, secret := range []string{keys[3], class[7].SecretKey} {
		if strings.Contains(everything, secret) {
			t.Error("a secret was told twice")
		}
	}
	if got := must("audit", "--since", "1h", "--action", "deleteaccesskey"); strings.Count(got, "\n") != 3 {
		t.Errorf("keys were deleted\n%s", got)
	}
	if got := must("audit", "--since", "2099-01-01"); strings.Count(got, "\n") != 1 {
		t.Errorf("from the future:\n%s", got)
	}
	if got := Main([]string{"palisade", "audit", "--since", "yesterday", "--config", config}); got != 2 {
		t.Errorf("since yesterday exits with %d", got)
	}

	backup := filepath.Join(t.TempDir(), "backup")
	saved := must("cluster", "snapshot", "save", backup)
	inspected, err := run(t, "cluster", "snapshot", "inspect", backup)
	if err != nil || !strings.Contains(saved, "sealed under cluster key") || !strings.Contains(inspected, "keep a copy of that elsewhere") {
		t.Errorf("%v; save says\n%s\ninspect says\n%s", err, saved, inspected)
	}
}
