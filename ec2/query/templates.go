package query

import (
	"slices"
	"strconv"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// templateActions manage launch templates.
var templateActions = map[string]handler{
	"CreateLaunchTemplate":           action(createTemplate),
	"CreateLaunchTemplateVersion":    action(createTemplateVersion),
	"ModifyLaunchTemplate":           action(modifyTemplate),
	"DeleteLaunchTemplate":           action(deleteTemplate),
	"DeleteLaunchTemplateVersions":   action(deleteTemplateVersions),
	"DescribeLaunchTemplates":        action(describeTemplates),
	"DescribeLaunchTemplateVersions": action(describeTemplateVersions),
	"GetLaunchTemplateData":          action(getTemplateData),
}

// Names of versions that stand for a number.
const (
	latestVersion  = "$Latest"
	defaultVersion = "$Default"
)

// maxDeletedVersions is the most versions that a request can delete (EC2 API Reference,
// "DeleteLaunchTemplateVersions").
const maxDeletedVersions = 200

type createTemplateRequest struct {
	Name        string             `wire:"LaunchTemplateName"`
	Description string             `wire:"VersionDescription"`
	Data        templateData       `wire:"LaunchTemplateData"`
	ClientToken string             `wire:"ClientToken"`
	Tags        []tagSpecification `wire:"TagSpecification"`
}

type templateAnswer struct {
	Template templateItem `wire:"launchTemplate"`
}

type templateItem struct {
	ID      ec2.LaunchTemplateID `wire:"launchTemplateId"`
	Name    string               `wire:"launchTemplateName"`
	Created time.Time            `wire:"createTime"`
	By      string               `wire:"createdBy"`
	Default int                  `wire:"defaultVersionNumber"`
	Latest  int                  `wire:"latestVersionNumber"`
	Tags    []tag                `wire:"tagSet"`
}

func (c *call) newTemplateItem(t *ec2.LaunchTemplate) templateItem {
	return templateItem{t.ID, t.Name, t.Created, rootUser(t.Account), t.Default, t.Latest, c.tags(string(t.ID))}
}

// rootUser returns the name of an account's root user, to whom all access keys belong.
func rootUser(account ec2.AccountID) string { return "arn:aws:iam::" + string(account) + ":root" }

// templateParameters returns the parameters of LaunchTemplateData as they were sent, by the names
// that RunInstances has for them.
func (c *call) templateParameters() (map[string]string, error) {
	given := c.params.Children["LaunchTemplateData"]
	if given == nil {
		return nil, nil
	}
	parameters := make(map[string]string)
	given.Each(func(name, value string) {
		if name == "RamDiskId" {
			name = "RamdiskId"
		}
		if value != "" {
			parameters[name] = value
		}
	})
	return parameters, nil
}

func createTemplate(c *call, r *createTemplateRequest) (*templateAnswer, error) {
	if err := r.Data.check(c.action); err != nil {
		return nil, err
	}
	tags, err := tagsFor(r.Tags, "launch-template")
	if err != nil {
		return nil, err
	}
	data, err := c.templateParameters()
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateLaunchTemplate{
		Account: c.account, Region: c.region, Name: r.Name, Description: r.Description, Data: data, ClientToken: r.ClientToken, Tags: tags,
	})
	if err != nil {
		return nil, err
	}
	return &templateAnswer{c.newTemplateItem(result.Template)}, nil
}

type templateRequest struct {
	ID   ec2.LaunchTemplateID `wire:"LaunchTemplateId"`
	Name string               `wire:"LaunchTemplateName"`
}

func (r templateRequest) selector() state.TemplateSelector {
	return state.TemplateSelector{ID: r.ID, Name: r.Name}
}

type createVersionRequest struct {
	templateRequest
	Source      string       `wire:"SourceVersion"`
	Description string       `wire:"VersionDescription"`
	Data        templateData `wire:"LaunchTemplateData"`
	ClientToken string       `wire:"ClientToken"`
}

type versionAnswer struct {
	Version versionItem `wire:"launchTemplateVersion"`
}

type versionItem struct {
	ID          ec2.LaunchTemplateID `wire:"launchTemplateId"`
	Name        string               `wire:"launchTemplateName"`
	Number      int                  `wire:"versionNumber"`
	Description string               `wire:"versionDescription"`
	Created     time.Time            `wire:"createTime"`
	By          string               `wire:"createdBy"`
	Default     bool                 `wire:"defaultVersion"`
	Data        templateDataItem     `wire:"launchTemplateData"`
}

func newVersionItem(t *ec2.LaunchTemplate, v *ec2.LaunchTemplateVersion) (versionItem, error) {
	data, err := storedTemplateData(v)
	if err != nil {
		return versionItem{}, err
	}
	return versionItem{t.ID, t.Name, v.Number, v.Description, v.Created, rootUser(t.Account), v.Number == t.Default, data.item()}, nil
}

func createTemplateVersion(c *call, r *createVersionRequest) (*versionAnswer, error) {
	if err := r.Data.check(c.action); err != nil {
		return nil, err
	}
	data, err := c.templateParameters()
	if err != nil {
		return nil, err
	}
	change := &state.CreateLaunchTemplateVersion{
		Account: c.account, Region: c.region, Template: r.selector(), Description: r.Description, Data: data, ClientToken: r.ClientToken,
	}
	if r.Source != "" {
		t, err := c.view.FindLaunchTemplate(c.account, c.region, r.selector())
		if err != nil {
			return nil, err
		}
		if change.Source, err = versionNumber(t, r.Source); err != nil {
			return nil, err
		}
	}
	result, err := c.apply(change)
	if err != nil {
		return nil, err
	}
	item, err := newVersionItem(result.Template, result.TemplateVersion)
	return &versionAnswer{item}, err
}

// versionNumber returns the number of a version that a request gives as $Latest, $Default or number.
func versionNumber(t *ec2.LaunchTemplate, text string) (int, error) {
	switch text {
	case latestVersion:
		return t.Latest, nil
	case defaultVersion:
		return t.Default, nil
	}
	number, err := strconv.ParseInt(text, 10, 32)
	if err != nil || number < 1 {
		return 0, ec2.Errorf("InvalidParameterValue", "Invalid launch template version: either '$Default', '$Latest', or a numeric version are allowed, not '%s'.", wire.Quote(text))
	}
	return int(number), nil
}

type modifyTemplateRequest struct {
	templateRequest
	Default string `wire:"SetDefaultVersion"`
}

func modifyTemplate(c *call, r *modifyTemplateRequest) (*templateAnswer, error) {
	t, err := c.view.FindLaunchTemplate(c.account, c.region, r.selector())
	if err != nil {
		return nil, err
	}
	if r.Default == "" {
		return nil, ec2.Missing("SetDefaultVersion")
	}
	number, err := versionNumber(t, r.Default)
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.ModifyLaunchTemplate{Account: c.account, Region: c.region, Template: r.selector(), Default: number})
	if err != nil {
		return nil, err
	}
	return &templateAnswer{c.newTemplateItem(result.Template)}, nil
}

func deleteTemplate(c *call, r *templateRequest) (*templateAnswer, error) {
	t, err := c.view.FindLaunchTemplate(c.account, c.region, r.selector())
	if err != nil {
		return nil, err
	}
	item := c.newTemplateItem(t) // with its tags
	if _, err := c.apply(&state.DeleteLaunchTemplate{Account: c.account, Region: c.region, Template: r.selector()}); err != nil {
		return nil, err
	}
	return &templateAnswer{item}, nil
}

type deleteVersionsRequest struct {
	templateRequest
	Versions []string `wire:"LaunchTemplateVersion"`
}

type deleteVersionsAnswer struct {
	Deleted []deletedVersionItem `wire:"successfullyDeletedLaunchTemplateVersionSet"`
	Failed  []failedVersionItem  `wire:"unsuccessfullyDeletedLaunchTemplateVersionSet"`
}

type deletedVersionItem struct {
	ID     ec2.LaunchTemplateID `wire:"launchTemplateId"`
	Name   string               `wire:"launchTemplateName"`
	Number int                  `wire:"versionNumber"`
}

type failedVersionItem struct {
	deletedVersionItem
	Error reasonItem `wire:"responseError"`
}

func deleteTemplateVersions(c *call, r *deleteVersionsRequest) (*deleteVersionsAnswer, error) {
	t, err := c.view.FindLaunchTemplate(c.account, c.region, r.selector())
	if err != nil {
		return nil, err
	}
	if len(r.Versions) > maxDeletedVersions {
		return nil, ec2.Errorf("InvalidParameterValue", "A request deletes at most %d versions, not %d", maxDeletedVersions, len(r.Versions))
	}
	var numbers []int
	for _, text := range r.Versions {
		number, err := versionNumber(t, text)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, number)
	}
	result, err := c.apply(&state.DeleteLaunchTemplateVersions{Account: c.account, Region: c.region, Template: r.selector(), Versions: numbers})
	if err != nil {
		return nil, err
	}
	answer := &deleteVersionsAnswer{}
	for _, number := range numbers {
		item := deletedVersionItem{t.ID, t.Name, number}
		switch {
		case slices.Contains(result.Versions, number):
			answer.Deleted = append(answer.Deleted, item)
		case number == result.Template.Default:
			answer.Failed = append(answer.Failed, failedVersionItem{item, reasonItem{"unexpectedError", "The default version of a launch template cannot be deleted."}})
		default:
			answer.Failed = append(answer.Failed, failedVersionItem{item, reasonItem{"launchTemplateVersionDoesNotExist", "The launch template version does not exist."}})
		}
	}
	return answer, nil
}
