package state

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"palisade/ec2"
)

// Limits of tags: for each resource, for the resources of a request, and for the characters of a
// key and of a value (EC2 API Reference, "CreateTags", "Tag").
const (
	maxTags          = 50
	maxTagged        = 1000
	maxTagKey        = 127
	maxTagValue      = 255
	reservedTagSpace = "aws:"
)

// tagRequests are the requests for tags.
var tagRequests = []Request{&CreateTags{}, &DeleteTags{}}

// CreateTags puts the same tags on several resources, on all of them or none. A tag with the same
// key is replaced.
type CreateTags struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Resources []string
	Tags      map[string]string
}

func (r *CreateTags) apply(t *tx) (Result, error) {
	if len(r.Tags) == 0 {
		return Result{}, ec2.Missing("tagSet")
	}
	if err := t.taggable(r.Account, r.Region, r.Resources); err != nil {
		return Result{}, err
	}
	for _, id := range r.Resources {
		if err := t.tag(id, r.Account, r.Region, r.Tags); err != nil {
			return Result{}, err
		}
	}
	return Result{}, nil
}

// DeleteTags takes the named tags, or all tags, off several resources. A tag that a resource does
// not have is no error.
type DeleteTags struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Resources []string
	Tags      []TagSelector `json:",omitempty"`
}

// A TagSelector names the tag with a key. If Value is not nil, the tag must have that value.
type TagSelector struct {
	Key   string
	Value *string `json:",omitempty"`
}

func (r *DeleteTags) apply(t *tx) (Result, error) {
	if err := t.taggable(r.Account, r.Region, r.Resources); err != nil {
		return Result{}, err
	}
	for _, s := range r.Tags {
		if err := checkTag(s.Key, ""); err != nil {
			return Result{}, err
		}
	}
	for _, id := range r.Resources {
		if len(r.Tags) == 0 {
			t.untagUsers(id, r.Account, r.Region)
		}
		for _, s := range r.Tags {
			tag := first[ec2.Tag](t.Txn, tableTag, indexID, tagsOf(id, r.Account, r.Region)+key(s.Key))
			if tag != nil && (s.Value == nil || *s.Value == tag.Value) {
				t.del(tableTag, tag)
			}
		}
	}
	return Result{}, nil
}

// The method tag puts tags on a resource. The caller checks that the resource exists.
func (t *tx) tag(id string, account ec2.AccountID, region ec2.Region, tags map[string]string) error {
	count := 0
	for had := range rows[ec2.Tag](t.Txn, tableTag, indexID, tagsOf(id, account, region)) {
		if _, again := tags[had.Key]; !again && !isReserved(had.Key) {
			count++
		}
	}
	if count+len(tags) > maxTags {
		return ec2.Errorf("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
	}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		if err := checkTag(k, tags[k]); err != nil {
			return err
		}
		t.put(tableTag, &ec2.Tag{Resource: id, Account: account, Region: region, Key: k, Value: tags[k]})
	}
	return nil
}

// tagsOf returns the prefix of the keys of a resource's tags. The two owners of a peering, and the two
// regions of one, have tags of their own (Amazon VPC Peering Guide, "VPC peering basics").
func tagsOf(id string, account ec2.AccountID, region ec2.Region) string {
	if strings.HasPrefix(id, "pcx-") {
		return key(id) + key(account) + key(region)
	}
	return key(id)
}

// untag takes all tags off a resource. It must be called when a resource is deleted.
func (t *tx) untag(id string) {
	for _, tag := range slices.Collect(rows[ec2.Tag](t.Txn, tableTag, indexID, key(id))) {
		t.del(tableTag, tag)
	}
}

// untagUsers takes the tags of users off a resource. Those of ours stay.
func (t *tx) untagUsers(id string, account ec2.AccountID, region ec2.Region) {
	for _, tag := range slices.Collect(rows[ec2.Tag](t.Txn, tableTag, indexID, tagsOf(id, account, region))) {
		if !isReserved(tag.Key) {
			t.del(tableTag, tag)
		}
	}
}

func isReserved(key string) bool { return strings.HasPrefix(strings.ToLower(key), reservedTagSpace) }

func checkTag(key, value string) error {
	switch {
	case key == "":
		return ec2.Errorf("InvalidParameterValue", "Tag keys cannot be null or empty")
	case isReserved(key):
		return ec2.Errorf("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
	case utf8.RuneCountInString(key) > maxTagKey:
		return ec2.Errorf("InvalidParameterValue", "Tag key exceeds the maximum length of %d characters", maxTagKey)
	case utf8.RuneCountInString(value) > maxTagValue:
		return ec2.Errorf("InvalidParameterValue", "Tag value exceeds the maximum length of %d characters", maxTagValue)
	case !isText(key) || !isText(value):
		return ec2.Errorf("InvalidParameterValue", "Tag '%s' has characters that are not allowed", ec2.Clip(key))
	}
	return nil
}

// isText reports whether XML can carry the text unchanged.
func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || r == 0xfffe || r == 0xffff
	})
}

// taggable returns EC2's error for a resource that does not exist or cannot have tags.
func (t *tx) taggable(account ec2.AccountID, region ec2.Region, ids []string) error {
	if len(ids) == 0 {
		return ec2.Missing("resourceIdSet")
	}
	if len(ids) > maxTagged {
		return ec2.Errorf("InvalidParameterValue", "A request names at most %d resources, not %d", maxTagged, len(ids))
	}
	for _, id := range ids {
		if !t.canTag(account, region, id) {
			return ec2.NoSuchResource(id)
		}
	}
	return nil
}

// canTag reports whether the account has a resource with that id that can have tags. A rule belongs
// to the owner of its group, a network ACL to the owner of its VPC.
func (t *tx) canTag(account ec2.AccountID, region ec2.Region, id string) bool {
	by := owner{account, region}
	switch kind, _, _ := strings.Cut(id, "-"); kind {
	case "sg":
		return ownedRow[ec2.Group](t.Txn, tableGroup, by, id) != nil
	case "sgr":
		g := first[ec2.Group](t.Txn, tableGroup, indexRule, key(id))
		return g != nil && ownerOf(g) == by
	case "i":
		return ownedRow[ec2.Instance](t.Txn, tableInstance, by, id) != nil
	case "eni":
		eni := ownedRow[ec2.Interface](t.Txn, tableInterface, by, id)
		return eni != nil && eni.VPC != ""
	case "vpc":
		return ownedRow[ec2.VPC](t.Txn, tableVPC, by, id) != nil
	case "acl":
		_, err := t.acl(account, region, id)
		return err == nil
	case "subnet":
		return ownedRow[ec2.Subnet](t.Txn, tableSubnet, by, id) != nil
	case "igw":
		return ownedRow[ec2.InternetGateway](t.Txn, tableGateway, by, id) != nil
	case "nat":
		return ownedRow[ec2.NATGateway](t.Txn, tableNAT, by, id) != nil
	case "rtb":
		return ownedRow[ec2.RouteTable](t.Txn, tableRoutes, by, id) != nil
	case "key":
		for x := range rows[ec2.KeyPair](t.Txn, tableKeyPair, indexID, key(account)+key(region)) {
			if string(x.ID) == id {
				return true
			}
		}
	case "lt":
		return ownedRow[ec2.LaunchTemplate](t.Txn, tableTemplate, by, id) != nil
	case "pcx":
		p := first[ec2.VPCPeering](t.Txn, tablePeering, indexID, key(id))
		return p != nil && p.SeenBy(account, region, t.meta.Time)
	case "pg":
		return ownedRow[ec2.PlacementGroup](t.Txn, tablePlacement, by, id) != nil
	case "dopt":
		_, err := findDHCP(t.Txn, by, ec2.DHCPOptionsID(id))
		return err == nil
	case "pl":
		return ownedRow[ec2.PrefixList](t.Txn, tablePrefixList, by, id) != nil
	case "vol":
		return ownedRow[ec2.Volume](t.Txn, tableVolume, by, id) != nil
	case "eipalloc":
		return ownedRow[ec2.ElasticAddress](t.Txn, tableElastic, by, id) != nil
	}
	return false
}
