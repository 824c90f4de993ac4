// Package region says which regions and availability zones there are, and which nodes carry them.
//
// AWS's own regions and zones are the table in this file. A Plan (plan.go) is what an operator
// decided for a cluster; it is part of the replicated state. The functions are pure, so every node
// comes to the same result.
package region

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"palisade/ec2"
)

// A Known is a region of AWS.
type Known struct {
	Name  ec2.Region
	Zones []string // their names, such as us-east-1a, sorted
	OptIn bool     // an account of AWS has to enable the region before it can use it
}

// known are the regions of AWS's partition "aws", as botocore's endpoints.json lists them, with the
// letters of the zones. Where numbers is empty, the letters follow the numbers of the zone ids: a is
// az1. AWS maps letters to numbers differently for each account, so any mapping is faithful, as long
// as the ids are those that exist. Regions launched before 20 March 2019 need no opt-in (AWS Account
// Management Reference, "Enable or disable AWS Regions").
var known = []struct {
	name    ec2.Region
	letters string
	numbers string
	optIn   bool
}{
	{"af-south-1", "abc", "", true},
	{"ap-east-1", "abc", "", true},
	{"ap-east-2", "abc", "", true},
	{"ap-northeast-1", "acd", "412", false},
	{"ap-northeast-2", "abcd", "", false},
	{"ap-northeast-3", "abc", "", false},
	{"ap-south-1", "abc", "", false},
	{"ap-south-2", "abc", "", true},
	{"ap-southeast-1", "abc", "", false},
	{"ap-southeast-2", "abc", "", false},
	{"ap-southeast-3", "abc", "", true},
	{"ap-southeast-4", "abc", "", true},
	{"ap-southeast-5", "abc", "", true},
	{"ap-southeast-6", "abc", "", true},
	{"ap-southeast-7", "abc", "", true},
	{"ca-central-1", "abd", "", false},
	{"ca-west-1", "abc", "", true},
	{"eu-central-1", "abc", "", false},
	{"eu-central-2", "abc", "", true},
	{"eu-north-1", "abc", "", false},
	{"eu-south-1", "abc", "", true},
	{"eu-south-2", "abc", "", true},
	{"eu-west-1", "abc", "", false},
	{"eu-west-2", "abc", "", false},
	{"eu-west-3", "abc", "", false},
	{"il-central-1", "abc", "", true},
	{"me-central-1", "abc", "", true},
	{"me-south-1", "abc", "", true},
	{"mx-central-1", "abc", "", true},
	{"sa-east-1", "abc", "", false},
	{"us-east-1", "abcdef", "", false},
	{"us-east-2", "abc", "", false},
	{"us-west-1", "bc", "31", false},
	{"us-west-2", "abcd", "", false},
}

// All returns the regions of AWS, sorted by name.
func All() []Known {
	all := make([]Known, len(known))
	for i, k := range known {
		all[i] = Known{k.name, zones(k.name, k.letters), k.optIn}
	}
	return all
}

// Named returns a region of AWS.
func Named(name ec2.Region) (Known, bool) {
	for _, k := range known {
		if k.name == name {
			return Known{k.name, zones(k.name, k.letters), k.optIn}, true
		}
	}
	return Known{}, false
}

func zones(name ec2.Region, letters string) (names []string) {
	for _, letter := range letters {
		names = append(names, string(name)+string(letter))
	}
	return names
}

var zoneForm = regexp.MustCompile(`^(([a-z]+)-((?:[a-z]+-)+)([0-9]))([a-z])$`)

var shortened = strings.NewReplacer("north", "n", "south", "s", "east", "e", "west", "w", "central", "c", "gov", "g", "-", "")

// ZoneID returns the id of a zone, "use1-az1" for us-east-1a. A zone whose name is not of EC2's form
// has its name as id.
func ZoneID(zone string) string {
	m := zoneForm.FindStringSubmatch(zone)
	if m == nil {
		return zone
	}
	number := fmt.Sprint(m[5][0] - 'a' + 1)
	for _, k := range known {
		if at := strings.Index(k.letters, m[5]); k.name == ec2.Region(m[1]) && at >= 0 && k.numbers != "" {
			number = k.numbers[at : at+1]
		}
	}
	return m[2] + shortened.Replace(m[3]) + m[4] + "-az" + number
}

// list returns at most most names, and says how many are left out.
func list(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// List returns the names of regions for an error.
func List(names []ec2.Region) string {
	var texts []string
	for _, n := range names {
		texts = append(texts, string(n))
	}
	slices.Sort(texts)
	return list(texts, 40)
}
