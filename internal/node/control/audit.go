package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
	"palisade/internal/refusal"
)

const (
	// methodRefused asks a node for the calls that it refused.
	methodRefused = "node.refused"
	// refusedWait bounds the wait for the other nodes' answers.
	refusedWait = 2 * time.Second
	// maxRefused bounds the refusals in one answer, in bytes, because peer bounds messages.
	maxRefused = 6 << 20
)

// AuditLog is the answer of GET /v1/audit.
type AuditLog struct {
	Records []AuditEntry                  `json:"records"` // oldest first
	Counts  map[ec2.NodeID]refusal.Counts `json:"refused"` // of refused calls at each node, also of those that are no longer kept
	Missing []Unasked                     `json:"missing"` // nodes whose refused calls are not in the answer
}

// Unasked is a node that did not answer.
type Unasked struct {
	Node ec2.NodeID `json:"node"`
	Why  string     `json:"why"`
}

// AuditEntry is one record in GET /v1/audit: a change, or a call that a node refused.
type AuditEntry struct {
	Number     uint64            `json:"number"`             // of the change in the cluster, or of the refused call at its node
	Index      uint64            `json:"index,omitempty"`    // of the change, in the log
	Position   uint64            `json:"position,omitempty"` // of the change, in the ring of its account
	Time       time.Time         `json:"time"`
	Account    ec2.AccountID     `json:"account"` // "" for an operator of the cluster
	Name       string            `json:"name"`    // of the account
	AccessKey  string            `json:"access_key"`
	Region     ec2.Region        `json:"region"`
	Source     string            `json:"source"`
	Via        ec2.NodeID        `json:"via,omitempty"` // the node that passed the request on to the leader
	UserAgent  string            `json:"user_agent"`
	RequestID  string            `json:"request_id"`
	Action     string            `json:"action"`
	Parameters map[string]string `json:"parameters"`
	Error      string            `json:"error,omitempty"`
	Message    string            `json:"message,omitempty"`
	RefusedBy  ec2.NodeID        `json:"refused_by,omitempty"` // the node that refused the call and keeps it
}

// An auditFilter chooses records. The zero value chooses all.
type auditFilter struct {
	Account string    // id or name
	Action  string    // in any case of letters
	Since   time.Time // the oldest
}

func readAuditFilter(q url.Values) (f auditFilter, err error) {
	f.Account, f.Action = q.Get("account"), q.Get("action")
	if text := q.Get("since"); text != "" {
		f.Since, err = time.Parse(time.RFC3339, text)
	}
	return f, err
}

func (f auditFilter) admits(view *state.View, at time.Time, call *ec2.Audit) bool {
	if at.Before(f.Since) || f.Action != "" && !strings.EqualFold(f.Action, call.Action) {
		return false
	}
	return f.Account == "" || f.Account == string(call.Account) || f.Account == nameOf(view, call.Account)
}

func nameOf(view *state.View, id ec2.AccountID) string {
	if a, ok := view.Account(id); ok {
		return a.Name
	}
	return ""
}

// auditHandler answers with the changes in the newest state that this node has, and the calls that
// nodes refused, oldest first. The query filters them: account= an id or a name, action=, since= an
// RFC 3339 time. form=cloudtrail answers in the format of AWS CloudTrail.
func (s *Server) auditHandler(w http.ResponseWriter, r *http.Request) {
	filter, err := readAuditFilter(r.URL.Query())
	if err != nil {
		refuse(w, err)
		return
	}
	view := s.Cluster.View()
	log, refused := s.allRefusals(r.Context(), view, filter)
	cloudTrail := r.URL.Query().Get("form") == "cloudtrail"
	events := []query.CloudTrailEvent{}
	for a := range view.AuditRecords() {
		switch {
		case !filter.admits(view, a.Time, &a.Audit):
		case cloudTrail:
			events = append(events, query.NewCloudTrailEvent(view.Seed(), a))
		default:
			log.Records = append(log.Records, auditEntry(view, a))
		}
	}
	for _, n := range refused {
		for i := range n.Refusals {
			x := &n.Refusals[i]
			if cloudTrail {
				events = append(events, query.NewRefusedEvent(view.Seed(), n.Node, x))
				continue
			}
			entry := auditEntry(view, &ec2.AuditRecord{Number: x.Number, Time: x.Time, Audit: x.Audit, Error: x.Error, Message: x.Message})
			entry.RefusedBy = n.Node
			log.Records = append(log.Records, entry)
		}
	}
	if cloudTrail {
		slices.SortStableFunc(events, func(a, b query.CloudTrailEvent) int { return cmp.Compare(a.Time, b.Time) })
		answer(w, map[string]any{"Records": events, "missing": log.Missing})
		return
	}
	slices.SortStableFunc(log.Records, func(a, b AuditEntry) int { return a.Time.Compare(b.Time) })
	answer(w, log)
}

func auditEntry(view *state.View, a *ec2.AuditRecord) AuditEntry {
	return AuditEntry{
		Number: a.Number, Index: a.Index, Position: a.Position, Time: a.Time, Account: a.Account, Name: nameOf(view, a.Account),
		AccessKey: a.AccessKey, Region: a.Region, Source: a.Source, Via: a.Via, UserAgent: a.UserAgent, RequestID: a.RequestID,
		Action: a.Action, Parameters: a.Parameters, Error: a.Error, Message: a.Message,
	}
}

// nodeRefusals is one node's answer to methodRefused.
type nodeRefusals struct {
	Node     ec2.NodeID
	Refusals []refusal.Refusal
	Counts   refusal.Counts
	Omitted  int // refusals that did not fit
}

// allRefusals asks every node for the calls that it refused. The AuditLog has the counts, and the
// nodes that did not answer.
func (s *Server) allRefusals(ctx context.Context, view *state.View, filter auditFilter) (AuditLog, []nodeRefusals) {
	ctx, cancel := context.WithTimeout(ctx, refusedWait)
	defer cancel()
	log := AuditLog{Records: []AuditEntry{}, Counts: map[ec2.NodeID]refusal.Counts{}, Missing: []Unasked{}}
	var mu sync.Mutex
	var all []nodeRefusals
	var wg sync.WaitGroup
	for node := range view.Nodes() {
		wg.Go(func() {
			n, err := s.refusalsOf(ctx, view, node, filter)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				log.Missing = append(log.Missing, Unasked{node.ID, err.Error()})
				return
			}
			if n.Omitted > 0 {
				log.Missing = append(log.Missing, Unasked{node.ID, fmt.Sprintf("its oldest %d refused calls do not fit; choose fewer, for example by --since", n.Omitted)})
			}
			all = append(all, n)
			log.Counts[node.ID] = n.Counts
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b nodeRefusals) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(log.Missing, func(a, b Unasked) int { return cmp.Compare(a.Node, b.Node) })
	return log, all
}

func (s *Server) refusalsOf(ctx context.Context, view *state.View, node *ec2.Node, filter auditFilter) (n nodeRefusals, err error) {
	switch {
	case node.ID == s.Node:
		return s.ownRefusals(view, filter), nil
	case !node.Member():
		return n, errors.New("it is fenced")
	case s.Peer == nil:
		return n, errors.New("this node is a cluster of one and cannot call it")
	}
	body, err := json.Marshal(filter)
	if err != nil {
		return n, err
	}
	reply, err := s.Peer.Call(ctx, string(node.ID), methodRefused, body)
	if err != nil {
		return n, err
	}
	err = json.Unmarshal(reply, &n)
	n.Node = node.ID // whatever the node says
	return n, err
}

func (s *Server) ownRefusals(view *state.View, filter auditFilter) nodeRefusals {
	all, counts := s.Refusals.Refusals()
	all = slices.DeleteFunc(all, func(r refusal.Refusal) bool { return !filter.admits(view, r.Time, &r.Audit) })
	return nodeRefusals{Node: s.Node, Refusals: all, Counts: counts}
}

// handleRefused registers the handler of methodRefused.
func (s *Server) handleRefused() {
	s.Peer.Handle(methodRefused, func(_ context.Context, from string, body []byte) ([]byte, error) {
		view := s.Cluster.View()
		if n, ok := view.Node(ec2.NodeID(from)); !ok || !n.Member() {
			return nil, fmt.Errorf("%s is not a member in the state of %s", from, s.Node)
		}
		var filter auditFilter
		if err := json.Unmarshal(body, &filter); err != nil {
			return nil, err
		}
		n := s.ownRefusals(view, filter)
		for {
			data, err := json.Marshal(n)
			if err != nil || len(data) <= maxRefused {
				return data, err
			}
			drop := len(n.Refusals)/4 + 1
			n.Refusals, n.Omitted = n.Refusals[drop:], n.Omitted+drop
		}
	})
}

// byOperator is the audit record of a command that came in over this node's control socket, which
// only root may use.
func (s *Server) byOperator(action string, parameters map[string]string) *ec2.Audit {
	return &ec2.Audit{
		Source: fmt.Sprintf("control socket of %s", s.Node), UserAgent: "palisade", RequestID: rand.Text(),
		Action: action, Parameters: parameters,
	}
}
