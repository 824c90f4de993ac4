package state

import (
	"encoding/binary"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// launchRequests are the requests for launch templates, placement groups and DHCP options, and for
// the options of instances.
var launchRequests = []Request{
	&CreateLaunchTemplate{}, &CreateLaunchTemplateVersion{}, &ModifyLaunchTemplate{}, &DeleteLaunchTemplate{}, &DeleteLaunchTemplateVersions{},
	&CreatePlacementGroup{}, &DeletePlacementGroup{},
	&CreateDHCPOptions{}, &DeleteDHCPOptions{}, &AssociateDHCPOptions{},
	&MonitorInstances{}, &ModifyInstanceOptions{},
}

// Limits of launch templates. AWS's limit of the size is not documented.
const (
	maxTemplateData        = 32 << 10 // bytes of the names and values of a version
	maxTemplateDescription = 255
)

// A TemplateSelector names a launch template by its id or its name.
type TemplateSelector struct {
	ID   ec2.LaunchTemplateID `json:",omitempty"`
	Name string               `json:",omitempty"`
}

// CreateLaunchTemplate makes a template with version 1. A repeated request with the same
// ClientToken returns the template of the first one. Result: Template, TemplateVersion.
type CreateLaunchTemplate struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Name        string
	Description string            `json:",omitempty"` // of the version
	Data        map[string]string // as in ec2.LaunchTemplateVersion
	ClientToken string            `json:",omitempty"`
	Tags        map[string]string `json:",omitempty"`
}

var templateName = regexp.MustCompile(`^[a-zA-Z0-9().\-/_]{3,128}$`)

func (r *CreateLaunchTemplate) apply(t *tx) (Result, error) {
	if _, err := t.platform(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	if r.Name == "" {
		return Result{}, ec2.Missing("LaunchTemplateName")
	}
	if !templateName.MatchString(r.Name) {
		return Result{}, ec2.Errorf("InvalidLaunchTemplateName.MalformedException", "The launch template name '%s' is invalid. It has 3 to 128 characters: letters, digits and ( ) . / _ -", ec2.Clip(r.Name))
	}
	if err := checkVersion(r.Description, r.Data, r.ClientToken); err != nil {
		return Result{}, err
	}
	shape := shapeOf(r)
	count := 0
	for had := range rows[ec2.LaunchTemplate](t.Txn, tableTemplate, indexOwner, key(r.Account)+key(r.Region)) {
		if r.ClientToken != "" && had.ClientToken == r.ClientToken {
			if had.RequestShape != shape {
				return Result{}, tokenMismatch()
			}
			return Result{Template: had, TemplateVersion: t.templateVersion(had.ID, 1)}, nil
		}
		count++
	}
	if first[ec2.LaunchTemplate](t.Txn, tableTemplate, indexName, key(r.Account)+key(r.Region)+key(r.Name)) != nil {
		return Result{}, ec2.Errorf("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
	}
	if limit := t.limits().TemplatesPerRegion; count >= limit {
		return Result{}, ec2.Errorf("LaunchTemplateLimitExceeded", "The maximum number of launch templates in a region, %d, has been reached.", limit)
	}
	made := &ec2.LaunchTemplate{
		ID: ec2.LaunchTemplateID(t.meta.longID("lt", t.serial())), Account: r.Account, Region: r.Region, Name: r.Name, Created: t.meta.Time, Default: 1,
	}
	if r.ClientToken != "" {
		made.ClientToken, made.RequestShape = r.ClientToken, shape
	}
	version, err := t.addVersion(made, ec2.LaunchTemplateVersion{Description: r.Description, Data: r.Data})
	if err != nil {
		return Result{}, err
	}
	if err := t.tag(string(made.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{Template: made, TemplateVersion: version}, nil
}

func checkVersion(description string, data map[string]string, token string) error {
	size := 0
	for k, v := range data {
		size += len(k) + len(v)
	}
	switch {
	case size == 0:
		return ec2.Missing("LaunchTemplateData")
	case size > maxTemplateData:
		return ec2.Errorf("InvalidParameterValue", "The launch template data has %d bytes; at most %d are stored", size, maxTemplateData)
	case len(description) > maxTemplateDescription || !isText(description):
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter VersionDescription is invalid. At most %d characters.", ec2.Clip(description), maxTemplateDescription)
	}
	return checkClientToken(token)
}

// addVersion stores a version with the next number, and the template with that number.
func (t *tx) addVersion(template *ec2.LaunchTemplate, v ec2.LaunchTemplateVersion) (*ec2.LaunchTemplateVersion, error) {
	count := 0
	for x := range rows[ec2.LaunchTemplate](t.Txn, tableTemplate, indexOwner, key(template.Account)+key(template.Region)) {
		for range rows[ec2.LaunchTemplateVersion](t.Txn, tableTemplateVersion, indexID, key(x.ID)) {
			count++
		}
	}
	if limit := t.limits().TemplateVersionsPerRegion; count >= limit {
		return nil, ec2.Errorf("LaunchTemplateVersionLimitExceeded", "The maximum number of versions of all launch templates in a region, %d, has been reached.", limit)
	}
	template.Latest++
	v.Template, v.Number, v.Created = template.ID, template.Latest, t.meta.Time
	t.put(tableTemplateVersion, &v)
	t.put(tableTemplate, template)
	return &v, nil
}

// CreateLaunchTemplateVersion adds a version. Result: Template, TemplateVersion.
type CreateLaunchTemplateVersion struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Template    TemplateSelector
	Source      int               `json:",omitempty"` // the version whose parameters the new one has, unless Data has them; 0: none
	Description string            `json:",omitempty"`
	Data        map[string]string `json:",omitempty"`
	ClientToken string            `json:",omitempty"`
}

func (r *CreateLaunchTemplateVersion) apply(t *tx) (Result, error) {
	was, err := findTemplate(t.Txn, owner{r.Account, r.Region}, r.Template)
	if err != nil {
		return Result{}, err
	}
	data := r.Data
	if r.Source != 0 {
		source := t.templateVersion(was.ID, r.Source)
		if source == nil {
			return Result{}, noSuchVersion(r.Source)
		}
		data = ec2.Overlay(source.Data, r.Data)
	}
	if err := checkVersion(r.Description, data, r.ClientToken); err != nil {
		return Result{}, err
	}
	shape := ""
	if r.ClientToken != "" {
		shape = shapeOf(r)
		for had := range rows[ec2.LaunchTemplateVersion](t.Txn, tableTemplateVersion, indexID, key(was.ID)) {
			if had.ClientToken != r.ClientToken {
				continue
			}
			if had.RequestShape != shape {
				return Result{}, tokenMismatch()
			}
			return Result{Template: was, TemplateVersion: had}, nil
		}
	}
	now := *was
	made, err := t.addVersion(&now, ec2.LaunchTemplateVersion{Description: r.Description, Data: data, ClientToken: r.ClientToken, RequestShape: shape})
	if err != nil {
		return Result{}, err
	}
	return Result{Template: &now, TemplateVersion: made}, nil
}

// ModifyLaunchTemplate makes another version the default one. Result: Template.
type ModifyLaunchTemplate struct {
	Account  ec2.AccountID
	Region   ec2.Region
	Template TemplateSelector
	Default  int
}

func (r *ModifyLaunchTemplate) apply(t *tx) (Result, error) {
	was, err := findTemplate(t.Txn, owner{r.Account, r.Region}, r.Template)
	if err != nil {
		return Result{}, err
	}
	if t.templateVersion(was.ID, r.Default) == nil {
		return Result{}, noSuchVersion(r.Default)
	}
	now := *was
	now.Default = r.Default
	t.put(tableTemplate, &now)
	return Result{Template: &now}, nil
}

// DeleteLaunchTemplate deletes a template with all its versions. Instances that were launched from
// it stay. Result: Template.
type DeleteLaunchTemplate struct {
	Account  ec2.AccountID
	Region   ec2.Region
	Template TemplateSelector
}

func (r *DeleteLaunchTemplate) apply(t *tx) (Result, error) {
	was, err := findTemplate(t.Txn, owner{r.Account, r.Region}, r.Template)
	if err != nil {
		return Result{}, err
	}
	for _, v := range slices.Collect(rows[ec2.LaunchTemplateVersion](t.Txn, tableTemplateVersion, indexID, key(was.ID))) {
		t.del(tableTemplateVersion, v)
	}
	t.untag(string(was.ID))
	t.del(tableTemplate, was)
	return Result{Template: was}, nil
}

// DeleteLaunchTemplateVersions deletes those of the versions that exist and are not the default one;
// the caller tells which are not. Result: Template; Versions has the numbers that were deleted.
type DeleteLaunchTemplateVersions struct {
	Account  ec2.AccountID
	Region   ec2.Region
	Template TemplateSelector
	Versions []int
}

func (r *DeleteLaunchTemplateVersions) apply(t *tx) (Result, error) {
	was, err := findTemplate(t.Txn, owner{r.Account, r.Region}, r.Template)
	if err != nil {
		return Result{}, err
	}
	if len(r.Versions) == 0 {
		return Result{}, ec2.Missing("LaunchTemplateVersion")
	}
	result := Result{Template: was}
	for _, n := range r.Versions {
		if v := t.templateVersion(was.ID, n); v != nil && n != was.Default {
			t.del(tableTemplateVersion, v)
			result.Versions = append(result.Versions, n)
		}
	}
	return result, nil
}

func (t *tx) templateVersion(id ec2.LaunchTemplateID, number int) *ec2.LaunchTemplateVersion {
	return first[ec2.LaunchTemplateVersion](t.Txn, tableTemplateVersion, indexID, versionKey(id, number))
}

// versionKey returns the key of a version. The keys of a template's versions sort by number.
func versionKey(id ec2.LaunchTemplateID, number int) string {
	return key(id) + string(binary.BigEndian.AppendUint64(nil, uint64(number)))
}

func noSuchVersion(number int) *ec2.Error {
	return ec2.Errorf("InvalidLaunchTemplateId.VersionNotFound", "Could not find launch template version %d", number)
}

// FindLaunchTemplate returns a launch template of an account, or EC2's error.
func (v *View) FindLaunchTemplate(account ec2.AccountID, region ec2.Region, s TemplateSelector) (*ec2.LaunchTemplate, error) {
	return findTemplate(v.txn(), owner{account, region}, s)
}

func findTemplate(txn *memdb.Txn, by owner, s TemplateSelector) (*ec2.LaunchTemplate, error) {
	switch {
	case s.ID == "" && s.Name == "":
		return nil, ec2.Errorf("MissingParameter", "You must specify either the launch template ID or the launch template name")
	case s.ID != "" && s.Name != "":
		return nil, ec2.Errorf("InvalidParameterCombination", "You must specify either the launch template ID or the launch template name, but not both")
	case s.ID == "":
		found := first[ec2.LaunchTemplate](txn, tableTemplate, indexName, key(by.account)+key(by.region)+key(s.Name))
		if found == nil {
			return nil, ec2.Errorf("InvalidLaunchTemplateName.NotFoundException", "The specified launch template, with template name %s, does not exist.", ec2.Clip(s.Name))
		}
		return found, nil
	}
	if err := ec2.CheckLaunchTemplateID(s.ID); err != nil {
		return nil, err
	}
	found := ownedRow[ec2.LaunchTemplate](txn, tableTemplate, by, s.ID)
	if found == nil {
		return nil, ec2.NoSuch("lt", s.ID)
	}
	return found, nil
}

// LaunchTemplateVersion returns one version of a template.
func (v *View) LaunchTemplateVersion(id ec2.LaunchTemplateID, number int) (*ec2.LaunchTemplateVersion, error) {
	found, ok := get[ec2.LaunchTemplateVersion](v, tableTemplateVersion, versionKey(id, number))
	if !ok {
		return nil, noSuchVersion(number)
	}
	return found, nil
}

// fromTemplate returns the tags of instances that are launched from a template. It returns an error
// if the version was deleted after its parameters were read.
func (t *tx) fromTemplate(r *RunInstances) (map[string]string, error) {
	if r.Template == nil {
		return nil, nil
	}
	if _, err := findTemplate(t.Txn, owner{r.Account, r.Region}, TemplateSelector{ID: r.Template.Template}); err != nil {
		return nil, err
	}
	if t.templateVersion(r.Template.Template, r.Template.Version) == nil {
		return nil, noSuchVersion(r.Template.Version)
	}
	return map[string]string{
		ec2.TagLaunchTemplateID:      string(r.Template.Template),
		ec2.TagLaunchTemplateVersion: strconv.Itoa(r.Template.Version),
	}, nil
}

// tagInstance puts the tags of a launch on one of its instances. system has tags of our own, which
// are in no limit.
func (r *RunInstances) tagInstance(t *tx, i *ec2.Instance, system map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(system)) {
		t.put(tableTag, &ec2.Tag{Resource: string(i.ID), Account: r.Account, Region: r.Region, Key: k, Value: system[k]})
	}
	return t.tag(string(i.ID), r.Account, r.Region, r.Tags)
}
