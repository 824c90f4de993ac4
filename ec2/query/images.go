package query

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"palisade/ec2"
	"palisade/ec2/catalogue"
	"palisade/ec2/query/wire"
)

// imageActions show images, and the IAM profiles that instances do not have.
var imageActions = map[string]handler{
	"DescribeImages":                         action(describeImages),
	"DescribeIamInstanceProfileAssociations": action(describeProfileAssociations),
}

// imageOwner is the owner of images outside of the catalogue. There is no such account, because the
// images are part of the nodes.
const imageOwner = "000000000000"

// classicImages are the image of the EC2 Getting Started Guide (2006), which serves ssh, and
// the images that serve more. They have no EBS root device, as all images of that time. An instance
// with any other well-formed image id boots the first image.
var classicImages = []struct{ id, description string }{
	{"ami-eca54085", "ssh"},
	{"ami-fba54092", "ssh, and a web server on port 80"},
	{"ami-e3a5408a", "ssh, and an application server on port 8000"},
	{"ami-f1a54098", "ssh, and a database's greeting on port 3306"},
}

type imageItem struct {
	ID             string            `wire:"imageId"`
	Location       string            `wire:"imageLocation"`
	State          string            `wire:"imageState"`
	Owner          string            `wire:"imageOwnerId"`
	Alias          string            `wire:"imageOwnerAlias"`
	Created        time.Time         `wire:"creationDate"`
	Deprecated     time.Time         `wire:"deprecationTime"`
	Public         bool              `wire:"isPublic"`
	ProductCodes   []tag             `wire:"productCodes"`
	Architecture   string            `wire:"architecture"`
	Type           string            `wire:"imageType"`
	Name           string            `wire:"name"`
	Description    string            `wire:"description"`
	RootType       string            `wire:"rootDeviceType"`
	RootName       string            `wire:"rootDeviceName"`
	BlockDevices   []imageDeviceItem `wire:"blockDeviceMapping"`
	Virtualization string            `wire:"virtualizationType"`
	Hypervisor     string            `wire:"hypervisor"`
	ENA            bool              `wire:"enaSupport"`
	SRIOV          string            `wire:"sriovNetSupport"`
	BootMode       string            `wire:"bootMode"`
	IMDS           string            `wire:"imdsSupport"`
	Tags           []tag             `wire:"tagSet"`
	Platform       string            `wire:"platformDetails"`
	Usage          string            `wire:"usageOperation"`
}

// An imageDeviceItem is a device that instances of an image have: a volume, or instance store.
type imageDeviceItem struct {
	Device  string        `wire:"deviceName"`
	Virtual string        `wire:"virtualName"`
	EBS     *imageEBSItem `wire:"ebs"`
}

type imageEBSItem struct {
	DeleteOnTermination bool   `wire:"deleteOnTermination"`
	Snapshot            string `wire:"snapshotId"`
	Size                int    `wire:"volumeSize"`
	Type                string `wire:"volumeType"`
	Encrypted           bool   `wire:"encrypted"`
}

// An image is what DescribeImages knows of an image before it decides whether to show it.
type image struct {
	imageItem
	newest     bool     // of a published series
	parameters []string // public parameters of SSM that name it
}

// imageNamed returns the image with a well-formed id: a published one, a Classic one, or one
// outside of the catalogue, which has an EBS root device like nearly all images today.
func imageNamed(region ec2.Region, id string) image {
	if published, ok := catalogue.Find(string(region), id); ok {
		return publishedImage(published)
	}
	item := imageItem{
		ID: id, Location: "palisade/" + id, State: "available", Owner: imageOwner, Public: true, Architecture: "x86_64", Type: "machine",
		Name: "palisade/" + id, Description: classicImages[0].description, Virtualization: "hvm",
		Platform: "Linux/UNIX", Usage: "RunInstances",
	}
	for _, known := range classicImages {
		if known.id == id {
			item.Description, item.RootType = known.description, "instance-store"
			return image{imageItem: item, newest: true}
		}
	}
	root := catalogue.Disk{Device: otherRoot, Snapshot: catalogue.SnapshotOf(string(region), id), Size: 8, VolumeType: "gp2"}
	item.RootType, item.RootName, item.BlockDevices = "ebs", root.Device, []imageDeviceItem{rootDevice(root)}
	item.Hypervisor = "xen"
	return image{imageItem: item, newest: true}
}

// otherRoot is the root device of an image outside of the catalogue, unless a launch names another one.
const otherRoot = "/dev/xvda"

func publishedImage(i catalogue.Image) image {
	item := imageItem{
		ID: i.ID, Location: i.Alias + "/" + i.Name, State: "available", Owner: i.Owner, Alias: i.Alias, Created: i.Created, Deprecated: i.Deprecated,
		Public: true, Architecture: i.Architecture, Type: "machine", Name: i.Name, Description: i.Description, RootType: "ebs", RootName: i.Root.Device,
		BlockDevices: []imageDeviceItem{rootDevice(i.Root)}, Virtualization: "hvm", Hypervisor: "xen", ENA: true, SRIOV: "simple",
		BootMode: i.BootMode, IMDS: i.IMDS, Platform: "Linux/UNIX", Usage: "RunInstances",
	}
	for n, device := range i.Ephemeral {
		item.BlockDevices = append(item.BlockDevices, imageDeviceItem{Device: device, Virtual: "ephemeral" + strconv.Itoa(n)})
	}
	return image{item, i.Newest, i.Parameters}
}

func rootDevice(d catalogue.Disk) imageDeviceItem {
	return imageDeviceItem{Device: d.Device, EBS: &imageEBSItem{DeleteOnTermination: true, Snapshot: d.Snapshot, Size: d.Size, Type: d.VolumeType}}
}

// imageFilters are the filters of EC2's API Reference, "DescribeImages", and platform-details.
var imageFilters = func() filterable[image] {
	of := func(value func(image) string) func(image) []string {
		return func(i image) []string { return nonEmpty(value(i)) }
	}
	volumes := func(value func(imageEBSItem) string) func(image) []string {
		return func(i image) []string {
			return valuesOf(i.BlockDevices, func(d imageDeviceItem) string {
				if d.EBS == nil {
					return ""
				}
				return value(*d.EBS)
			})
		}
	}
	all := filterable[image]{
		"architecture": of(func(i image) string { return i.Architecture }),
		"block-device-mapping.delete-on-termination": volumes(func(v imageEBSItem) string { return strconv.FormatBool(v.DeleteOnTermination) }),
		"block-device-mapping.device-name": func(i image) []string {
			return valuesOf(i.BlockDevices, func(d imageDeviceItem) string { return d.Device })
		},
		"block-device-mapping.encrypted":   volumes(func(v imageEBSItem) string { return strconv.FormatBool(v.Encrypted) }),
		"block-device-mapping.snapshot-id": volumes(func(v imageEBSItem) string { return v.Snapshot }),
		"block-device-mapping.volume-size": volumes(func(v imageEBSItem) string { return strconv.Itoa(v.Size) }),
		"block-device-mapping.volume-type": volumes(func(v imageEBSItem) string { return v.Type }),
		"creation-date": func(i image) []string {
			if i.Created.IsZero() {
				return nil
			}
			return nonEmpty(wire.FormatTime(i.Created))
		},
		"description":               of(func(i image) string { return i.Description }),
		"ena-support":               func(i image) []string { return boolean(i.ENA) },
		"hypervisor":                of(func(i image) string { return i.Hypervisor }),
		"image-allowed":             func(image) []string { return boolean(true) },
		"image-id":                  of(func(i image) string { return i.ID }),
		"image-type":                of(func(i image) string { return i.Type }),
		"is-public":                 func(i image) []string { return boolean(i.Public) },
		"manifest-location":         of(func(i image) string { return i.Location }),
		"name":                      of(func(i image) string { return i.Name }),
		"owner-alias":               of(func(i image) string { return i.Alias }),
		"owner-id":                  of(func(i image) string { return i.Owner }),
		"public-ssm-parameter-name": func(i image) []string { return i.parameters },
		"platform-details":          of(func(i image) string { return i.Platform }),
		"root-device-name":          of(func(i image) string { return i.RootName }),
		"root-device-type":          of(func(i image) string { return i.RootType }),
		"sriov-net-support":         of(func(i image) string { return i.SRIOV }),
		"state":                     of(func(i image) string { return i.State }),
		"virtualization-type":       of(func(i image) string { return i.Virtualization }),
	}
	for _, name := range []string{
		"image-watermark.source-image-creation-time", "image-watermark.source-image-id", "image-watermark.source-image-region",
		"image-watermark.watermark-creation-time", "image-watermark.watermark-key",
		"scan-result.critical-fix-available-since", "scan-result.finding-scan-date", "scan-result.high-fix-available-since",
		"scan-result.highest-finding-severity-label", "scan-result.informational-fix-available-since",
		"scan-result.low-fix-available-since", "scan-result.medium-fix-available-since",
		"free-tier-eligible", "kernel-id", "platform", "product-code", "product-code.type", "ramdisk-id",
		"source-image-id", "source-image-region", "source-instance-id", "state-reason-code", "state-reason-message",
	} {
		all[name] = never[image]
	}
	return all
}()

type describeImagesRequest struct {
	IDs               []string `wire:"ImageId"`
	Owners            []string `wire:"Owner"`
	Users             []string `wire:"ExecutableBy"`
	IncludeDeprecated bool     `wire:"IncludeDeprecated"`
	listed
}

type describeImagesAnswer struct {
	Images    []imageItem `wire:"imagesSet"`
	NextToken string      `wire:"nextToken"`
}

var imageID = regexp.MustCompile(`^ami-[0-9a-f]{8}([0-9a-f]{9})?$`)

// describeImages shows an image for each well-formed id that is asked for; without ids, the published
// images, the Classic ones and those of the account's instances. The newest come first.
func describeImages(c *call, r *describeImagesRequest) (*describeImagesAnswer, error) {
	for _, id := range r.IDs {
		if !imageID.MatchString(id) {
			return nil, ec2.Errorf("InvalidAMIID.Malformed", `Invalid id: "%s" (expecting "ami-...")`, wire.Quote(id))
		}
	}
	if err := imageFilters.check(r.Filters); err != nil {
		return nil, err
	}
	tags := taggedBy(c, func(i image) string { return i.ID })
	var items []imageItem
	for _, i := range c.images(r) {
		if r.shows(c, &i) && imageFilters.match(i, r.Filters, tags) {
			items = append(items, i.imageItem)
		}
	}
	slices.SortFunc(items, func(a, b imageItem) int { return strings.Compare(a.order(), b.order()) })
	items, next, err := page(items, imageItem.order, r.paged)
	if err != nil {
		return nil, err
	}
	return &describeImagesAnswer{items, next}, nil
}

// order returns the key that images are listed by: the newest come first, those without a date last.
func (i imageItem) order() string {
	before := lastDay.Sub(i.Created)
	if i.Created.IsZero() {
		before = lastDay.Sub(firstDay)
	}
	return strconv.FormatInt(int64(before/time.Second)+1e10, 10) + " " + i.ID
}

// Images are published between these days.
var (
	firstDay = time.Date(2006, 8, 25, 0, 0, 0, 0, time.UTC) // of EC2
	lastDay  = time.Date(2106, 1, 1, 0, 0, 0, 0, time.UTC)
)

// images returns the images that a request may ask for: those with its ids, or all.
func (c *call) images(r *describeImagesRequest) (list []image) {
	ids := slices.Clone(r.IDs)
	if len(ids) == 0 {
		for _, published := range catalogue.Images(string(c.region)) {
			list = append(list, publishedImage(published))
		}
		for _, known := range classicImages {
			ids = append(ids, known.id)
		}
		for i := range c.view.InstancesOf(c.account, c.region) {
			ids = append(ids, i.Image)
		}
		for _, f := range r.Filters {
			if f.Name == "image-id" {
				ids = append(ids, f.Values...)
			}
		}
		ids = slices.DeleteFunc(ids, func(id string) bool {
			_, listed := catalogue.Find(string(c.region), id)
			return listed || !imageID.MatchString(id)
		})
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		list = append(list, imageNamed(c.region, id))
	}
	return list
}

// shows reports whether a request wants to see an image, apart from its filters. No account owns an image
// here, and none has launch permissions for single accounts.
//
// A deprecated image is shown if the request includes such images or names the image, by its id or by
// a filter without wildcards: code that was written for an image of some years ago still finds it. The
// newest image of each series is never hidden.
func (r *describeImagesRequest) shows(c *call, i *image) bool {
	if len(r.Owners) > 0 && !slices.ContainsFunc(r.Owners, func(o string) bool { return o == i.Owner || o == i.Alias && o != "" }) {
		return false
	}
	if len(r.Users) > 0 && !slices.Contains(r.Users, "all") {
		return false
	}
	if i.Deprecated.IsZero() || c.server.cfg.Now().Before(i.Deprecated) {
		return true
	}
	if i.newest {
		i.Deprecated = time.Time{}
		return true
	}
	return r.IncludeDeprecated || len(r.IDs) > 0 || slices.ContainsFunc(r.Filters, func(f filter) bool {
		return (f.Name == "name" || f.Name == "image-id") && (slices.Contains(f.Values, i.Name) || slices.Contains(f.Values, i.ID))
	})
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
