package model

import "regexp"

// The reasons why an action is not served.
const (
	changesTraffic = "it would change which traffic is admitted or where it goes, and nothing here enforces that"
	notRecorded    = "nothing here records traffic or analyses paths for it"
	needsDisks     = "volumes hold no data here, so there is nothing to copy, share or restore"
	needsMarket    = "there is no market and no reservation of capacity here"
	needsMachine   = "instances have no such setting, firmware, screen or hardware here"
	changesNothing = "it would have no effect here"
	notComputed    = "its answer would be computed from data that are not here"
)

// refused has the reasons by what the names of actions contain. The first one that matches
// counts. An action that only reads is refused only if its name is in refusedReads.
var refused = []struct {
	name *regexp.Regexp
	why  string
}{
	{regexp.MustCompile(`FlowLogs|NetworkInsights|NetworkPerformanceMetric|Reachability`), notRecorded},
	{regexp.MustCompile(`Reserved|Reservation|Spot|Fleet|Host|CapacityManager|CapacityBlock|Scheduled|PlacementGroup|ProductInstance|CreditSpecification`), needsMarket},
	{regexp.MustCompile(`(Modify|Reset)AddressAttribute|DnsName`), changesNothing},
	{regexp.MustCompile(`Vpc|Vpn|ClassicLink|SecurityGroup|Subnet|NetworkAcl|Route|Gateway|PrefixList|Ipv[46]|Ipam|Byoip|Coip|Cidr|Address|` +
		`TrafficMirror|ConnectEndpoint|VerifiedAccess|Trunk|Secondary|NetworkInterface|VirtualInterface|NetworkPerformance|DhcpOptions|LaunchTemplate`), changesTraffic},
	{regexp.MustCompile(`Volume|Snapshot|Image|Ebs|Bundle|Import|Export|ConversionTask|Watermark|Enclave|FastLaunch`), needsDisks},
	{regexp.MustCompile(`Instance|Mac|ApplicationStatusCheck|SerialConsole`), needsMachine},
}

// refusedReads has the actions that only read, but whose answer is no list that could be empty.
var refusedReads = map[string]string{
	"GetConsoleScreenshot":                     needsMachine,
	"GetInstanceTpmEkPub":                      needsMachine,
	"GetInstanceUefiData":                      needsMachine,
	"GetInstanceTypesFromInstanceRequirements": notComputed,
	"GetSpotPlacementScores":                   needsMarket,
	"GetLaunchTemplateData":                    notComputed,
}

// WhyRefused returns why an action is not served, or "" for an action that only reads and has
// an answer when an account has nothing.
func WhyRefused(action string) string {
	if OnlyReads(action) {
		return refusedReads[action]
	}
	for _, r := range refused {
		if r.name.MatchString(action) {
			return r.why
		}
	}
	return changesNothing
}
