package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/vishvananda/netlink"

	"palisade/internal/netns"
	"palisade/internal/process"
)

// readyTimeout bounds the time from a node's start until it is ready. A node that re-adopts instances
// takes longest.
const readyTimeout = 30 * time.Second

// writeNodeConfig makes the directory of the node with this index, and its configuration file.
func (l *Lab) writeNodeConfig(index int) error {
	node := l.Nodes[index]
	data, err := toml.Marshal(l.nodeConfig(index))
	if err != nil {
		return fmt.Errorf("configure %s: %w", node, err)
	}
	if err := os.MkdirAll(l.path(node), 0o700); err != nil {
		return fmt.Errorf("configure %s: %w", node, err)
	}
	return os.WriteFile(l.configFile(node), data, 0o600)
}

// StartNode starts a node's daemon and waits until it is ready. The supervisor restarts the daemon whenever
// it dies, also before it is ready.
func (l *Lab) StartNode(ctx context.Context, node string) error {
	if err := l.hasNode(node); err != nil {
		return err
	}
	return l.startNode(ctx, node)
}

// startNode is StartNode for a node of the lab. more is appended to the daemon's command line. It is an
// error if the daemon runs already and is ready.
func (l *Lab) startNode(ctx context.Context, node string, more ...string) error {
	// A crash has set the underlay device down.
	if err := l.setUnderlay(node, netlink.LinkSetUp); err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	a, err := l.order(ctx, order{Do: orderStart, Name: node, Binary: binary, Args: more})
	if err != nil {
		return err
	}
	if status, err := l.ask(ctx, node); a.Running && err == nil && status.Ready {
		return fmt.Errorf("%s runs already, as process %d", node, a.Process.PID)
	}
	return l.waitReady(ctx, node, a.Process)
}

// setUnderlay calls set for a node's device on the underlay.
func (l *Lab) setUnderlay(node string, set func(netlink.Link) error) error {
	err := netns.Do(l.namespace(node), func() error {
		link, err := netlink.LinkByName(underlayHost)
		if err != nil {
			return err
		}
		return set(link)
	})
	if err != nil {
		return fmt.Errorf("underlay of %s: %w", node, err)
	}
	return nil
}

// waitReady asks a node until it answers that it is ready. It returns an error if the process ends first,
// or readyTimeout passes.
func (l *Lab) waitReady(ctx context.Context, node string, id process.ID) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	last := errors.New("no answer")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := l.ask(ctx, node)
		switch {
		case err == nil && status.Ready:
			return nil
		case err == nil:
			last = errors.New("the node answers that it is not ready")
		case ctx.Err() == nil:
			last = err
		}
		if !id.Alive() {
			return fmt.Errorf("%s ended while it started; %s", node, l.logTail(node))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %w; %s", node, ctx.Err(), last, l.logTail(node))
		}
	}
}

// startDoor lets the supervisor start the front door.
func (l *Lab) startDoor(ctx context.Context) error {
	binary, err := os.Executable()
	if err == nil {
		_, err = l.order(ctx, order{Do: orderStart, Name: doorName, Binary: binary})
	}
	return err
}

// KillNode kills a node's daemon by SIGKILL; it stays dead until StartNode. Instances and their
// devices stay.
func (l *Lab) KillNode(ctx context.Context, node string) error {
	if err := l.hasNode(node); err != nil {
		return err
	}
	return l.stop(ctx, node)
}

// stop orders the supervisor to kill a daemon and not to restart it.
func (l *Lab) stop(ctx context.Context, name string) error {
	_, err := l.order(ctx, order{Do: orderStop, Name: name})
	return err
}

// CrashNode stops a node as a power cut would: daemon, instances, devices and memory are lost, the
// disk stays. The other nodes receive nothing from it, not even the end of their connections.
func (l *Lab) CrashNode(ctx context.Context, node string) error {
	if err := l.hasNode(node); err != nil {
		return err
	}
	if err := l.setUnderlay(node, netlink.LinkSetDown); err != nil {
		return fmt.Errorf("crash %s: %w", node, err)
	}
	if err := l.stop(ctx, node); err != nil {
		return err
	}
	dirs, err := filepath.Glob(filepath.Join(l.instanceDir(node), "i-*"))
	if err != nil {
		return err
	}
	var namespaces []string
	for _, dir := range dirs {
		namespaces = append(namespaces, l.namespace(filepath.Base(dir)))
	}
	if err := killInside(ctx, namespaces); err != nil {
		return fmt.Errorf("crash %s: %w", node, err)
	}
	for _, ns := range namespaces {
		if err := errors.Join(netns.Delete(ns), l.removeCgroups(ctx, ns)); err != nil {
			return fmt.Errorf("crash %s: %w", node, err)
		}
	}
	err = netns.Do(l.namespace(internetHost), func() error {
		link, err := netlink.LinkByName(uplinkDevice(node))
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			return nil
		}
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	for _, file := range []string{l.arena(node), l.arena(node) + ".owners", l.apiSocket(node), l.controlSocket(node)} {
		err = errors.Join(err, os.RemoveAll(file))
	}
	if err != nil {
		return fmt.Errorf("crash %s: %w", node, err)
	}
	return nil
}

// killInside kills every process in these network namespaces. It repeats this until none is left, because a
// process may have started another before it was killed.
func killInside(ctx context.Context, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for {
		inside, err := netns.Processes(names...)
		if err != nil || len(inside) == 0 {
			return err
		}
		for _, id := range inside {
			if err := process.Kill(ctx, id); err != nil {
				return err
			}
		}
	}
}
