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

// An EnforcedIndex remembers on disk the newest index that the switch was told to go by.
// It is written before the switch is told: a node that comes up again opens no port
// until its log has been replayed to that index, or rules that were revoked would be
// back for a moment.
type EnforcedIndex struct {
	path  string
	index uint64
}

// OpenEnforcedIndex reads the index from path; it is 0 if there is no such file.
func OpenEnforcedIndex(path string) (*EnforcedIndex, error) {
	m := &EnforcedIndex{path: path}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m, nil
	case err != nil:
		return nil, fmt.Errorf("read the enforced index: %w", err)
	case len(data) != 12 || binary.BigEndian.Uint32(data[8:]) != crc32.ChecksumIEEE(data[:8]):
		return nil, fmt.Errorf("read the enforced index: %s is damaged; if the log beside it is whole, remove the file and start again", path)
	}
	m.index = binary.BigEndian.Uint64(data)
	return m, nil
}

// Index is the newest index that the switch was told to go by, in this life of the node or an
// earlier one.
func (m *EnforcedIndex) Index() uint64 { return m.index }

// Path is the file.
func (m *EnforcedIndex) Path() string { return m.path }

// advance writes index, or does nothing if the mark is not behind it.
func (m *EnforcedIndex) advance(index uint64) error {
	if index <= m.index {
		return nil
	}
	data := binary.BigEndian.AppendUint64(nil, index)
	data = binary.BigEndian.AppendUint32(data, crc32.ChecksumIEEE(data))
	if err := atomicfile.Write(m.path, data, 0o600); err != nil {
		return fmt.Errorf("write the enforced index: %w", err)
	}
	m.index = index
	return nil
}
