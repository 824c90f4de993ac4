package control

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"

	"palisade/ec2"
	"palisade/ec2/query"
)

// AuditEntry is one record in GET /v1/audit.
type AuditEntry struct {
	Number     uint64            `json:"number"`
	Index      uint64            `json:"index"` // of the change, in the log
	Time       time.Time         `json:"time"`
	Account    ec2.AccountID     `json:"account"` // "" for an operator of the cluster
	Name       string            `json:"name"`    // of the account
	AccessKey  string            `json:"access_key"`
	Region     ec2.Region        `json:"region"`
	Source     string            `json:"source"`
	UserAgent  string            `json:"user_agent"`
	RequestID  string            `json:"request_id"`
	Action     string            `json:"action"`
	Parameters map[string]string `json:"parameters"`
	Error      string            `json:"error,omitempty"`
	Message    string            `json:"message,omitempty"`
}

// auditHandler answers with the audit records in the newest state that this node has, oldest first.
// The query filters them: account= an id or a name, action=, since= an RFC 3339 time.
// form=cloudtrail answers in the format of AWS CloudTrail.
func (s *Server) auditHandler(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var since time.Time
	if text := q.Get("since"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, text); err != nil {
			refuse(w, err)
			return
		}
	}
	view := s.Cluster.View()
	names := map[ec2.AccountID]string{}
	for a := range view.Accounts() {
		names[a.ID] = a.Name
	}
	entries, events := []AuditEntry{}, []query.CloudTrailEvent{}
	for a := range view.AuditRecords() {
		account := q.Get("account")
		switch {
		case a.Time.Before(since):
		case account != "" && account != string(a.Account) && account != names[a.Account]:
		case q.Get("action") != "" && !strings.EqualFold(q.Get("action"), a.Action):
		case q.Get("form") == "cloudtrail":
			events = append(events, query.NewCloudTrailEvent(view.Seed(), a))
		default:
			entries = append(entries, AuditEntry{
				a.Number, a.Index, a.Time, a.Account, names[a.Account], a.AccessKey, a.Region, a.Source, a.UserAgent, a.RequestID,
				a.Action, a.Parameters, a.Error, a.Message,
			})
		}
	}
	if q.Get("form") == "cloudtrail" {
		answer(w, map[string]any{"Records": events})
		return
	}
	answer(w, entries)
}

// byOperator is the audit record of a command that came in over this node's control socket, which
// only root may use.
func (s *Server) byOperator(action string, parameters map[string]string) *ec2.Audit {
	return &ec2.Audit{
		Source: fmt.Sprintf("control socket of %s", s.Node), UserAgent: "palisade", RequestID: rand.Text(),
		Action: action, Parameters: parameters,
	}
}
