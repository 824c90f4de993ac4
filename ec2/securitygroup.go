package ec2

import (
	"regexp"
	"strings"
)

// defaultGroup is the name of the group that an instance is in when its launch names
// none. It cannot be created or deleted.
const defaultGroup = "default"

// groupRequests are of the groups of a VPC.
var groupRequests = []Request{}

// A GroupSelector names a group of the caller, by id or, in EC2-Classic, by name.
type GroupSelector struct {
	ID   GroupID
	Name string
}

// CreateSecurityGroup adds an EC2-Classic group. Result: Group.
type CreateSecurityGroup struct {
	Account     AccountID
	Region      Region
	Name        string
	Description string
}

func (r *CreateSecurityGroup) apply(t *tx) (Result, error) {
	if err := t.requireClassic(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	if r.Name == "" {
		return Result{}, Errorf("MissingParameter", "The request must contain the parameter GroupName")
	}
	if r.Description == "" {
		return Result{}, Errorf("MissingParameter", "The request must contain the parameter GroupDescription")
	}
	if strings.EqualFold(r.Name, defaultGroup) {
		return Result{}, Errorf("InvalidGroup.Reserved", "The security group '%s' is reserved", r.Name)
	}
	if strings.HasPrefix(strings.ToLower(r.Name), "sg-") {
		return Result{}, Errorf("InvalidParameterValue", "Value (%s) for parameter GroupName is invalid. Group names may not be in the format sg-*.", r.Name)
	}
	if !printable(r.Name, 255) {
		return Result{}, Errorf("InvalidParameterValue", "Value (%s) for parameter GroupName is invalid. Character sets beyond ASCII are not supported.", clip(r.Name))
	}
	if !printable(r.Description, 255) {
		return Result{}, Errorf("InvalidParameterValue", "Value (%s) for parameter GroupDescription is invalid. Character sets beyond ASCII are not supported.", clip(r.Description))
	}
	owner := key(r.Account) + key(r.Region)
	if first[Group](t.Txn, tableGroup, indexName, owner+key("")+key(r.Name)) != nil {
		return Result{}, Errorf("InvalidGroup.Duplicate", "The security group '%s' already exists", r.Name)
	}
	count := 0
	for range rows[Group](t.Txn, tableGroup, indexName, owner+key("")) {
		count++
	}
	if count >= t.meta.Settings.GroupsPerRegion {
		return Result{}, Errorf("SecurityGroupLimitExceeded", "The maximum number of security groups has been reached.")
	}

	g := &Group{
		ID:          GroupID(t.meta.classicID("sg", t.serial())),
		Account:     r.Account,
		Region:      r.Region,
		Name:        r.Name,
		Description: r.Description,
	}
	t.put(tableGroup, g)
	return Result{Group: g}, nil
}

// DeleteSecurityGroup removes a group that no instance is in and that no other group of
// its account names. Rules of other accounts do not hold it: they name nothing from
// then on, for ids are never reused. Result: Group.
type DeleteSecurityGroup struct {
	Account AccountID
	Region  Region
	Group   GroupSelector
}

func (r *DeleteSecurityGroup) apply(t *tx) (Result, error) {
	g, err := t.group(r.Account, r.Region, r.Group)
	if err != nil {
		return Result{}, err
	}
	if g.Name == defaultGroup {
		return Result{}, Errorf("InvalidGroup.Reserved", "The security group '%s' is reserved", g.Name)
	}
	if first[Instance](t.Txn, tableInstance, indexMember, key(g.ID)) != nil {
		return Result{}, Errorf("InvalidGroup.InUse", "There are active instances using security group '%s'", g.Name)
	}
	var users []string
	for o := range rows[Group](t.Txn, tableGroup, indexSource, key(g.ID)) {
		user := string(o.Account) + ":" + o.Name
		if o.Account == g.Account && (len(users) == 0 || users[len(users)-1] != user) {
			users = append(users, user)
		}
	}
	if len(users) > 0 {
		return Result{}, Errorf("InvalidGroup.InUse", "Group %s:%s is used by groups: %s", g.Account, g.Name, strings.Join(users, " "))
	}
	t.del(tableGroup, g)
	return Result{Group: g}, nil
}

// addDefaultGroup gives an account of the EC2-Classic platform its default group in a
// region: it admits its own members on everything (EC2 Developer Guide (2006),
// "Security Groups").
func (t *tx) addDefaultGroup(a *Account, region Region) {
	owner := key(a.ID) + key(region) + key("")
	if a.Platform != Classic || first[Group](t.Txn, tableGroup, indexName, owner+key(defaultGroup)) != nil {
		return
	}
	g := &Group{
		ID:          GroupID(t.meta.classicID("sg", t.serial())),
		Account:     a.ID,
		Region:      region,
		Name:        defaultGroup,
		Description: "default group",
	}
	self := Source{Group: GroupRef{Account: a.ID, ID: g.ID, Name: g.Name}}
	for _, r := range []Rule{
		{Protocol: TCP, From: 0, To: 65535, Source: self},
		{Protocol: UDP, From: 0, To: 65535, Source: self},
		{Protocol: ICMP, From: -1, To: -1, Source: self},
	} {
		g.Rules = append(g.Rules, t.numbered(r))
	}
	t.put(tableGroup, g)
}

// group finds a group of the caller. Exactly one of id and name must be given.
func (t *tx) group(account AccountID, region Region, sel GroupSelector) (*Group, error) {
	switch {
	case sel.ID == "" && sel.Name == "":
		return nil, Errorf("MissingParameter", "The request must contain the parameter groupName or groupId")
	case sel.ID != "" && sel.Name != "":
		return nil, Errorf("InvalidParameterCombination", "The parameters GroupName and GroupId cannot be used together")
	case sel.Name != "":
		g := first[Group](t.Txn, tableGroup, indexName, key(account)+key(region)+key("")+key(sel.Name))
		if g == nil {
			return nil, Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist", clip(sel.Name))
		}
		return g, nil
	}
	if err := CheckGroupID(sel.ID); err != nil {
		return nil, err
	}
	g := first[Group](t.Txn, tableGroup, indexID, key(sel.ID))
	if g == nil || g.Account != account || g.Region != region {
		return nil, Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist", sel.ID)
	}
	return g, nil
}

var groupID = regexp.MustCompile(`^sg-[0-9a-f]{1,17}$`)

// CheckGroupID returns the error for text that is not shaped like a group's id.
func CheckGroupID(id GroupID) error {
	if !groupID.MatchString(string(id)) {
		return Errorf("InvalidGroupId.Malformed", `Invalid id: "%s" (expecting "sg-...")`, clip(string(id)))
	}
	return nil
}

// requireClassic refuses what only an account with a flat network can do.
func (t *tx) requireClassic(account AccountID, region Region) error {
	a := first[Account](t.Txn, tableAccount, indexID, key(account))
	if a == nil {
		return Errorf("AuthFailure", "account %s does not exist", account)
	}
	if a.Platform != Classic {
		return Errorf("VPCIdNotSpecified", "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.")
	}
	if classicNetwork(t.Txn, region) == nil {
		return Errorf("Unsupported", "EC2-Classic has no network in region %s", region)
	}
	return nil
}

// printable reports whether text is at most limit characters of ASCII without controls,
// which no XML answer could carry.
func printable(text string, limit int) bool {
	if len(text) > limit {
		return false
	}
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// clip makes text of any size and content fit for an error message.
func clip(text string) string {
	text = strings.ToValidUTF8(text, "?")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0xfffe || r == 0xffff {
			return '?'
		}
		return r
	}, text)
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "..."
	}
	return text
}
