package peer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"palisade/internal/atomicfile"
)

// The files of an identity. The node's certificate is written last, and without it there is
// no identity, so a crash leaves a whole identity or none.
const (
	rootFile      = "ca.pem"
	authorityFile = "ca.key" // voters only
	nodeKeyFile   = "node.key"
	membersFile   = "members.json" // only nodes that joined
	nodeFile      = "node.pem"
)

type file struct {
	name string
	data []byte
	mode os.FileMode
}

// save writes an identity's files to dir in the given order. It replaces or removes the files of
// an earlier attempt that was interrupted.
func save(dir string, files []file) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := clean(dir, files); err != nil {
		return err
	}
	for _, f := range files {
		if err := atomicfile.Write(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// clean removes from dir the temporary files, and an earlier authority key or list of members that
// is not in files. A key that stayed would make this node an authority.
func clean(dir string, files []file) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, f := range files {
		keep[f.name] = true
	}
	for _, e := range entries {
		ours := e.Name() == authorityFile || e.Name() == membersFile || strings.HasSuffix(e.Name(), ".tmp")
		if !ours || keep[e.Name()] {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// readSecret reads a key file. It returns an error if other users of this machine can read the
// file.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is secret, but other users can read it (mode %04o): run chmod 600 %s, or create a new identity if somebody may have read it", path, info.Mode().Perm(), path)
	}
	return os.ReadFile(path)
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
