package instance

import (
	"fmt"
	"regexp"
	"strings"
)

// An Image lists the services of an AMI id and their TCP ports. Every image also serves ssh on port 22,
// with the instance's key pair.
type Image struct {
	ID       string
	Name     string
	Services []Service
}

// A Service is a listener that init serves itself.
type Service struct {
	Name string // "http", "mysql"
	Port uint16
}

// DefaultImage is the image with ssh alone, like AMI ids that the catalogue does not list.
const DefaultImage = "ami-eca54085"

// images is the catalogue.
var images = []Image{
	{DefaultImage, "Albert's favourite: ssh", nil},
	{"ami-fba54092", "web server", []Service{{"http", 80}}},
	{"ami-e3a5408a", "application server", []Service{{"http", 8000}}},
	{"ami-f1a54098", "database", []Service{{"mysql", 3306}}},
}

// imageID matches AMI ids: 8 hex digits, or 17 since 2016 (EC2 User Guide, "Resource IDs").
var imageID = regexp.MustCompile(`^ami-([0-9a-f]{8}|[0-9a-f]{17})$`)

// Lookup returns the image of an AMI id. Any well-formed id has one, because people first try the ids
// of their own region, which a lab does not know.
func Lookup(id string) (Image, error) {
	for _, image := range images {
		if strings.EqualFold(image.ID, id) {
			return image, nil
		}
	}
	if !imageID.MatchString(id) {
		return Image{}, fmt.Errorf("%q is not an AMI id", id)
	}
	return Image{ID: id, Name: "unlisted image: ssh"}, nil
}
