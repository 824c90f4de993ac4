package ec2tools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

const (
	// defaultWait is the time limit of --wait=enforced.
	defaultWait = 5 * time.Second

	// maxWait bounds the time limit.
	maxWait = time.Hour

	// maxCallWait limits how long the service may hold one call. A call that is lost wastes no
	// more than this time.
	maxCallWait = 10 * time.Second

	// retryPause is the pause after a failed call.
	retryPause = 200 * time.Millisecond
)

func waitFlag(fs *pflag.FlagSet) *string {
	return fs.String("wait", "", "`enforced[:TIMEOUT]` waits until every node enforces the change, by default at most 5s")
}

// parseWait reads "enforced", "enforced:30s" and "enforced:30".
func parseWait(text string) (time.Duration, error) {
	what, timeout, given := strings.Cut(text, ":")
	if what != "enforced" {
		return 0, usagef("--wait=%s: the value must be enforced with an optional time, as in --wait=enforced:10s", text)
	}
	if !given {
		return defaultWait, nil
	}
	d, err := time.ParseDuration(timeout)
	if seconds, notNumber := strconv.ParseUint(timeout, 10, 16); notNumber == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || d <= 0 || d > maxWait {
		return 0, usagef("--wait=%s: the time must be over 0 and at most 1h, as in --wait=enforced:10s", text)
	}
	return d, nil
}

// An enforcement is the answer of DescribeEnforcement.
type enforcement struct {
	State string `xml:"state"`
	Nodes []struct {
		Node   string `xml:"node"`
		State  string `xml:"state"`
		Reason string `xml:"reason"`
	} `xml:"nodeSet>item"`
}

// waitEnforced waits until every node enforces the newest change of the invocation, at most
// for timeout. It prints nothing on success.
func (s *invocation) waitEnforced(ctx context.Context, timeout time.Duration, stderr io.Writer) error {
	if s.index == "" {
		return errors.New("the change is made, but the service returned no index to wait for")
	}
	deadline := time.Now().Add(timeout)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	client, err := s.connect()
	if err != nil {
		return err
	}
	var last enforcement
	var failed error
	for ctx.Err() == nil {
		var e enforcement
		_, err := client.call(ctx, "DescribeEnforcement", url.Values{"Index": {s.index}, "Timeout": {waitSeconds(time.Until(deadline))}}, &e)
		switch refused, ok := errors.AsType[*serviceError](err); {
		case ok && refused.Status < 500:
			return fmt.Errorf("the change is made (index %s), but the service does not tell whether it is enforced: %w", s.index, err)
		case err != nil:
			if ctx.Err() == nil {
				failed = err
			}
			pause(ctx, retryPause)
		case e.State == "enforced":
			return nil
		case e.State == "excluded":
			fmt.Fprintf(stderr, "enforced, except on excluded nodes: %s\n", e.who("excluded"))
			return nil
		default:
			last, failed = e, nil
			pause(ctx, 10*time.Millisecond) // the service has already waited
		}
	}
	why := "no answer came in time"
	switch {
	case failed != nil:
		why = failed.Error()
	case last.State != "":
		why = last.who("pending")
	}
	return fmt.Errorf("the change is made (index %s), but not known to be enforced on all nodes after %s: %s", s.index, timeout, why)
}

// waitSeconds returns the time that the service may wait, which leaves time for the answer
// to arrive.
func waitSeconds(left time.Duration) string {
	ask := min(left-min(left/4, 500*time.Millisecond), maxCallWait)
	return strconv.FormatFloat(max(ask, 0).Seconds(), 'f', 3, 64)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// who returns the names of the nodes in this state, with their reasons.
func (e *enforcement) who(state string) string {
	var list []string
	for _, n := range e.Nodes {
		if n.State != state {
			continue
		}
		if n.Reason != "" {
			n.Node += " (" + n.Reason + ")"
		}
		list = append(list, n.Node)
	}
	return strings.Join(list, ", ")
}
