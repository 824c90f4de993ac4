package query

import (
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/region"
)

// instanceImageActions show the images of instances, and the attributes of images.
var instanceImageActions = map[string]handler{
	"DescribeImageAttribute":        action(describeImageAttribute),
	"DescribeInstanceImageMetadata": action(describeInstanceImages),
}

type imageAttributeRequest struct {
	Attribute string `wire:"Attribute"`
	Image     string `wire:"ImageId"`
}

// describeImageAttribute answers as EC2 does to an account that does not own the image: no
// account owns one here.
func describeImageAttribute(_ *call, r *imageAttributeRequest) (*struct{}, error) {
	switch {
	case r.Attribute == "":
		return nil, ec2.Missing("attribute")
	case r.Image == "":
		return nil, ec2.Missing("imageId")
	case !imageID.MatchString(r.Image):
		return nil, ec2.Errorf("InvalidAMIID.Malformed", `Invalid id: "%s" (expecting "ami-...")`, wire.Quote(r.Image))
	}
	return nil, ec2.Errorf("AuthFailure", "Not authorized for image:%s", r.Image)
}

type describeInstanceImagesRequest struct {
	IDs []string `wire:"InstanceId"`
	listed
}

type describeInstanceImagesAnswer struct {
	Instances []instanceImageItem `wire:"instanceImageMetadataSet"`
	NextToken string              `wire:"nextToken"`
}

type instanceImageItem struct {
	ID         ec2.InstanceID    `wire:"instanceId"`
	Type       string            `wire:"instanceType"`
	LaunchTime time.Time         `wire:"launchTime"`
	Zone       string            `wire:"availabilityZone"`
	ZoneID     string            `wire:"zoneId"`
	State      stateItem         `wire:"instanceState"`
	Owner      ec2.AccountID     `wire:"instanceOwnerId"`
	Tags       []tag             `wire:"tagSet"`
	Image      imageMetadataItem `wire:"imageMetadata"`
	Operator   operatorItem      `wire:"operator"`
}

type imageMetadataItem struct {
	ID         string    `wire:"imageId"`
	Name       string    `wire:"name"`
	Owner      string    `wire:"imageOwnerId"`
	State      string    `wire:"imageState"`
	Alias      string    `wire:"imageOwnerAlias"`
	Created    time.Time `wire:"creationDate"`
	Deprecated time.Time `wire:"deprecationTime"`
	Public     bool      `wire:"isPublic"`
}

var instanceImageListing = listing[instanceImageItem]{
	kind: "i",
	id:   func(i instanceImageItem) string { return string(i.ID) },
	filters: filterable[instanceImageItem]{
		"availability-zone":   func(i instanceImageItem) []string { return nonEmpty(i.Zone) },
		"image-allowed":       func(instanceImageItem) []string { return boolean(true) },
		"instance-id":         func(i instanceImageItem) []string { return nonEmpty(i.ID) },
		"instance-state-name": func(i instanceImageItem) []string { return nonEmpty(i.State.Name) },
		"instance-type":       func(i instanceImageItem) []string { return nonEmpty(i.Type) },
		"launch-time":         func(i instanceImageItem) []string { return nonEmpty(wire.FormatTime(i.LaunchTime)) },
		"owner-alias":         func(i instanceImageItem) []string { return nonEmpty(i.Image.Alias) },
		"owner-id":            func(i instanceImageItem) []string { return nonEmpty(i.Owner) },
		"zone-id":             func(i instanceImageItem) []string { return nonEmpty(i.ZoneID) },
	},
}

func describeInstanceImages(c *call, r *describeInstanceImagesRequest) (*describeInstanceImagesAnswer, error) {
	items, next, err := describe(c, instanceImageListing, c.view.InstancesOf(c.account, c.region), c.newInstanceImageItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeInstanceImagesAnswer{items, next}, nil
}

func (c *call) newInstanceImageItem(i *ec2.Instance) instanceImageItem {
	zone := c.view.ZoneOf(i)
	image := imageNamed(i.Region, i.Image)
	return instanceImageItem{
		ID: i.ID, Type: i.Type, LaunchTime: i.LaunchTime, Zone: zone, ZoneID: region.ZoneID(zone), State: newStateItem(i.State), Owner: i.Account,
		Tags: c.tags(string(i.ID)),
		Image: imageMetadataItem{
			ID: image.ID, Name: image.Name, Owner: image.Owner, State: image.State, Alias: image.Alias,
			Created: image.Created, Deprecated: image.Deprecated, Public: image.Public,
		},
	}
}
