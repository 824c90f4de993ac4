package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// buildVDE builds a vde_switch between two TAP devices that it opens itself, so that no frame
// passes through a vde_plug2tap. VDE has no filter, no offloads and no frames above 1500
// bytes; it shows the cost of a switch in userspace without these.
func buildVDE(ctx context.Context, w *World) error {
	if err := errors.Join(w.make("vde"), w.makeEndpoints()); err != nil {
		return err
	}
	inside := w.namespace("vde")
	if err := os.MkdirAll(w.files(), 0o700); err != nil {
		return err
	}
	control := filepath.Join(w.files(), "switch")
	if err := w.runBetween(inside, nil, "vde_switch", "--sock", control, "--tap", w.client.role, "--tap", w.server.role); err != nil {
		return err
	}
	for _, e := range []Endpoint{w.client, w.server} {
		if err := awaitLink(ctx, inside, e.role); err != nil {
			return err
		}
		if err := moveLink(inside, e.role, e); err != nil {
			return fmt.Errorf("wire the %s: %w", e.role, err)
		}
		if err := w.plug(e); err != nil {
			return err
		}
	}
	version, err := tool(ctx, inside, "", "vde_switch", "--version")
	if err != nil {
		return err
	}
	version, _, _ = strings.Cut(version, "\n")
	w.about = fmt.Sprintf("NO filter, TAP devices without offloads, %s", version)
	return nil
}
