//go:build soak

package scenarios

import (
	"fmt"
	"net/url"
	"testing"
	"time"
)

// TestSoakPrefixListEntryIsEnforcedInTime measures the time from the API's reply until another node enforces a
// changed entry of a prefix list, which has 49 other entries: the limit of a group's rules allows no more. A rule of the target's ingress names the list.
// The entry that comes and goes is the prober's address.
func TestSoakPrefixListEntryIsEnforcedInTime(t *testing.T) {
	p := newPropagation(t, "soakproplist", "dev", (*soakLab).vpc)
	if len(p.nodes) == 3 {
		p.limit = p.goal
	}
	list := p.api.prefixList(t, "clients", 50)
	entries := []string{}
	for n := range 49 {
		entries = append(entries, fmt.Sprintf("203.0.113.%d/32", n))
	}
	if _, err := list.modify("AddEntry", entries...); err != nil {
		t.Fatal(err)
	}
	params := url.Values{"IpPermissions.1.IpProtocol": {"tcp"}, "IpPermissions.1.FromPort": {"80"}, "IpPermissions.1.ToPort": {"80"},
		"IpPermissions.1.PrefixListIds.1.PrefixListId": {list.id}}
	p.api.name(params, "", "target")
	if _, err := p.api.call("AuthorizeSecurityGroupIngress", params, nil); err != nil {
		t.Fatal(err)
	}
	prober := p.s.prober.from.String() + "/32"
	p.measureChange("of an entry of a prefix list", p.turns(500),
		func() (time.Time, error) { return list.modify("AddEntry", prober) },
		func() (time.Time, error) { return list.modify("RemoveEntry", prober) })
}

// A soakList is a prefix list, whose version the test knows.
type soakList struct {
	api     *soakAPI
	id      string
	version int
}

// prefixList makes a prefix list without entries.
func (a *soakAPI) prefixList(t *testing.T, name string, most int) *soakList {
	t.Helper()
	var made struct {
		ID      string `xml:"prefixList>prefixListId"`
		Version int    `xml:"prefixList>version"`
	}
	params := url.Values{"PrefixListName": {name}, "AddressFamily": {"IPv4"}, "MaxEntries": {fmt.Sprint(most)}}
	if _, err := a.call("CreateManagedPrefixList", params, &made); err != nil {
		t.Fatal(err)
	}
	return &soakList{a, made.ID, made.Version}
}

// modify adds or removes entries. It returns the time of the answer.
func (l *soakList) modify(change string, entries ...string) (time.Time, error) {
	params := url.Values{"PrefixListId": {l.id}, "CurrentVersion": {fmt.Sprint(l.version)}}
	for i, e := range entries {
		params.Set(fmt.Sprintf("%s.%d.Cidr", change, i+1), e)
	}
	at, err := l.api.call("ModifyManagedPrefixList", params, nil)
	if err == nil {
		l.version++
	}
	return at, err
}
