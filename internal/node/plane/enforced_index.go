package plane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"

	"palisade/internal/atomicfile"
)

// An EnforcedIndex stores in a file the index of the newest state that the switch was given. It is
// written before the switch gets that state. A node that restarts opens no port until its log is
// replayed to this index; otherwise rules that were revoked would be in force again for a moment.
//
// Plane.mu guards it once the Plane is made.
type EnforcedIndex struct {
	path  string
	index uint64
}

// OpenEnforcedIndex reads the index from a file. Without the file the index is 0.
func OpenEnforcedIndex(path string) (*EnforcedIndex, error) {
	e := &EnforcedIndex{path: path}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e, nil
	case err != nil:
		return nil, fmt.Errorf("read the enforced index: %w", err)
	case len(data) != 12 || binary.BigEndian.Uint32(data[8:]) != crc32.ChecksumIEEE(data[:8]):
		return nil, fmt.Errorf("read the enforced index: %s is damaged; if the log beside it is whole, remove the file and start again", path)
	}
	e.index = binary.BigEndian.Uint64(data)
	return e, nil
}

// Index returns the index of the newest state that this daemon or an earlier one gave to the
// switch.
func (e *EnforcedIndex) Index() uint64 { return e.index }

// Path returns the path of the file.
func (e *EnforcedIndex) Path() string { return e.path }

// advance writes index to the file, unless the file has an equal or higher index.
func (e *EnforcedIndex) advance(index uint64) error {
	if index <= e.index {
		return nil
	}
	data := binary.BigEndian.AppendUint64(nil, index)
	data = binary.BigEndian.AppendUint32(data, crc32.ChecksumIEEE(data))
	if err := atomicfile.Write(e.path, data, 0o600); err != nil {
		return fmt.Errorf("write the enforced index: %w", err)
	}
	e.index = index
	return nil
}
