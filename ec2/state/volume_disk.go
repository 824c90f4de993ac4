package state

import (
	"regexp"

	"palisade/ec2"
)

// A diskType has the limits of a type of volumes (EC2 API Reference, "CreateVolume").
type diskType struct {
	minSize, maxSize             int // GiB
	minIOPS, maxIOPS             int // 0: IOPS cannot be chosen
	iops                         int // the default; 0: a number must be given
	maxRatio                     int // of IOPS to GiB
	minThroughput, maxThroughput int // MiB/s; 0: it cannot be chosen
	noBoot                       bool
}

var diskTypes = map[string]diskType{
	"standard": {minSize: 1, maxSize: 1024},
	"gp2":      {minSize: 1, maxSize: 16_384},
	"gp3":      {minSize: 1, maxSize: 65_536, minIOPS: 3000, maxIOPS: 80_000, iops: 3000, maxRatio: 500, minThroughput: 125, maxThroughput: 2000},
	"io1":      {minSize: 4, maxSize: 16_384, minIOPS: 100, maxIOPS: 64_000, maxRatio: 50},
	"io2":      {minSize: 4, maxSize: 65_536, minIOPS: 100, maxIOPS: 256_000, maxRatio: 1000},
	"st1":      {minSize: 125, maxSize: 16_384, noBoot: true},
	"sc1":      {minSize: 125, maxSize: 16_384, noBoot: true},
}

const (
	// defaultDiskType is the type of a volume whose request names none (ibid.).
	defaultDiskType = "gp2"
	// snapshotSize is the size in GiB of a volume that is made from a snapshot without a size.
	// What is in snapshots is not known here.
	snapshotSize = 8
	// throughputPerIOPS bounds the throughput of gp3: a quarter of a MiB/s for each operation a second.
	throughputPerIOPS = 0.25
	maxKMSKey         = 2048 // characters
)

var (
	snapshotID = regexp.MustCompile(`^snap-([0-9a-f]{8}|[0-9a-f]{17})$`)
	// deviceName matches the names of devices (EC2 User Guide, "Device names for volumes"), those of
	// Windows and of old kernels too.
	deviceName = regexp.MustCompile(`^(/dev/)?(sd[a-z]{1,2}|xvd[a-z]{1,2}|hd[a-z])([1-9][0-9]?)?$`)
)

// settle checks what a request says about a disk, and returns the disk with the defaults of its type.
func settle(d ec2.Disk) (ec2.Disk, error) {
	if d.Type == "" {
		d.Type = defaultDiskType
	}
	kind, ok := diskTypes[d.Type]
	if !ok {
		return d, ec2.Errorf("UnknownVolumeType", "Unknown volume type '%s'. It is standard, gp2, gp3, io1, io2, st1 or sc1.", ec2.Clip(d.Type))
	}
	if d.Snapshot != "" && !snapshotID.MatchString(d.Snapshot) {
		return d, ec2.Errorf("InvalidSnapshotID.Malformed", `Invalid id: "%s" (expecting "snap-...")`, ec2.Clip(d.Snapshot))
	}
	if d.Size == 0 && d.Snapshot != "" {
		d.Size = max(snapshotSize, kind.minSize)
	}
	switch {
	case d.Size < 0 || d.Size > 0 && d.Size < kind.minSize:
		return d, ec2.Errorf("InvalidParameterValue", "Volume of %dGiB is too small for volume type %s; minimum is %dGiB.", d.Size, d.Type, kind.minSize)
	case d.Size == 0:
		return d, ec2.Errorf("MissingParameter", "The request must contain the parameter size or snapshotId")
	case d.Size > kind.maxSize:
		return d, ec2.Errorf("InvalidParameterValue", "Volume of %dGiB is too large for volume type %s; maximum is %dGiB.", d.Size, d.Type, kind.maxSize)
	case d.KMSKey != "" && !d.Encrypted:
		return d, ec2.Errorf("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.")
	case d.KMSKey != "" && !ec2.Printable(d.KMSKey, maxKMSKey):
		return d, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter KmsKeyId is invalid.", ec2.Clip(d.KMSKey))
	}
	if err := settleIOPS(&d, kind); err != nil {
		return d, err
	}
	return d, settleThroughput(&d, kind)
}

func settleIOPS(d *ec2.Disk, kind diskType) error {
	switch {
	case kind.maxIOPS == 0 && d.IOPS != 0:
		return ec2.Errorf("InvalidParameterCombination", "The parameter iops is not supported for %s volumes.", d.Type)
	case kind.maxIOPS == 0:
		return nil
	case d.IOPS == 0 && kind.iops == 0:
		return ec2.Errorf("MissingParameter", "The parameter iops must be specified for %s volumes.", d.Type)
	case d.IOPS == 0:
		d.IOPS = kind.iops
		return nil // the default needs no size
	case d.IOPS < kind.minIOPS:
		return ec2.Errorf("InvalidParameterValue", "Volume iops of %d is too low; minimum is %d.", d.IOPS, kind.minIOPS)
	case d.IOPS > kind.maxIOPS:
		return ec2.Errorf("InvalidParameterValue", "Volume iops of %d is too high; maximum is %d.", d.IOPS, kind.maxIOPS)
	case d.IOPS > kind.minIOPS && d.IOPS > d.Size*kind.maxRatio:
		return ec2.Errorf("InvalidParameterValue", "Iops to volume size ratio of %f is too high; maximum is %d", float64(d.IOPS)/float64(d.Size), kind.maxRatio)
	}
	return nil
}

func settleThroughput(d *ec2.Disk, kind diskType) error {
	switch {
	case kind.maxThroughput == 0 && d.Throughput != 0:
		return ec2.Errorf("InvalidParameterCombination", "The parameter throughput is not supported for %s volumes.", d.Type)
	case kind.maxThroughput == 0:
	case d.Throughput == 0:
		d.Throughput = kind.minThroughput
	case d.Throughput < kind.minThroughput:
		return ec2.Errorf("InvalidParameterValue", "Volume throughput of %d MiB/s is too low; minimum is %d MiB/s.", d.Throughput, kind.minThroughput)
	case d.Throughput > kind.maxThroughput:
		return ec2.Errorf("InvalidParameterValue", "Volume throughput of %d MiB/s is too high; maximum is %d MiB/s.", d.Throughput, kind.maxThroughput)
	case float64(d.Throughput) > throughputPerIOPS*float64(d.IOPS):
		return ec2.Errorf("InvalidParameterValue", "Throughput (MiBps) to iops ratio of %f is too high; maximum is %f MiBps per iops.", float64(d.Throughput)/float64(d.IOPS), throughputPerIOPS)
	}
	return nil
}
