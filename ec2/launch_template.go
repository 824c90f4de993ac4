package ec2

import (
	"maps"
	"regexp"
	"strings"
	"time"
)

// A LaunchTemplate has numbered versions. Each version has parameters for RunInstances.
type LaunchTemplate struct {
	ID      LaunchTemplateID
	Account AccountID
	Region  Region
	Name    string // unique in the account's region
	Created time.Time
	Default int // the number of the default version
	Latest  int // the greatest number that a version ever had

	ClientToken  string `json:",omitempty"`
	RequestShape string `json:",omitempty"` // digest of the request that came with ClientToken
}

// A LaunchTemplateVersion never changes after it was made.
type LaunchTemplateVersion struct {
	Template    LaunchTemplateID
	Number      int // from 1
	Description string
	Created     time.Time

	// Data has parameters by their full names, as RunInstances gets them:
	// "NetworkInterface.1.SubnetId". No value is empty.
	Data map[string]string

	ClientToken  string `json:",omitempty"`
	RequestShape string `json:",omitempty"`
}

// TemplateVersion names one version of a launch template.
type TemplateVersion struct {
	Template LaunchTemplateID
	Version  int
}

// Keys of the tags that an instance has if it was launched from a template.
const (
	TagLaunchTemplateID      = "aws:ec2launchtemplate:id"
	TagLaunchTemplateVersion = "aws:ec2launchtemplate:version"
)

var launchTemplateID = regexp.MustCompile(`^lt-[0-9a-f]{1,17}$`)

// CheckLaunchTemplateID returns EC2's error for text that does not have the form of an id of a
// launch template.
func CheckLaunchTemplateID(id LaunchTemplateID) error {
	if !launchTemplateID.MatchString(string(id)) {
		return Errorf("InvalidLaunchTemplateId.Malformed", `Invalid id: "%s" (expecting "lt-...")`, Clip(string(id)))
	}
	return nil
}

// sameParameter maps the parameters of a launch that a request replaces together to one name.
var sameParameter = map[string]string{"SecurityGroupId": "SecurityGroup"}

// Overlay returns the parameters of base, except those that over has too, and the parameters of
// over. A parameter is everything below the first part of a name, such as all network interfaces
// (EC2 API Reference, "CreateLaunchTemplateVersion", SourceVersion; "RunInstances").
func Overlay(base, over map[string]string) map[string]string {
	replaced := make(map[string]bool)
	for name := range over {
		replaced[parameterOf(name)] = true
	}
	merged := maps.Clone(over)
	if merged == nil {
		merged = make(map[string]string)
	}
	for name, value := range base {
		if !replaced[parameterOf(name)] {
			merged[name] = value
		}
	}
	return merged
}

func parameterOf(name string) string {
	first, _, _ := strings.Cut(name, ".")
	if same, ok := sameParameter[first]; ok {
		return same
	}
	return first
}
