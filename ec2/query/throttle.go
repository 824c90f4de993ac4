package query

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/limit"
	"palisade/ec2/query/sigv4"
	"palisade/ec2/query/wire"
)

// The rates of EC2 (Amazon EC2 Developer Guide, "Request throttling for the Amazon EC2 API"): each account
// has a token bucket in each region for each action.
var (
	readRate       = limit.Rate{Size: 100, PerSecond: 20}
	unfilteredRate = limit.Rate{Size: 50, PerSecond: 10}
	changeRate     = limit.Rate{Size: 50, PerSecond: 5}
)

// unfiltered are the actions that have a smaller bucket for requests without a filter and without pages.
var unfiltered = map[string]bool{
	"DescribeInstances": true, "DescribeInstanceStatus": true, "DescribeNetworkInterfaces": true, "DescribeSecurityGroups": true,
}

// actionRates are the actions that have their own rate.
var actionRates = map[string]limit.Rate{
	"AssignPrivateIpAddresses":        {Size: 100, PerSecond: 5},
	"CreateDefaultSubnet":             {Size: 1, PerSecond: 1},
	"CreateDefaultVpc":                {Size: 1, PerSecond: 1},
	"CreateNetworkInterface":          {Size: 100, PerSecond: 5},
	"CreateTags":                      {Size: 100, PerSecond: 10},
	"DeleteNetworkInterface":          {Size: 100, PerSecond: 5},
	"DeleteTags":                      {Size: 100, PerSecond: 10},
	"DescribeSecurityGroupReferences": {Size: 20, PerSecond: 5},
	"DescribeStaleSecurityGroups":     {Size: 20, PerSecond: 5},
	"ModifyNetworkInterfaceAttribute": {Size: 100, PerSecond: 5},
	"RunInstances":                    {Size: 5, PerSecond: 2},
	"StartInstances":                  {Size: 5, PerSecond: 2},
	"TerminateInstances":              {Size: 100, PerSecond: 5},
}

// The rates of failed signatures, of one address and of all. Each may cost a round trip to the leader.
var (
	failureRate    = limit.Rate{Size: 20, PerSecond: 5}
	allFailureRate = limit.Rate{Size: 200, PerSecond: 50}
)

const (
	maxBuckets = 65_536
	// throttledWait is how long the answer to a throttled request is held back: a caller that repeats its
	// request at once must not take more of the processors than one that waits.
	throttledWait = 250 * time.Millisecond
	// smallBody is the most that is read of a body, in bytes, before it is known that the request has a
	// signature of the right form and time. Requests of clients are rarely larger.
	smallBody = 64 << 10
)

// limits bound what callers take of the server.
type limits struct {
	rate     float64 // times EC2's rates; 0: no limit
	requests *limit.Buckets
	failures *limit.Buckets
	bodies   *limit.Gate // large bodies that are being read, by the client's address
	checks   *limit.Gate // signatures that are being computed, by the client's address
	work     *limit.Gate // requests that are worked on, by account; not while they wait for the cluster
	changes  *limit.Gate // changes that are being replicated, by account
}

func newLimits(rate float64) limits {
	busy := runtime.GOMAXPROCS(0) + 1
	return limits{
		rate: rate, requests: limit.NewBuckets(maxBuckets), failures: limit.NewBuckets(maxBuckets),
		bodies: limit.NewGate(32, 16), checks: limit.NewGate(busy, busy-1), work: limit.NewGate(busy, busy-1), changes: limit.NewGate(64, 16),
	}
}

// errThrottled is the answer to a request beyond a rate.
func errThrottled() error { return ec2.Errorf("RequestLimitExceeded", "Request limit exceeded.") }

// throttle returns an error if the account of a request makes too many for this action.
func (s *Server) throttle(c *call, action string, p *wire.Param) error {
	if s.limits.rate == 0 {
		return nil
	}
	if _, err := c.service.handler(action); err != nil {
		action = "?" // all unknown names together, because there is no end of them
	}
	rate, own := actionRates[action]
	switch {
	case own:
	case unfiltered[action] && p.Children["Filter"] == nil && p.Children["MaxResults"] == nil && p.Children["NextToken"] == nil:
		rate, action = unfilteredRate, action+" unfiltered"
	case onlyReads(action):
		rate = readRate
	default:
		rate = changeRate
	}
	key := strings.Join([]string{c.service.name, string(c.account), string(c.region), action}, " ")
	if s.limits.requests.Take(key, rate.Times(s.limits.rate), s.cfg.Now()) {
		return nil
	}
	return errThrottled()
}

// mayFail takes a token for a failed signature of a client's address, and reports whether there was one.
func (s *Server) mayFail(source string) bool {
	if s.limits.rate == 0 {
		return true
	}
	now := s.cfg.Now()
	return s.limits.failures.Take(source, failureRate.Times(s.limits.rate), now) &&
		s.limits.failures.Take("all", allFailureRate.Times(s.limits.rate), now)
}

// mayBeLarge returns an error if a request may not have a large body. The signature cannot be checked
// before the body is there, but its form and time can.
func (s *Server) mayBeLarge(r *http.Request) error {
	signature, err := sigv4.Parse(r, nil)
	if err != nil {
		return ec2.Errorf("RequestEntityTooLarge", "A request without a signature may have at most %d bytes", smallBody)
	}
	return signature.CheckTime(s.cfg.Now())
}

// beginWork waits until the call may be worked on.
func (c *call) beginWork() error {
	if err := c.server.limits.work.Enter(c.ctx, string(c.account)); err != nil {
		return err
	}
	c.working = true
	return nil
}

// endWork ends what beginWork began, if it did.
func (c *call) endWork() {
	if c.working {
		c.server.limits.work.Leave(string(c.account))
		c.working = false
	}
}

// pause calls wait, which waits for the cluster, while other calls are worked on.
func (c *call) pause(wait func()) error {
	c.endWork()
	wait()
	return c.beginWork()
}

// heldBack waits before a throttled answer is sent.
func heldBack(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(min(d, throttledWait)) // another node may say how long
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func isThrottled(err error) bool {
	e, ok := errors.AsType[*ec2.Error](err)
	return ok && e.Code == "RequestLimitExceeded"
}
