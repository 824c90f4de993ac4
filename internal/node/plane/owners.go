package plane

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"os"

	"palisade/ec2"
	"palisade/internal/bootfile"
)

// Owners stores in a file which lease owns which address, as far as the tracker's connections are
// concerned: all connections of an address are those of its stored owner. After a restart the
// plane compares the stored owners with the present ones. An address can lose its owner and get
// another one while no daemon runs, so the present owners alone do not tell whose the connections
// are.
//
// The file is beside that of the tracker and ends with it. Changes are appended:
//
//	"palown" + version | boot id | first 8 bytes of the SHA-256 of the cluster's seed
//	VNI, 0 for a public address | address | epoch of the lease | CRC-32 of the record
//	...
//
// The last record of an address counts. A record that was written in part ends the file.
// Plane.mu guards it once the Plane is made.
type Owners struct {
	path      string
	file      *os.File
	header    [ownersHeader]byte // with the seed of the cluster once ofCluster was called
	stored    map[owned]uint64   // by an earlier daemon; nil if none stored owners in this boot
	end       int64              // of the records
	rewriteAt int64              // size at which the file is written anew
}

// An owned address is private in the network with the VNI, or public if the VNI is 0.
type owned struct {
	vni     ec2.VNI
	address netip.Addr
}

// An ownership says that a lease owns an address.
type ownership struct {
	owned
	epoch uint64 // or nobody, or changing
}

const (
	nobody = 0
	// changing: the tracker may have connections of two owners.
	changing = ^uint64(0)

	ownersMagic  = "palown\x00\x01"
	ownersHeader = 8 + 16 + 8
	ownerRecord  = 4 + 16 + 8 + 4

	// A file of fewer bytes is not written anew.
	minRewrite = 1 << 20
)

// OpenOwners reads the owners that an earlier daemon stored in a file, and creates a missing file.
func OpenOwners(path string) (*Owners, error) {
	boot, err := bootfile.Boot()
	if err != nil {
		return nil, err
	}
	o := &Owners{path: path}
	copy(o.header[:], ownersMagic)
	copy(o.header[8:], boot[:])
	if o.file, err = bootfile.Open(path); err != nil {
		return nil, fmt.Errorf("open the owners of addresses: %w", err)
	}
	data, err := io.ReadAll(o.file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the owners of addresses: %w", err), o.file.Close())
	}
	if len(data) < ownersHeader || [24]byte(data) != [24]byte(o.header[:]) {
		return o, nil
	}
	copy(o.header[24:], data[24:])
	o.stored = map[owned]uint64{}
	for data = data[ownersHeader:]; len(data) >= ownerRecord; data = data[ownerRecord:] {
		if binary.BigEndian.Uint32(data[28:]) != crc32.ChecksumIEEE(data[:28]) {
			break
		}
		of := owned{ec2.VNI(binary.BigEndian.Uint32(data)), netip.AddrFrom16([16]byte(data[4:])).Unmap()}
		o.stored[of] = binary.BigEndian.Uint64(data[20:])
		if o.stored[of] == nobody {
			delete(o.stored, of)
		}
	}
	return o, nil
}

// ofCluster reports whether the stored owners are leases of the cluster with this seed, and makes
// the owners that are stored from now on those of this cluster.
func (o *Owners) ofCluster(seed string) bool {
	sum := sha256.Sum256([]byte(seed))
	same := [8]byte(o.header[24:]) == [8]byte(sum[:])
	copy(o.header[24:], sum[:8])
	return same
}

// replace stores the owners of all addresses, instead of those stored before.
func (o *Owners) replace(all map[owned]uint64) (err error) {
	data := make([]byte, 0, ownersHeader+len(all)*ownerRecord)
	data = append(data, o.header[:]...)
	for of, epoch := range all {
		data = appendOwner(data, ownership{of, epoch})
	}
	next, err := bootfile.Open(o.path + ".new")
	if err != nil {
		return fmt.Errorf("store the owners of addresses: %w", err)
	}
	err = next.Truncate(0) // of a daemon that was killed
	if err == nil {
		_, err = next.WriteAt(data, 0)
	}
	if err == nil {
		err = os.Rename(o.path+".new", o.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("store the owners of addresses: %w", err), next.Close())
	}
	err = o.file.Close()
	o.file, o.end, o.stored = next, int64(len(data)), nil
	o.rewriteAt = max(minRewrite, 4*o.end)
	return err
}

// add stores the owners of some addresses.
func (o *Owners) add(some []ownership) error {
	data := make([]byte, 0, len(some)*ownerRecord)
	for _, s := range some {
		data = appendOwner(data, s)
	}
	if _, err := o.file.WriteAt(data, o.end); err != nil {
		return fmt.Errorf("store the owners of addresses: %w", err)
	}
	o.end += int64(len(data))
	return nil
}

func appendOwner(data []byte, s ownership) []byte {
	address, at := s.address.As16(), len(data)
	data = binary.BigEndian.AppendUint32(data, uint32(s.vni))
	data = append(data, address[:]...)
	data = binary.BigEndian.AppendUint64(data, s.epoch)
	return binary.BigEndian.AppendUint32(data, crc32.ChecksumIEEE(data[at:]))
}

// Close closes the file and leaves it for the next daemon.
func (o *Owners) Close() error { return o.file.Close() }
