package instance

import (
	"fmt"
	"regexp"
	"strings"
)

// An Image is what an AMI id means here: a list of services and their TCP ports. Every image also
// serves ssh on port 22, with the instance's key pair.
type Image struct {
	ID       string
	Name     string
	Services []Service
}

// A Service is a TCP server that runs in the instance's init process.
type Service struct {
	Name string // "http", "mysql"
	Port uint16
}

// DefaultImage is an image that serves only ssh, as do all AMI ids that are not in images.
const DefaultImage = "ami-eca54085"

// images are the images that serve more than ssh, and DefaultImage.
var images = []Image{
	{DefaultImage, "Albert's favourite: ssh", nil},
	{"ami-fba54092", "web server", []Service{{"http", 80}}},
	{"ami-e3a5408a", "application server", []Service{{"http", 8000}}},
	{"ami-f1a54098", "database", []Service{{"mysql", 3306}}},
}

// imageID matches AMI ids: 8 hex digits, or 17 since 2016 (EC2 User Guide, "Resource IDs").
var imageID = regexp.MustCompile(`^ami-([0-9a-f]{8}|[0-9a-f]{17})$`)

// Lookup returns the image of an AMI id, and an error if id is not well formed. An id that is not in
// images gets an image with ssh only, because people first try the ids of their own region.
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
