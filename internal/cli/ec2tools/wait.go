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
	// defaultWait is how long --wait=enforced waits.
	defaultWait = 5 * time.Second

	// maxWait bounds what --wait can be told.
	maxWait = time.Hour

	// askFor is the longest that one call waits at the service, so that one that is
	// lost costs no more.
	askFor = 10 * time.Second

	// askAgain is the pause after a call that failed.
	askAgain = 200 * time.Millisecond
)

func waitFlag(fs *pflag.FlagSet) *string {
	return fs.String("wait", "", "`enforced[:TIMEOUT]` returns when every node goes by the change, or after 5s")
}

// parseWait reads "enforced", "enforced:30s" and "enforced:30".
func parseWait(text string) (time.Duration, error) {
	what, timeout, given := strings.Cut(text, ":")
	if what != "enforced" {
		return 0, usagef("--wait=%s: the one thing to wait for is enforced, as in --wait=enforced:10s", text)
	}
	if !given {
		return defaultWait, nil
	}
	d, err := time.ParseDuration(timeout)
	if seconds, notNumber := strconv.ParseUint(timeout, 10, 16); notNumber == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || d <= 0 || d > maxWait {
		return 0, usagef("--wait=%s: give a time of at most an hour, as in --wait=enforced:10s", text)
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

// waitEnforced returns when every node goes by the newest change of the session, and
// after timeout at the latest. It prints nothing if all do.
func (s *session) waitEnforced(ctx context.Context, timeout time.Duration, stderr io.Writer) error {
	if s.index == "" {
		return errors.New("the change is made; the service gave it no index to wait for")
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
		_, err := client.call(ctx, "DescribeEnforcement", url.Values{"Index": {s.index}, "Timeout": {askSeconds(time.Until(deadline))}}, &e)
		switch refused, ok := errors.AsType[*serviceError](err); {
		case ok && refused.Status < 500:
			return fmt.Errorf("the change is made (index %s); whether it is enforced the service does not tell: %w", s.index, err)
		case err != nil:
			if ctx.Err() == nil {
				failed = err
			}
			pause(ctx, askAgain)
		case e.State == "enforced":
			return nil
		case e.State == "excluded":
			fmt.Fprintf(stderr, "enforced, but for excluded nodes: %s\n", e.who("excluded"))
			return nil
		default:
			last, failed = e, nil
			pause(ctx, 10*time.Millisecond) // the service has done the waiting
		}
	}
	why := "no answer came in time"
	switch {
	case failed != nil:
		why = failed.Error()
	case last.State != "":
		why = last.who("pending")
	}
	return fmt.Errorf("the change is made (index %s), but %s later it is not known to be enforced everywhere: %s", s.index, timeout, why)
}

// askSeconds leaves the answer time to come back.
func askSeconds(left time.Duration) string {
	ask := min(left-min(left/4, 500*time.Millisecond), askFor)
	return strconv.FormatFloat(max(ask, 0).Seconds(), 'f', 3, 64)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// who names the nodes in a state, and why they are.
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
