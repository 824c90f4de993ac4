package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"palisade/cluster"
	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/peer"
)

// CutRequest is the body of POST /v1/cut, and the query of GET /v1/cut. It selects the connections
// that a rule admitted, or those that join two ends. An end is the id of an instance, interface or
// group, the name of a group, an IPv4 address, or a range of addresses.
type CutRequest struct {
	Rule ec2.RuleID `json:"rule,omitempty"`
	From string     `json:"from,omitempty"`
	To   string     `json:"to,omitempty"`
}

// CutStatus lists the selected connections of all nodes. After a POST these are the connections that
// are ended.
type CutStatus struct {
	Index       uint64       `json:"index"` // of the decision, in the log; 0 after a GET
	Total       int          `json:"total"` // may be more than Connections has
	Connections []FlowStatus `json:"connections"`
	// Unreached are the nodes that did not answer, or did not confirm the cut. Each carries it out
	// when it reaches the others.
	Unreached []cluster.Pending `json:"unreached"`
}

// methodConnections of another node lists its selected connections. Only voters may call it: what
// passes at a node is the business of no other node.
const methodConnections = "node.connections"

const (
	maxListed  = 5000            // connections of one node in a CutStatus
	listWithin = 3 * time.Second // how long a node may take to list them
)

type connectionsRequest struct {
	Selection ec2.CutSelection `json:"selection"`
	Ended     bool             `json:"ended"` // only those that an operator ended
}

type connectionsAnswer struct {
	Total       int          `json:"total"`
	Connections []FlowStatus `json:"connections"`
}

func (s *Server) answerConnections(_ context.Context, from string, body []byte) ([]byte, error) {
	view := s.Plane.View()
	if view == nil {
		return nil, errors.New("this node enforces no state yet")
	}
	if n, ok := view.Node(ec2.NodeID(from)); !ok || !n.Votes() {
		return nil, fmt.Errorf("%s lists its connections for voters only, and %s is none: ask a voter", s.Node, from)
	}
	var r connectionsRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	return json.Marshal(s.connections(view, r))
}

// connections lists the selected connections of this node.
func (s *Server) connections(view *state.View, r connectionsRequest) connectionsAnswer {
	all := s.flowsOf(view, func(c conntrack.Connection, network ec2.VNI) bool {
		return (c.Cut || !r.Ended) && r.Selection.Selects(network, c.Rule, c.Flow.Src, c.Flow.Dst)
	})
	return connectionsAnswer{len(all), all[:min(len(all), maxListed)]}
}

// cutHandler lists the connections that a POST with the same request would end.
func (s *Server) cutHandler(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	view := s.Cluster.View() // the Plane's may lack a rule or an interface that was just made
	selection, err := selectionOf(view, CutRequest{ec2.RuleID(q.Get("rule")), q.Get("from"), q.Get("to")})
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, s.gatherConnections(r.Context(), view, connectionsRequest{Selection: selection}))
}

// cut ends the selected connections on every node. The decision is an entry of the log, so a node
// that is away carries it out later, and no node can make others believe in it.
func (s *Server) cut(ctx context.Context, r CutRequest) (any, error) {
	view, err := s.Cluster.ReadView(ctx)
	if err != nil {
		return nil, err
	}
	selection, err := selectionOf(view, r)
	if err != nil {
		return nil, err
	}
	what := map[string]string{}
	for name, value := range map[string]string{"Rule": string(r.Rule), "From": r.From, "To": r.To} {
		if value != "" {
			what[name] = value
		}
	}
	request := &state.CutConnections{Rule: r.Rule, From: selection.From, To: selection.To}
	_, index, err := s.Cluster.Apply(ctx, state.Command{Request: request, Audit: s.byOperator("CutConnections", what)})
	if err != nil {
		return nil, err
	}
	unreached, err := s.unreached(ctx, index)
	if err != nil {
		return nil, err
	}
	status := s.gatherConnections(ctx, view, connectionsRequest{Selection: selection, Ended: true})
	status.Index = index
	for _, p := range unreached {
		if !slices.ContainsFunc(status.Unreached, func(q cluster.Pending) bool { return q.Node == p.Node }) {
			status.Unreached = append(status.Unreached, p)
		}
	}
	return status, nil
}

// gatherConnections asks all members of the cluster at the same time.
func (s *Server) gatherConnections(ctx context.Context, view *state.View, r connectionsRequest) CutStatus {
	ctx, cancel := context.WithTimeout(ctx, listWithin)
	defer cancel()
	status := CutStatus{Connections: []FlowStatus{}, Unreached: []cluster.Pending{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n := range view.Nodes() {
		if !n.Member() {
			continue
		}
		wg.Go(func() {
			var a connectionsAnswer
			var err error
			if n.ID == s.Node {
				a = s.connections(view, r)
			} else {
				err = s.call(ctx, n.ID, methodConnections, r, &a)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				status.Unreached = append(status.Unreached, cluster.Pending{Node: n.ID, Why: whyUnreached(err)})
			}
			status.Total += a.Total
			status.Connections = append(status.Connections, a.Connections...)
		})
	}
	wg.Wait()
	slices.SortStableFunc(status.Connections, func(a, b FlowStatus) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(status.Unreached, func(a, b cluster.Pending) int { return cmp.Compare(a.Node, b.Node) })
	return status
}

// whyUnreached returns the reason that another node gave, or that it does not answer.
func whyUnreached(err error) string {
	if e, ok := errors.AsType[*peer.RemoteError](err); ok {
		return "answers: " + e.Text
	}
	return "does not answer"
}

// selectionOf returns what a request selects in a View.
func selectionOf(view *state.View, r CutRequest) (s ec2.CutSelection, err error) {
	switch {
	case r.Rule != "" && (r.From != "" || r.To != ""):
		return s, errors.New("name either a rule or two ends")
	case r.Rule != "":
		s.Serials, err = view.RuleSerials(r.Rule)
		return s, err
	case r.From == "" || r.To == "":
		return s, errors.New("name a rule, or two ends: from and to")
	}
	if s.From, err = endsOf(view, r.From); err != nil {
		return s, err
	}
	s.To, err = endsOf(view, r.To)
	return s, err
}

// endsOf returns the addresses of one end. A connection may show an interface by its private address
// or, to hosts outside its network, by its public one, so both are in the list.
func endsOf(view *state.View, who string) ([]ec2.End, error) {
	prefix, err := ec2.ParseCIDR(who)
	if a, bad := netip.ParseAddr(who); bad == nil && a.Is4() {
		prefix, err = netip.PrefixFrom(a, 32), nil
	}
	if err == nil {
		ends := []ec2.End{{Prefix: prefix}}
		for eni := range view.Interfaces() {
			for _, p := range eni.Addresses() {
				if p.Public.IsValid() && prefix.Contains(p.Public) && !prefix.Contains(p.Private) {
					ends = append(ends, ec2.End{VNI: eni.VNI, Prefix: netip.PrefixFrom(p.Private, 32)})
				}
			}
		}
		return ends, nil
	}
	in, err := holdersOf(view, who)
	if err != nil {
		return nil, err
	}
	var ends []ec2.End
	for eni := range view.Interfaces() {
		if eni.State == ec2.Idle || !in(eni) {
			continue
		}
		for _, p := range eni.Addresses() {
			ends = append(ends, ec2.End{VNI: eni.VNI, Prefix: netip.PrefixFrom(p.Private, 32)})
			if p.Public.IsValid() {
				ends = append(ends, ec2.End{Prefix: netip.PrefixFrom(p.Public, 32)})
			}
		}
	}
	if len(ends) == 0 {
		return nil, fmt.Errorf("%s has no interface with an address", who)
	}
	return ends, nil
}

// holdersOf returns a function that reports whether an interface belongs to an instance, is the
// interface of that id, or is in a group.
func holdersOf(view *state.View, who string) (func(*ec2.Interface) bool, error) {
	if _, ok := view.Instance(ec2.InstanceID(who)); ok {
		return func(eni *ec2.Interface) bool { return string(eni.Instance) == who }, nil
	}
	if _, ok := view.Interface(ec2.InterfaceID(who)); ok {
		return func(eni *ec2.Interface) bool { return string(eni.ID) == who }, nil
	}
	var found []string
	for g := range view.Groups() {
		if string(g.ID) == who || g.Name == who {
			found = append(found, string(g.ID))
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%q is neither the id of an instance, interface or group, nor the name of a group, nor an IPv4 address or range", ec2.Clip(who))
	case 1:
		return func(eni *ec2.Interface) bool { return slices.Contains(eni.Groups, ec2.GroupID(found[0])) }, nil
	}
	return nil, fmt.Errorf("there are %d groups named %q: give one of the ids %s", len(found), ec2.Clip(who), strings.Join(found[:min(len(found), 10)], ", "))
}
