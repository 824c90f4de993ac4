package world

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"palisade/internal/netns"
	"palisade/internal/process"
)

const (
	prefix    = "pal-bench-"
	filesPath = "/dev/shm/" + prefix
)

// ClearLeftovers removes the processes, namespaces and files of runs that were killed.
func ClearLeftovers(ctx context.Context) error {
	names, err := netns.List(prefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if running(strings.TrimPrefix(name, prefix)) {
			continue
		}
		if err := removeNamespace(ctx, name); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filesPath + "*")
	if err != nil {
		return err
	}
	for _, file := range files {
		if !running(strings.TrimPrefix(file, filesPath)) {
			err = errors.Join(err, os.RemoveAll(file))
		}
	}
	return err
}

// removeNamespace kills the processes in a namespace and removes the namespace.
func removeNamespace(ctx context.Context, name string) error {
	inside, err := netns.Processes(name)
	if err != nil {
		return err
	}
	for _, id := range inside {
		err = errors.Join(err, process.Kill(ctx, id))
	}
	return errors.Join(err, netns.Delete(name))
}

// running reports whether the process whose pid is at the beginning of name is alive.
func running(name string) bool {
	digits, _, _ := strings.Cut(name, "-")
	pid, err := strconv.Atoi(digits)
	if err != nil {
		return true // not made by this package, so it must not be removed
	}
	_, err = process.Of(pid)
	return !errors.Is(err, process.ErrGone)
}
