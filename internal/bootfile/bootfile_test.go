package bootfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"palisade/internal/bootfile"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/netns/netnstest"
)

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// refused fails unless Open of the path returns an error that has the text want.
func refused(t *testing.T, path, want string) {
	t.Helper()
	f, err := bootfile.Open(path)
	if err == nil {
		f.Close()
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Open returned error %v, want one that has %q", err, want)
	}
}

func TestOpenKeepsContentOfAFileOfThisUser(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "file")
	for _, want := range []string{"", "content"} {
		f, err := bootfile.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		st, _ := f.Stat()
		if err != nil || string(got) != want || st.Mode() != 0o600 {
			t.Errorf("the file has %q and mode %v, error %v; want %q and mode 0600", got, st.Mode(), err, want)
		}
		refused(t, path, "in use by another process")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		write(t, path)
	}
}

// A file that others could have written, or could still change, is refused, and its content stays.
func TestFileOfOthersIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(path string) error
		want   string
	}{
		"readable by its group": {func(p string) error { return os.Chmod(p, 0o640) }, "mode 0640"},
		"writable by all":       {func(p string) error { return os.Chmod(p, 0o602) }, "mode 0602"},
		"set-user-ID":           {func(p string) error { return unix.Chmod(p, 0o4600) }, "mode 4600"},
		"two names":             {func(p string) error { return os.Link(p, p+"2") }, "2 names"},
		"symbolic link":         {func(p string) error { return errors.Join(os.Rename(p, p+"2"), os.Symlink(p+"2", p)) }, "symbolic link"},
		"FIFO":                  {func(p string) error { return errors.Join(os.Rename(p, p+"2"), unix.Mkfifo(p, 0o600)) }, "not a regular file"},
		"writable directory":    {func(p string) error { return os.Chmod(filepath.Dir(p), 0o770) }, "mode 0770"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(bootfiletest.Dir(t), "file")
			write(t, path)
			if err := c.change(path); err != nil {
				t.Fatal(err)
			}
			refused(t, path, c.want)
			for _, p := range []string{path, path + "2"} {
				if st, err := os.Lstat(p); err == nil && st.Mode().IsRegular() && st.Size() != int64(len("content")) {
					t.Errorf("%s has %d bytes after Open refused it, want it unchanged", p, st.Size())
				}
			}
		})
	}
}

func TestFileOfAnotherUserIsRefused(t *testing.T) {
	netnstest.NeedRoot(t)
	const nobody = 65534
	for _, dir := range []bool{false, true} {
		path := filepath.Join(bootfiletest.Dir(t), "file")
		write(t, path)
		of := path
		if dir {
			of = filepath.Dir(path)
		}
		if err := os.Chown(of, nobody, -1); err != nil {
			t.Fatal(err)
		}
		refused(t, path, "belongs to user 65534")
	}
}

// A sticky directory such as /dev/shm lets nobody replace the file of another user.
func TestFileInAStickyDirectoryIsOpened(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "file")
	if err := os.Chmod(filepath.Dir(path), 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	f, err := bootfile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestFileOutsideOfATmpfsIsRefused(t *testing.T) {
	refused(t, "/proc/self/mem", "not on a tmpfs") // a regular file of this user, mode 0600
	path := filepath.Join(t.TempDir(), "file")
	var system unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &system); err != nil || system.Type == unix.TMPFS_MAGIC {
		return
	}
	refused(t, path, "not on a tmpfs")
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file that Open made and refused: Lstat returned error %v, want that it does not exist", err)
	}
}

// The boot id is that of the kernel, in the notation of a UUID.
func TestBootIsTheIDOfTheKernel(t *testing.T) {
	id, err := bootfile.Boot()
	again, _ := bootfile.Boot()
	if err != nil || id == [16]byte{} || id != again {
		t.Errorf("Boot returned %x and %x, error %v; want the same id twice", id, again, err)
	}
}
