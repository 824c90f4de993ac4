package query

import (
	"cmp"
	"context"
	"net/http"
	"reflect"
	"strconv"

	"palisade/ec2"
	"palisade/ec2/query/sigv4"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// actions has every Action of EC2 that is served. The file of each theme lists its Actions.
var actions = merged(
	groupActions, ruleActions, instanceActions, keyPairActions, regionActions, enforcementActions,
	vpcActions, subnetActions, gatewayActions, routeActions, addressActions, aclActions, tagActions,
	interfaceActions, instanceAttributeActions, instanceStatusActions, instanceTypeActions, imageActions, volumeActions,
	accountSettingActions, instanceConsoleActions, instanceImageActions, classicLinkActions,
	instanceOptionActions, placementActions, templateActions, dhcpActions, natActions, peeringActions, prefixListActions,
)

func merged(themes ...map[string]handler) map[string]handler {
	all := make(map[string]handler)
	for _, theme := range themes {
		for name, h := range theme {
			if _, twice := all[name]; twice {
				panic("query: two themes have " + name)
			}
			all[name] = h
		}
	}
	return all
}

// A handler carries out one Action: it decodes the parameters and returns the struct of the
// answer. The types of request and answer are for docs/API.md and for tests.
type handler struct {
	do              func(c *call, p *wire.Param) (any, error)
	request, answer reflect.Type
}

// action returns the handler that decodes a Request, calls do and returns its Answer. A dry
// run calls do too, but then c.apply only tries the change, so that the caller gets every
// error that the request itself would get.
func action[Request, Answer any](do func(*call, *Request) (*Answer, error)) handler {
	h := handler{request: reflect.TypeFor[Request](), answer: reflect.TypeFor[Answer]()}
	h.do = func(c *call, p *wire.Param) (any, error) {
		var common struct {
			DryRun bool `wire:"DryRun"`
		}
		c.params = p
		if err := wire.Decode(p, &common); err != nil {
			return nil, err
		}
		request := new(Request)
		if err := wire.Decode(p, request); err != nil {
			return nil, err
		}
		if err := c.refuseUnread(p); err != nil {
			return nil, err
		}
		c.dryRun = common.DryRun
		answer, err := do(c, request)
		if err == nil && c.dryRun {
			err = dryRunSucceeded()
		}
		if err != nil {
			return nil, err
		}
		return answer, nil
	}
	return h
}

// A call is one authenticated request while it is answered. One goroutine uses it.
type call struct {
	id      string
	ctx     context.Context
	server  *Server
	service *service
	header  http.Header // of the answer
	view    *state.View // the state that the request sees; after apply, one with its change
	audit   *ec2.Audit  // nil for an action that only reads
	account ec2.AccountID
	region  ec2.Region
	action  string
	params  *wire.Param
	version string
	dryRun  bool

	accessKey string
	signature *state.Signature
	applied   int // commands that were proposed
	signed    *sigv4.Signature
	fresh     bool       // view has every acknowledged change already
	working   bool       // between beginWork and endWork
	via       ec2.NodeID // the node that passed the request on; "" if this node received it
}

// apply carries out a request and returns its result. For a dry run it changes nothing and
// returns the error that the request would get, or DryRunOperation.
func (c *call) apply(r state.Request) (state.Result, error) {
	if c.dryRun {
		if err := c.view.Try(r); err != nil {
			return state.Result{}, err
		}
		return state.Result{}, dryRunSucceeded()
	}
	cmd := state.Command{Request: r, Audit: c.audit}
	if c.applied == 0 { // so that the next command of the same call is no replay
		cmd.Signature = c.signature
	}
	c.applied++
	result, index, err := c.replicate(cmd)
	if index > 0 { // also if the request was refused or changed nothing
		c.header.Set(IndexHeader, strconv.FormatUint(index, 10))
	}
	if err != nil {
		return state.Result{}, err
	}
	// The answer shows names and addresses from the state after the change. This node's
	// state has them. The leader is not asked, because it could fail to answer, and the
	// caller would take the change for refused.
	c.view = c.server.cfg.Backend.View()
	return result, nil
}

// replicate carries out a command. An account has a bounded number of commands under way, so that another
// one's do not wait behind them.
func (c *call) replicate(cmd state.Command) (result state.Result, index uint64, err error) {
	changes, account := c.server.limits.changes, string(c.account)
	late := c.pause(func() {
		if err = changes.Enter(c.ctx, account); err != nil {
			return
		}
		defer changes.Leave(account)
		result, index, err = c.server.cfg.Backend.Apply(c.ctx, cmd)
	})
	return result, index, cmp.Or(err, late)
}

func dryRunSucceeded() error {
	return ec2.Errorf("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
}

// returned is the answer of an Action that only confirms its success.
type returned struct {
	Return bool `wire:"return"`
}

var done = returned{Return: true}

// arn is the Amazon Resource Name of a resource of EC2.
func arn(region ec2.Region, account ec2.AccountID, kind, id string) string {
	return "arn:aws:ec2:" + string(region) + ":" + string(account) + ":" + kind + "/" + id
}
