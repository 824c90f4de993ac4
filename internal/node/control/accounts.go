package control

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/secret"
)

// AccountRequest is the body of POST /v1/accounts. It creates one account with a Name, or Count
// accounts named Prefix01, Prefix02 and so on; all or none.
type AccountRequest struct {
	ID       ec2.AccountID `json:"id"` // "": an unused id is chosen
	Name     string        `json:"name"`
	Platform ec2.Platform  `json:"platform"`
	Count    int           `json:"count"`
	Prefix   string        `json:"prefix"`
}

// NewKey is an access key with its secret, which no later answer contains.
type NewKey struct {
	Account   ec2.AccountID `json:"account"`
	Name      string        `json:"name"`
	Platform  ec2.Platform  `json:"platform"`
	Region    ec2.Region    `json:"region"` // of this node
	AccessKey string        `json:"access_key"`
	SecretKey string        `json:"secret_key"`
}

// maxNewAccounts bounds how many accounts one request creates, because they are one log entry.
const maxNewAccounts = 500

var accountName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (r *AccountRequest) names() ([]string, error) {
	if (r.Name == "") == (r.Count == 0) {
		return nil, fmt.Errorf("give either a name, or a count and a prefix")
	}
	names := []string{r.Name}
	if r.Count != 0 {
		if r.Count < 1 || r.Count > maxNewAccounts || r.ID != "" {
			return nil, fmt.Errorf("count is %d: up to %d accounts can be created at once, and an id cannot be given with a count", r.Count, maxNewAccounts)
		}
		names = nil
		width := max(len(strconv.Itoa(r.Count)), 2)
		for i := range r.Count {
			names = append(names, fmt.Sprintf("%s%0*d", r.Prefix, width, i+1))
		}
	}
	for _, n := range names {
		if !accountName.MatchString(n) {
			return nil, fmt.Errorf("%q is not a valid account name: it must have up to 63 letters, digits, dots, hyphens and underscores, the first a letter or digit", n)
		}
	}
	return names, nil
}

func (s *Server) createAccounts(ctx context.Context, r AccountRequest) (any, error) {
	names, err := r.names()
	if err != nil {
		return nil, err
	}
	view, err := s.Cluster.ReadView(ctx)
	if err != nil {
		return nil, err
	}
	taken := make(map[ec2.AccountID]bool)
	for a := range view.Accounts() {
		taken[a.ID] = true
	}
	batch, keys := &state.Batch{}, []NewKey{}
	for _, name := range names {
		k := NewKey{Account: r.ID, Name: name, Platform: cmp.Or(r.Platform, ec2.VPCOnly), Region: s.Region}
		for k.Account == "" || r.ID == "" && taken[k.Account] {
			k.Account = ec2.AccountID(secret.NewAccountID())
		}
		taken[k.Account] = true
		k.AccessKey, k.SecretKey = secret.NewAccessKey()
		sealed, err := s.Keyring.Seal(view.SealKey(), k.Account, k.AccessKey, k.SecretKey)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
		batch.Requests = append(batch.Requests, &state.CreateAccount{ID: k.Account, Name: name, Platform: k.Platform, AccessKey: k.AccessKey, Sealed: sealed})
	}
	by := s.byOperator("CreateAccount", map[string]string{"Name": names[0], "Count": strconv.Itoa(len(names)), "Platform": string(keys[0].Platform)})
	if _, _, err := s.Cluster.Apply(ctx, state.Command{Request: batch, Audit: by}); err != nil {
		return nil, err
	}
	return keys, nil
}

// AccountStatus is one account in GET /v1/accounts.
type AccountStatus struct {
	ID       ec2.AccountID     `json:"id"`
	Name     string            `json:"name"`
	Platform ec2.Platform      `json:"platform"`
	Keys     []AccessKeyStatus `json:"keys"`
}

// AccessKeyStatus is one access key of an account.
type AccessKeyStatus struct {
	ID      string     `json:"id"`
	Active  bool       `json:"active"`
	Sealed  bool       `json:"sealed"`            // false: in plain text, by an earlier release
	Created *time.Time `json:"created,omitempty"` // nil: created by an earlier release
}

func (s *Server) accounts() []AccountStatus {
	view := s.Cluster.View()
	keys := make(map[ec2.AccountID][]AccessKeyStatus)
	for k := range view.AccessKeys() {
		s := AccessKeyStatus{ID: k.ID, Active: !k.Inactive, Sealed: k.Secret == ""}
		if !k.Created.IsZero() {
			s.Created = &k.Created
		}
		keys[k.Account] = append(keys[k.Account], s)
	}
	all := []AccountStatus{}
	for a := range view.Accounts() {
		all = append(all, AccountStatus{a.ID, a.Name, a.Platform, append([]AccessKeyStatus{}, keys[a.ID]...)})
	}
	slices.SortStableFunc(all, func(a, b AccountStatus) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return all
}

// KeyRequest is the body of POST /v1/accounts/keys.
type KeyRequest struct {
	Account string    `json:"account"` // name or id
	Do      KeyChange `json:"do"`
	Key     string    `json:"key"` // "" to add a key
}

// A KeyChange is a change of an access key.
type KeyChange string

const (
	AddKey        KeyChange = "add"
	ActivateKey   KeyChange = "activate"
	DeactivateKey KeyChange = "deactivate"
	DeleteKey     KeyChange = "delete"
)

func (s *Server) changeKey(ctx context.Context, r KeyRequest) (any, error) {
	view, err := s.Cluster.ReadView(ctx)
	if err != nil {
		return nil, err
	}
	account, err := findAccount(view, r.Account)
	if err != nil {
		return nil, err
	}
	made := NewKey{Account: account.ID, Name: account.Name, Platform: account.Platform, Region: s.Region, AccessKey: r.Key}
	var request state.Request
	var action string
	switch r.Do {
	case AddKey:
		made.AccessKey, made.SecretKey = secret.NewAccessKey()
		sealed, err := s.Keyring.Seal(view.SealKey(), account.ID, made.AccessKey, made.SecretKey)
		if err != nil {
			return nil, err
		}
		action, request = "CreateAccessKey", &state.CreateAccessKey{Account: account.ID, ID: made.AccessKey, Sealed: sealed}
	case ActivateKey, DeactivateKey:
		action, request = "UpdateAccessKey", &state.UpdateAccessKey{Account: account.ID, ID: r.Key, Inactive: r.Do == DeactivateKey}
	case DeleteKey:
		action, request = "DeleteAccessKey", &state.DeleteAccessKey{Account: account.ID, ID: r.Key}
	default:
		return nil, fmt.Errorf(`"do" is %q; it must be add, activate, deactivate or delete`, r.Do)
	}
	by := s.byOperator(action, map[string]string{"Account": string(account.ID), "AccessKey": made.AccessKey, "Do": string(r.Do)})
	_, _, err = s.Cluster.Apply(ctx, state.Command{Request: request, Audit: by})
	return made, err
}

// findAccount finds an account by its id or name. If several accounts have the name, which earlier
// releases allowed, it returns an error.
func findAccount(view *state.View, who string) (*ec2.Account, error) {
	if a, ok := view.Account(ec2.AccountID(who)); ok {
		return a, nil
	}
	var found *ec2.Account
	for a := range view.Accounts() {
		switch {
		case a.Name != who || who == "":
		case found != nil:
			return nil, fmt.Errorf("accounts %s and %s are both named %q: give the id", found.ID, a.ID, who)
		default:
			found = a
		}
	}
	if found == nil {
		return nil, fmt.Errorf("there is no account %q; palisade account list shows all", who)
	}
	return found, nil
}
