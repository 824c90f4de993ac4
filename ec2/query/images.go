package query

import (
	"regexp"
	"slices"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// imageActions show images, and the volumes and IAM profiles that instances do not have.
var imageActions = map[string]handler{
	"DescribeImages":                         action(describeImages),
	"DescribeVolumes":                        action(describeVolumes),
	"DescribeIamInstanceProfileAssociations": action(describeProfileAssociations),
}

// imageOwner is the owner that images show. There is no such account, because the images
// are part of the nodes.
const imageOwner = "000000000000"

// catalogue has the image of the EC2 Getting Started Guide (2006), which serves ssh, and
// the images that serve more. An instance with any other well-formed image id boots the
// first image.
var catalogue = []struct{ id, description string }{
	{"ami-eca54085", "ssh"},
	{"ami-fba54092", "ssh, and a web server on port 80"},
	{"ami-e3a5408a", "ssh, and an application server on port 8000"},
	{"ami-f1a54098", "ssh, and a database's greeting on port 3306"},
}

type imageItem struct {
	ID             string `wire:"imageId"`
	Location       string `wire:"imageLocation"`
	State          string `wire:"imageState"`
	Owner          string `wire:"imageOwnerId"`
	Public         bool   `wire:"isPublic"`
	ProductCodes   []tag  `wire:"productCodes"`
	Architecture   string `wire:"architecture"`
	Type           string `wire:"imageType"`
	Name           string `wire:"name"`
	Description    string `wire:"description"`
	RootDevice     string `wire:"rootDeviceType"`
	BlockDevices   []tag  `wire:"blockDeviceMapping"`
	Virtualization string `wire:"virtualizationType"`
	ENA            bool   `wire:"enaSupport"`
	Tags           []tag  `wire:"tagSet"`
	Platform       string `wire:"platformDetails"`
	Usage          string `wire:"usageOperation"`
}

func newImageItem(id string) imageItem {
	item := imageItem{
		ID: id, Location: "palisade/" + id, State: "available", Owner: imageOwner, Public: true, Architecture: "x86_64", Type: "machine",
		Name: "palisade/" + id, Description: catalogue[0].description, RootDevice: "instance-store", Virtualization: "hvm",
		Platform: "Linux/UNIX", Usage: "RunInstances",
	}
	for _, known := range catalogue {
		if known.id == id {
			item.Description = known.description
		}
	}
	return item
}

var imageListing = listing[imageItem]{
	id: func(i imageItem) string { return i.ID },
	filters: filterable[imageItem]{
		"architecture":                     func(i imageItem) []string { return nonEmpty(i.Architecture) },
		"block-device-mapping.volume-type": never[imageItem],
		"creation-date":                    never[imageItem],
		"description":                      func(i imageItem) []string { return nonEmpty(i.Description) },
		"ena-support":                      func(i imageItem) []string { return boolean(i.ENA) },
		"hypervisor":                       never[imageItem],
		"image-id":                         func(i imageItem) []string { return nonEmpty(i.ID) },
		"image-type":                       func(i imageItem) []string { return nonEmpty(i.Type) },
		"is-public":                        func(i imageItem) []string { return boolean(i.Public) },
		"name":                             func(i imageItem) []string { return nonEmpty(i.Name) },
		"owner-alias":                      never[imageItem],
		"owner-id":                         func(i imageItem) []string { return nonEmpty(i.Owner) },
		"platform":                         never[imageItem],
		"product-code":                     never[imageItem],
		"root-device-name":                 never[imageItem],
		"root-device-type":                 func(i imageItem) []string { return nonEmpty(i.RootDevice) },
		"state":                            func(i imageItem) []string { return nonEmpty(i.State) },
		"virtualization-type":              func(i imageItem) []string { return nonEmpty(i.Virtualization) },
	},
}

type describeImagesRequest struct {
	IDs    []string `wire:"ImageId"`
	Owners []string `wire:"Owner"`
	listed
}

type describeImagesAnswer struct {
	Images    []imageItem `wire:"imagesSet"`
	NextToken string      `wire:"nextToken"`
}

var imageID = regexp.MustCompile(`^ami-[0-9a-f]{8}([0-9a-f]{9})?$`)

// describeImages shows an image for each well-formed id that is asked for; without ids,
// the catalogue and the images of the account's instances.
func describeImages(c *call, r *describeImagesRequest) (*describeImagesAnswer, error) {
	ids := slices.Clone(r.IDs)
	for _, id := range ids {
		if !imageID.MatchString(id) {
			return nil, ec2.Errorf("InvalidAMIID.Malformed", `Invalid id: "%s" (expecting "ami-...")`, wire.Quote(id))
		}
	}
	if len(ids) == 0 {
		for _, known := range catalogue {
			ids = append(ids, known.id)
		}
		for i := range c.view.InstancesOf(c.account, c.region) {
			ids = append(ids, i.Image)
		}
	}
	slices.Sort(ids)
	var items []imageItem
	for _, id := range slices.Compact(ids) {
		if len(r.Owners) == 0 || slices.Contains(r.Owners, imageOwner) {
			items = append(items, newImageItem(id))
		}
	}
	items, next, err := imageListing.pick(c, items, nil, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeImagesAnswer{items, next}, nil
}

type describeVolumesRequest struct {
	IDs []string `wire:"VolumeId"`
	listed
}

type describeVolumesAnswer struct {
	Volumes []tag `wire:"volumeSet"`
}

var volumeID = regexp.MustCompile(`^vol-[0-9a-f]{1,17}$`)

// describeVolumes shows none: an instance's root file system is in memory.
func describeVolumes(c *call, r *describeVolumesRequest) (*describeVolumesAnswer, error) {
	switch {
	case len(r.IDs) > 0 && !volumeID.MatchString(r.IDs[0]):
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter volumes is invalid. Expected: 'vol-...'.", wire.Quote(r.IDs[0]))
	case len(r.IDs) > 0:
		return nil, ec2.Errorf("InvalidVolume.NotFound", "The volume '%s' does not exist.", r.IDs[0])
	}
	filters := make(filterable[tag])
	for _, name := range []string{
		"attachment.attach-time", "attachment.delete-on-termination", "attachment.device", "attachment.instance-id", "attachment.status",
		"availability-zone", "create-time", "encrypted", "fast-restored", "multi-attach-enabled", "size", "snapshot-id", "status", "volume-id", "volume-type",
	} {
		filters[name] = never[tag]
	}
	if err := filters.check(r.Filters); err != nil {
		return nil, err
	}
	return &describeVolumesAnswer{}, nil
}

type describeProfileAssociationsRequest struct {
	IDs []string `wire:"AssociationId"`
	listed
}

type describeProfileAssociationsAnswer struct {
	Associations []tag `wire:"iamInstanceProfileAssociationSet"`
}

// describeProfileAssociations shows none: instances cannot have IAM roles here.
func describeProfileAssociations(c *call, r *describeProfileAssociationsRequest) (*describeProfileAssociationsAnswer, error) {
	if len(r.IDs) > 0 {
		return nil, ec2.Errorf("InvalidAssociationID.NotFound", "The association ID '%s' does not exist", wire.Quote(r.IDs[0]))
	}
	if err := (filterable[tag]{"instance-id": never[tag], "state": never[tag]}).check(r.Filters); err != nil {
		return nil, err
	}
	return &describeProfileAssociationsAnswer{}, nil
}
