package query

import (
	"context"
	"net/http"
	"reflect"
	"strconv"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// actions are all that the API knows. Each theme lists its own.
var actions = merged(
	groupActions, ruleActions, instanceActions, keyPairActions, regionActions, enforcementActions,
	vpcActions, subnetActions, gatewayActions, routeActions, addressActions, aclActions, tagActions,
	interfaceActions, instanceAttributeActions, instanceStatusActions, instanceTypeActions, imageActions,
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

// A handler is an Action: parameters in, the answer's struct out. What it takes and
// answers with is known by type, for docs/API.md and for tests.
type handler struct {
	do              func(c *call, p *wire.Param) (any, error)
	request, answer reflect.Type
}

// action makes a handler of a function over structs. A dry run goes as far as the change,
// which c.apply then only tries; so it is refused for whatever the request would be.
func action[Request, Answer any](do func(*call, *Request) (*Answer, error)) handler {
	h := handler{request: reflect.TypeFor[Request](), answer: reflect.TypeFor[Answer]()}
	h.do = func(c *call, p *wire.Param) (any, error) {
		var common struct {
			DryRun bool `wire:"DryRun"`
		}
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

// A call is one authenticated request on its way.
type call struct {
	id      string
	ctx     context.Context
	server  *Server
	service *service
	header  http.Header // of the answer
	view    *state.View // of the moment the request came in
	audit   *ec2.Audit  // of what it changes
	account ec2.AccountID
	region  ec2.Region
	action  string
	version string
	dryRun  bool

	accessKey string
}

// apply carries out a request, or, for a dry run, finds out whether it would succeed.
func (c *call) apply(r state.Request) (state.Result, error) {
	if c.dryRun {
		if err := c.view.Try(r); err != nil {
			return state.Result{}, err
		}
		return state.Result{}, dryRunSucceeded()
	}
	result, index, err := c.server.cfg.Backend.Apply(c.ctx, state.Command{Request: r, Audit: c.audit})
	if index > 0 { // what was refused, or changed nothing, was judged by a state too
		c.header.Set(IndexHeader, strconv.FormatUint(index, 10))
	}
	if err != nil {
		return state.Result{}, err
	}
	// Names and addresses of what was made are in the state after it. Not asked of the
	// leader: the change is made, and no error may say otherwise.
	c.view = c.server.cfg.Backend.View()
	return result, nil
}

func dryRunSucceeded() error {
	return ec2.Errorf("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
}

// returned answers an Action that has nothing to say but that it was done.
type returned struct {
	Return bool `wire:"return"`
}

var done = returned{Return: true}

// arn is the Amazon Resource Name of a resource of EC2.
func arn(region ec2.Region, account ec2.AccountID, kind, id string) string {
	return "arn:aws:ec2:" + string(region) + ":" + string(account) + ":" + kind + "/" + id
}
