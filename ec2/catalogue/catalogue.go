// Package catalogue has the public images, which are found by owner and name: the published names of
// Amazon Linux, Ubuntu and Debian, and the public SSM parameters that name the newest of them.
//
// It is static data: series.go has each series of images, with its releases. Every region has every
// image, under an id of its own. What an instance of an image boots is not decided here.
package catalogue

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// An Image is one published image in one region.
type Image struct {
	ID           string
	Name         string
	Description  string
	Owner        string // account
	Alias        string // of the owner
	Architecture string // "x86_64" or "arm64"
	Created      time.Time
	Deprecated   time.Time // from when on the publisher no longer recommends it
	Newest       bool      // of its series and architecture
	Root         Disk
	Ephemeral    []string // device names that the image maps to instance store volumes
	BootMode     string
	IMDS         string   // "v2.0" if the image asks for version 2 of the metadata service
	Parameters   []string // names of the parameters whose value it is
}

// A Disk is the root volume that an image describes.
type Disk struct {
	Device     string
	Snapshot   string
	Size       int // GiB
	VolumeType string
}

// regional has what a region has.
type regional struct {
	images     []Image // the newest first
	byID       map[string]int
	parameters []Parameter // by name
}

var regions sync.Map // region -> func() *regional

func of(region string) *regional {
	made, _ := regions.LoadOrStore(region, sync.OnceValue(func() *regional { return build(region) }))
	return made.(func() *regional)()
}

// Images returns the images of a region, the newest first. The caller must not change them.
func Images(region string) []Image { return of(region).images }

// Find returns the image with an id in a region.
func Find(region, id string) (Image, bool) {
	r := of(region)
	n, ok := r.byID[id]
	if !ok {
		return Image{}, false
	}
	return r.images[n], true
}

func build(region string) *regional {
	r := &regional{byID: make(map[string]int)}
	for _, s := range allSeries {
		for _, arch := range s.architectures {
			for n, release := range s.releases {
				image := s.image(region, release, arch)
				image.Newest = n == len(s.releases)-1
				r.images = append(r.images, image)
			}
			r.parameters = append(r.parameters, s.parametersOf(region, arch)...)
		}
	}
	slices.SortFunc(r.images, func(a, b Image) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
	for n, i := range r.images {
		r.byID[i.ID] = n
	}
	slices.SortFunc(r.parameters, func(a, b Parameter) int { return cmp.Compare(a.Name, b.Name) })
	for _, p := range r.parameters {
		i := &r.images[r.byID[p.Value]]
		i.Parameters = append(i.Parameters, p.Name)
	}
	return r
}

// A series is one line of images of one publisher. In its templates {release} and {arch} stand for
// the release and for the architecture in the publisher's words, {date} for the release's date.
type series struct {
	publisher     publisher
	name          string
	description   string
	architectures []string // in the publisher's words
	releases      []string // oldest first; each contains a date, as in 2023.6.20241111.0
	device        string
	size          int
	volumeType    string
	ephemeral     []string
	bootModes     map[string]string // by the publisher's word for the architecture
	imds          string

	newest []string // templates of the names of parameters that name the newest image
	each   string   // template of the name of a parameter for each release; "" if there is none
	data   string   // the data type of these parameters
}

type publisher struct {
	account      string
	recommended  time.Duration // from the publication to the deprecation
	architecture map[string]string
}

func (s *series) fill(template, release, arch string) string {
	return strings.NewReplacer("{release}", release, "{arch}", arch, "{date}", dateOf(release).Format(time.DateOnly)).Replace(template)
}

func (s *series) image(region, release, arch string) Image {
	name := s.fill(s.name, release, arch)
	created := dateOf(release).Add(timeOfDay(name))
	return Image{
		ID: hexID("ami", region, name), Name: name, Description: s.fill(s.description, release, arch),
		Owner: s.publisher.account, Alias: "amazon", Architecture: cmp.Or(s.publisher.architecture[arch], arch),
		Created: created, Deprecated: created.Add(s.publisher.recommended),
		Root:      Disk{Device: s.device, Snapshot: hexID("snap", region, name), Size: s.size, VolumeType: s.volumeType},
		Ephemeral: s.ephemeral, BootMode: s.bootModes[arch], IMDS: s.imds,
	}
}

// hexID returns an id with 17 hex digits, the first of which is 0, as in all ids of EC2.
func hexID(kind, region, name string) string {
	sum := sha256.Sum256([]byte(kind + "/" + region + "/" + name))
	return fmt.Sprintf("%s-0%x", kind, sum[:8])
}

// dateOf returns the date in a release: the first part that has eight digits.
func dateOf(release string) time.Time {
	for part := range strings.FieldsFuncSeq(release, func(r rune) bool { return r == '.' || r == '-' }) {
		if len(part) != len("20060102") {
			continue
		}
		if date, err := time.Parse("20060102", part); err == nil {
			return date
		}
	}
	panic("catalogue: no date in release " + release)
}

// timeOfDay returns the time of the day of a publication, which the name does not tell.
func timeOfDay(name string) time.Duration {
	sum := sha256.Sum256([]byte(name))
	return time.Duration(int(sum[0])<<8|int(sum[1])) * time.Second
}

// SnapshotOf returns the id of the snapshot that an image's root volume is made from in a region, for an
// image that is not in the catalogue.
func SnapshotOf(region, image string) string { return hexID("snap", region, image) }
