package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"palisade/ec2"
	"palisade/internal/controlclient"
	"palisade/internal/node/control"
)

// rotationPoll is how often `palisade cluster rotate` asks for the progress.
const rotationPoll = 200 * time.Millisecond

func newClusterRotate() *cobra.Command {
	var choice nodeChoice
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "rotate gossip|tunnels|secrets|ca",
		Short: "Replace a key of the cluster under traffic",
		Long: `Replace a key of the cluster on every node, without interrupting a connection:
  gossip    the key that encrypts gossip
  tunnels   the keys between each two nodes, which encrypt frames
  secrets   the cluster key; the secrets of all access keys are sealed with a new one
  ca        the certificate authority; every node gets a new certificate

The command shows which nodes are done with each step, and waits. A node that cannot be reached holds the
rotation up: nothing is lost meanwhile, and the rotation goes on when the node is back, or without it when it
is fenced. If you interrupt the command, the cluster goes on by itself; the same command shows the progress
again. Fencing or removing a node does all this by itself; "secrets" and "ca" only if the node was a voter.

While "ca" runs, ca.pem has both authorities. At its end ca.pem has only the new one: a client that has a copy
needs the new file, and join tokens that were made before are void.

Backups made before "rotate secrets" are sealed with the old cluster key: keep a copy of it with them.`,
		Example: `  palisade cluster rotate gossip
  palisade cluster rotate secrets --config node1.toml`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind := ec2.KeyKind(args[0])
			var began control.RotateAnswer
			err := choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Post(cmd.Context(), socket, "/v1/cluster/rotate", control.RotateRequest{Kind: kind}, &began)
			})
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if choice.json {
				out = io.Discard
			}
			if began.Resumed {
				fmt.Fprintf(out, "%s: already being replaced, since index %d\n", kind, began.Index)
			}
			if err := watchRotation(cmd.Context(), out, &choice, kind, wait); err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), began)
			}
			fmt.Fprintf(out, "%s: replaced on every node\n", kind)
			if kind == ec2.Authority {
				fmt.Fprintln(out, "Join tokens that were made before are void: make new ones. Clients with a copy of ca.pem need the new file.")
			}
			return nil
		},
	}
	choice.flags(cmd)
	cmd.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long to wait until all nodes are done")
	return cmd
}

// watchRotation prints the progress of a rotation, a line for each change, until it has ended.
func watchRotation(ctx context.Context, out io.Writer, choice *nodeChoice, kind ec2.KeyKind, wait time.Duration) error {
	for printed, until := "", time.Now().Add(wait); ; {
		var all []control.RotationProgress
		err := choice.ask(ctx, func(socket string) error { return controlclient.Get(ctx, socket, "/v1/cluster/rotations", &all) })
		if err != nil {
			return err
		}
		text := ""
		for _, p := range all {
			if p.Kind == kind {
				text = describeRotation(p)
			}
		}
		if text == "" {
			return nil
		}
		if text != printed {
			fmt.Fprintln(out, text)
			printed = text
		}
		if time.Now().After(until) {
			return fmt.Errorf("not finished after %v; the cluster goes on by itself: %s", wait, text)
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted; the cluster goes on by itself, and the same command shows the progress")
		case <-time.After(rotationPoll):
		}
	}
}

// describeRotation returns the progress of a rotation in one line.
func describeRotation(p control.RotationProgress) string {
	what := map[ec2.RotationStep]string{
		ec2.RotationDue: "make a new key", ec2.RotationSpread: "give the new key to all nodes", ec2.RotationUse: "use the new key",
		ec2.RotationDrop: "show the new certificates to clients",
	}[p.Step]
	var done, waits []string
	for _, n := range p.Nodes {
		if n.Done {
			done = append(done, string(n.Node))
		} else {
			waits = append(waits, string(n.Node)+" ("+n.Why+")")
		}
	}
	text := fmt.Sprintf("%s: %s; done: %s", p.Kind, what, orNone(done))
	if len(waits) > 0 {
		text += "; waits for: " + strings.Join(waits, ", ")
	}
	return text
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
