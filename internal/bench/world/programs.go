package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"palisade/internal/netns"
)

// Programs runs commands at endpoints. Start and Serve may be called by several goroutines at
// the same time. The mutex guards servers.
type Programs struct {
	mu      sync.Mutex
	servers []*exec.Cmd
}

// Start starts a command at an endpoint; the caller waits for it.
func (*Programs) Start(at Endpoint, cmd *exec.Cmd) error { return startIn(at.Namespace, cmd) }

// Serve starts a command at an endpoint that listens on a TCP port, and returns when the port
// is open. EndServers ends the command.
func (p *Programs) Serve(ctx context.Context, at Endpoint, port int, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if err := startIn(at.Namespace, cmd); err != nil {
		return err
	}
	p.mu.Lock()
	p.servers = append(p.servers, cmd)
	p.mu.Unlock()
	if err := awaitListener(ctx, cmd.Process.Pid, port); err != nil {
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	return nil
}

// EndServers ends the commands that Serve started.
func (p *Programs) EndServers() {
	p.mu.Lock()
	servers := p.servers
	p.servers = nil
	p.mu.Unlock()
	for _, cmd := range servers {
		_ = cmd.Process.Kill() // an error means that it has ended
		_ = cmd.Wait()         // the error says that it was killed
	}
}

// runBetween starts a program that carries packets or belongs to one that does. Memory counts
// it, and Close ends it after the servers. A nil environment is that of this process.
func (w *World) runBetween(namespace string, environment []string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = environment
	problem := new(lastBytes)
	cmd.Stdout, cmd.Stderr = problem, problem
	stdin, err := cmd.StdinPipe() // vde_switch ends when its standard input is closed
	if err != nil {
		return err
	}
	if err := startIn(namespace, cmd); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the cleanup reports how it ended
		close(ended)
	}()
	w.between = append(w.between, cmd.Process.Pid)
	w.cleanup = append(w.cleanup, func() error {
		select {
		case <-ended:
			return fmt.Errorf("%s ended by itself (%v): %s", argv[0], cmd.ProcessState, problem)
		default:
		}
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		<-ended
		return nil
	})
	return nil
}

// lastBytes is a writer that keeps only the last 2000 bytes.
type lastBytes struct{ b []byte }

func (l *lastBytes) Write(b []byte) (int, error) {
	l.b = append(l.b, b...)
	l.b = l.b[max(0, len(l.b)-2000):]
	return len(b), nil
}

func (l *lastBytes) String() string { return strings.TrimSpace(string(l.b)) }

// startIn starts a command in a namespace. A child inherits the namespace of its thread.
func startIn(namespace string, cmd *exec.Cmd) error {
	if err := netns.Do(namespace, cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}

// tool runs a command in a namespace and returns its output.
func tool(ctx context.Context, namespace, input string, argv ...string) (string, error) {
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &problem
	if err := startIn(namespace, cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}

// awaitListener waits until a TCP port is open in the namespace of a process.
func awaitListener(ctx context.Context, pid, port int) error {
	listening := fmt.Sprintf(":%04X 00000000:0000 0A", port)
	return await(ctx, fmt.Sprintf("a listener on port %d", port), func() (bool, error) {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
		return strings.Contains(string(table), listening), err
	})
}

// await waits until a condition holds.
func await(ctx context.Context, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if ok, err := holds(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// awaitFile waits until a file or socket exists.
func awaitFile(ctx context.Context, path string) error {
	return await(ctx, path, func() (bool, error) {
		_, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	})
}

// awaitLink waits until a device exists in a namespace.
func awaitLink(ctx context.Context, namespace, name string) error {
	return await(ctx, "device "+name, func() (bool, error) {
		err := netns.Do(namespace, func() error {
			_, err := netlink.LinkByName(name)
			return err
		})
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return false, nil
		}
		return err == nil, err
	})
}

// dialTCP makes and closes a connection from the namespace of the caller's thread.
func dialTCP(to netip.AddrPort, within time.Duration) error {
	conn, err := net.DialTimeout("tcp4", to.String(), within)
	if err != nil {
		return err
	}
	return conn.Close()
}
