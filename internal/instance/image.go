package instance

import (
	"fmt"
	"regexp"
	"strings"
)

// An Image is what an AMI id boots: which services answer on which TCP ports. Every
// image serves ssh on 22 with the instance's key pair.
type Image struct {
	ID       string
	Name     string
	Services []Service
}

// A Service is one listener that init serves itself.
type Service struct {
	Name string // "http", "mysql"
	Port uint16
}

// DefaultImage is what an AMI id boots that the catalogue does not list.
const DefaultImage = "ami-eca54085"

var images = []Image{
	{DefaultImage, "Albert's favourite: ssh", nil},
	{"ami-fba54092", "web server", []Service{{"http", 80}}},
	{"ami-e3a5408a", "application server", []Service{{"http", 8000}}},
	{"ami-f1a54098", "database", []Service{{"mysql", 3306}}},
}

// An AMI id has 8 hex digits, or 17 since 2016 (EC2 User Guide, "Resource IDs").
var imageID = regexp.MustCompile(`^ami-([0-9a-f]{8}|[0-9a-f]{17})$`)

// Images returns the catalogue.
func Images() []Image { return append([]Image(nil), images...) }

// Lookup returns what id boots. Any well-formed id boots something: people try the ids of
// their own region first, and a lab has no market to look them up in.
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
