package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// form starts the nodes as one cluster: the first node creates it, then all others join at once,
// each with its own token. A lab of one node needs no cluster.
func (l *Lab) form(ctx context.Context, progress func(string)) error {
	first, others := l.Nodes[0], l.Nodes[1:]
	if len(others) > 0 {
		if _, err := l.palisade(ctx, "cluster", "init", "--config", l.configFile(first)); err != nil {
			return fmt.Errorf("create the cluster: %w", err)
		}
	}
	if err := l.StartNode(ctx, first); err != nil {
		return err
	}
	progress(first + " is ready")

	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards progress
		errs = make([]error, len(others))
	)
	for i, node := range others {
		wg.Go(func() {
			if errs[i] = l.joinNode(ctx, node, l.role(i+1)); errs[i] == nil {
				mu.Lock()
				defer mu.Unlock()
				progress(node + " is ready")
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// role returns the role in which the node with this index joins. Five voters survive the loss of two;
// more voters would make every change slower.
func (l *Lab) role(index int) string {
	voters := 3
	if len(l.Nodes) >= 5 {
		voters = 5
	}
	if index < voters {
		return "voter"
	}
	return "nonvoter"
}

// joinNode starts a node as a new member of the first node's cluster. It passes the token in a
// temporary file that only root can read, because every user can read command lines.
func (l *Lab) joinNode(ctx context.Context, node, role string) error {
	token, err := l.palisade(ctx, "cluster", "token", "--config", l.configFile(l.Nodes[0]), "--role", role)
	if err != nil {
		return fmt.Errorf("join %s: %w", node, err)
	}
	file := l.path(node + ".token")
	defer os.Remove(file)
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return fmt.Errorf("join %s: %w", node, err)
	}
	return l.startNode(ctx, node, "--join", peerAddress(0), "--token", "@"+file)
}

// palisade runs a command of this binary and returns its standard output. If the command fails, the error
// has its standard error.
func (l *Lab) palisade(ctx context.Context, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Args[0] = "palisade"
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("palisade %s: %w: %s", strings.Join(args[:2], " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
