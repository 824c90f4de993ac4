// Package node is one node of a cluster, put together: the replicated state, the switch
// that enforces it, the instances behind the switch's ports, and the two sockets through
// which people speak to them.
//
// Node owns every goroutine. plane carries what a View changed into the switch; fleet
// carries it into instances; enforcement keeps the promise that what was enforced once is
// never fallen behind, over restarts too; control answers the operator. Nothing here
// decides about a packet.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"palisade/cluster"
	"palisade/conntrack"
	"palisade/ec2/query"
	vswitch "palisade/switch"
)

// Node is one node. New makes it, Run is its life.
type Node struct {
	config  Config
	log     *slog.Logger
	cluster *cluster.Cluster
	tracker *conntrack.Tracker
	sw      *vswitch.Switch
	plane   *plane
	fleet   *fleet
	api     *query.Server
	ready   atomic.Bool // the first table is in and every instance of this node was looked after
}

// New opens what a node works on. It starts nothing.
func New(c Config, log *slog.Logger) (*Node, error) {
	commands, err := c.bootstrap()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	n := &Node{config: c, log: log}
	n.cluster, err = cluster.New(cluster.Config{
		Node: c.Name, Dir: filepath.Join(c.DataDir, "raft"), Bootstrap: commands, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	if n.tracker, err = conntrack.Open(conntrack.Config{Path: c.Arena}); err != nil {
		return nil, err
	}
	if n.sw, err = vswitch.New(vswitch.Config{Tracker: n.tracker, Logger: log}); err != nil {
		return nil, err
	}
	mark, err := openEnforced(filepath.Join(c.DataDir, "enforced"))
	if err != nil {
		return nil, err
	}
	n.plane = newPlane(c.Name, n.sw, n.tracker, mark, log)
	n.fleet = newFleet(c, n.cluster, n.plane, log)
	if n.api, err = query.New(query.Config{Backend: backend{n}, Logger: log}); err != nil {
		return nil, err
	}
	return n, nil
}

// Run is the node's life. It returns when ctx ends and everything has stopped, or when
// a part of the node cannot go on. Instances live on, with their devices.
func (n *Node) Run(ctx context.Context) error {
	api, err := listen(n.config.APISocket)
	if err != nil {
		return err
	}
	control, err := listen(n.config.ControlSocket)
	if err != nil {
		return errors.Join(err, api.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.cluster.Run(ctx) })
	group.Go(func() error { return n.sw.Run(ctx) })
	group.Go(func() error { return n.runViews(ctx) })
	group.Go(func() error { return n.runSweep(ctx) })
	group.Go(func() error { return n.fleet.run(ctx) })
	group.Go(func() error { return serve(ctx, api, n.api) })
	group.Go(func() error { return serve(ctx, control, n.controlHandler()) })
	err = group.Wait()
	n.plane.close()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, n.tracker.Close())
}

// runViews carries every change of the state into the switch, and tells the fleet.
func (n *Node) runViews(ctx context.Context) error {
	if err := n.plane.openUplink(n.config); err != nil {
		return err
	}
	for first := true; ; first = false {
		view, err := n.cluster.Next(ctx)
		if err != nil {
			return err
		}
		if err := n.plane.apply(view); err != nil {
			return err
		}
		if first {
			if err := n.fleet.adopt(ctx, view); err != nil {
				return err
			}
			if purged := n.tracker.PurgeUnknown(); purged > 0 {
				n.log.Info("forgot connections of leases that are gone", "connections", purged)
			}
			n.ready.Store(true)
			continue
		}
		n.fleet.notice(view)
	}
}

// sweepInterval is how often idle connections are freed. They stop counting as live on
// time whether swept or not.
const sweepInterval = 2 * time.Second

func (n *Node) runSweep(ctx context.Context) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			n.tracker.Sweep(vswitch.Now())
		}
	}
}

// listen opens a Unix socket that only root may use, over what a dead process left.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// serve answers HTTP until ctx ends, and returns when no handler is at work, or after a
// second. Slow and idle clients are cut off: they hold a
// connection, not the node.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	down := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(down)
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-down // Serve returns when the shutdown begins
	return nil
}
