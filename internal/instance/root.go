package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Paths in the new root.
const (
	initPath = "/.init"          // this binary, read-only, so that /proc/1/exe cannot be opened for writing
	specPath = "/run/.spec.json" // the Spec; init reads and removes it
)

// ttyGroup is the id of the group tty, which owns terminals, as in etc/group.
const ttyGroup = 5

const readOnly = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV

// enterNewRoot builds the root file system in memory, with read-only bind mounts of the machine's
// programs. It makes it the root of the current mount namespace and detaches the old root. The files
// in memory belong to the instance's root. The mount namespace belongs to the node's user namespace,
// so the instance cannot change its mounts, whatever capabilities it has.
func enterNewRoot(s Spec, ids idRange) error {
	// From here on, mounts in this mount namespace and outside do not affect each other.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	unix.Umask(0)
	r := &rootBuilder{dir: s.rootDir()}
	r.mount("tmpfs", "", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=256m,nr_inodes=65536")
	r.programs()
	r.devices(ids)
	r.proc()
	r.files(s)
	r.give("", ids)
	r.give("dev", ids)
	r.give("dev/pts", ids)
	if r.err != nil {
		return fmt.Errorf("build the root file system: %w", r.err)
	}
	if err := unix.Chdir(r.dir); err != nil {
		return fmt.Errorf("enter the root file system: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the node's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	unix.Umask(0o022)
	// The standard streams become the instance's own /dev/null, because a process inside cannot
	// reopen the node's /dev/null by its descriptor.
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(null, fd, 0); err != nil {
			return fmt.Errorf("redirect descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// A rootBuilder makes files and mounts below dir. After the first error, which it keeps in err, its
// methods do nothing.
type rootBuilder struct {
	dir string
	err error
}

func (r *rootBuilder) do(what string, err error) {
	if r.err == nil && err != nil {
		r.err = fmt.Errorf("%s: %w", what, err)
	}
}

func (r *rootBuilder) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rootBuilder) mkdir(name string, mode os.FileMode) {
	if r.err == nil {
		r.do(name, os.MkdirAll(r.path(name), mode))
	}
}

func (r *rootBuilder) file(name string, mode os.FileMode, content string) {
	r.mkdir(filepath.Dir(name), 0o755)
	if r.err == nil {
		r.do(name, os.WriteFile(r.path(name), []byte(content), mode))
	}
}

func (r *rootBuilder) symlink(target, name string) {
	if r.err == nil {
		r.do(name, os.Symlink(target, r.path(name)))
	}
}

func (r *rootBuilder) mount(fstype, name string, flags uintptr, options string) {
	r.mkdir(name, 0o755)
	if r.err == nil {
		r.do("mount "+fstype+" on /"+name, unix.Mount(fstype, r.path(name), fstype, flags, options))
	}
}

// bind bind-mounts the machine's file or directory source at name, read-only. It does nothing if
// source does not exist.
func (r *rootBuilder) bind(source, name string) {
	if r.err != nil {
		return
	}
	st, err := os.Stat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	r.do(source, err)
	if err == nil && st.IsDir() {
		r.mkdir(name, 0o755)
	} else {
		r.file(name, 0o644, "")
	}
	r.rebind(source, name, readOnly)
}

// rebind bind-mounts source at name, which must exist. It sets the flags in a second step, because
// the kernel ignores them in the first.
func (r *rootBuilder) rebind(source, name string, flags uintptr) {
	if r.err != nil {
		return
	}
	r.do("bind "+source, unix.Mount(source, r.path(name), "", unix.MS_BIND, ""))
	r.do("make /"+name+" read-only", unix.Mount("", r.path(name), "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""))
}

// programs bind-mounts the machine's software. On a system with merged /usr, it copies the symlinks
// such as /bin.
func (r *rootBuilder) programs() {
	r.bind("/usr", "usr")
	for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if target, err := os.Readlink("/" + name); err == nil {
			r.symlink(target, name)
		} else {
			r.bind("/"+name, name)
		}
	}
	for _, name := range []string{
		"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "ssl/certs", "ssl/openssl.cnf",
		"services", "protocols", "terminfo", "bash.bashrc", "mime.types", "ssh/moduli",
	} {
		r.bind("/etc/"+name, "etc/"+name)
	}
	r.self()
}

// self puts the running binary at initPath by a bind mount of its path. The path is needed because
// /proc/self/exe is on a mount of the node's mount namespace, from which this namespace cannot bind.
// If the path is now another file, as after a new build while the daemon runs, it copies the running
// binary instead.
func (r *rootBuilder) self() {
	const exe = "/proc/self/exe"
	path, err := os.Readlink(exe)
	r.do("find our own binary", err)
	running, err := os.Stat(exe)
	r.do("find our own binary", err)
	if r.err != nil {
		return
	}
	r.file(initPath, 0o755, "")
	if now, err := os.Stat(path); err == nil && os.SameFile(now, running) {
		r.rebind(path, initPath, readOnly)
		return
	}
	binary, err := os.ReadFile(exe)
	r.do("copy our own binary", err)
	r.file(initPath, 0o755, string(binary))
	r.rebind(r.path(initPath), initPath, readOnly)
}

// give makes the instance's root the owner of all files of one mount, but not of mounts below it. Our own
// binary is a mount also if it was copied, which its device does not show.
func (r *rootBuilder) give(name string, ids idRange) {
	if r.err != nil {
		return
	}
	top := r.path(name)
	var mount, st unix.Stat_t
	r.do(top, unix.Lstat(top, &mount))
	r.do("give /"+name+" to the instance", filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if path == r.path(initPath) {
			return nil
		}
		if st.Dev == mount.Dev {
			return os.Lchown(path, int(ids), int(ids))
		}
		if entry.IsDir() {
			return fs.SkipDir
		}
		return nil
	}))
}

// devices makes device files for the instance alone, so that it can change their modes and the node's
// device files keep theirs. The instance cannot make other device files, because it does not have the
// capability MKNOD.
func (r *rootBuilder) devices(ids idRange) {
	r.mount("tmpfs", "dev", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64m,nr_inodes=1024")
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
	} {
		if r.err == nil {
			r.do("make /dev/"+d.name, unix.Mknod(r.path("dev/"+d.name), unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))))
		}
	}
	r.mount("devpts", "dev/pts", unix.MS_NOSUID|unix.MS_NOEXEC, fmt.Sprintf("newinstance,ptmxmode=0666,mode=0620,gid=%d,max=128", ids+ttyGroup)) // max: 128 of the 4,096 terminals of the machine
	r.symlink("pts/ptmx", "dev/ptmx")
	r.symlink("/proc/self/fd", "dev/fd")
	for fd, name := range []string{"stdin", "stdout", "stderr"} {
		r.symlink(fmt.Sprintf("/proc/self/fd/%d", fd), "dev/"+name)
	}
	r.mkdir("dev/shm", 0o777|os.ModeSticky)
}

// proc mounts /proc of the new pid namespace. Files that concern the whole machine, such as
// core_pattern and the kernel's network settings in /proc/sys, are read-only or hidden.
func (r *rootBuilder) proc() {
	r.mount("proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	for _, name := range []string{"bus", "fs", "irq", "sys", "sysrq-trigger"} {
		if name := "proc/" + name; r.exists(name) {
			r.rebind(r.path(name), name, readOnly|unix.MS_NOEXEC)
		}
	}
	for _, name := range []string{
		"kcore", "kmsg", "keys", "key-users", "kallsyms", "timer_list", "timer_stats", "sched_debug", "latency_stats",
		"vmallocinfo", "slabinfo", "pagetypeinfo", "iomem", "ioports",
	} {
		if name := "proc/" + name; r.exists(name) {
			r.rebind(r.path("dev/null"), name, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC)
		}
	}
	for _, name := range []string{"acpi", "asound", "scsi", "driver", "pressure"} {
		if name := "proc/" + name; r.exists(name) {
			r.mount("tmpfs", name, readOnly|unix.MS_NOEXEC, "size=0")
		}
	}
}

func (r *rootBuilder) exists(name string) bool {
	_, err := os.Lstat(r.path(name))
	return err == nil
}

// files makes the instance's directories and writes its configuration files.
func (r *rootBuilder) files(s Spec) {
	for _, dir := range []string{"run/sshd", "run/lock", "var/log", "var/lib", "var/cache", "var/empty", "home", "mnt", "opt", "srv"} {
		r.mkdir(dir, 0o755)
	}
	r.mkdir("tmp", 0o777|os.ModeSticky)
	r.mkdir("var/tmp", 0o777|os.ModeSticky)
	r.symlink("../run", "var/run")
	r.mkdir("root/.ssh", 0o700)
	r.file("root/.ssh/authorized_keys", 0o600, authorizedKeys(s.AuthorizedKeys))
	r.file("root/.profile", 0o644, "PS1='\\u@\\h:\\w\\$ '\n")

	r.file("etc/passwd", 0o644, `root:x:0:0:root:/root:`+shell()+`
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin
tcpdump:x:101:65534::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`)
	r.file("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\ntty:x:5:\nutmp:x:43:\nusers:x:100:\nnogroup:x:65534:\n")
	r.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n")
	hosts := "127.0.0.1 localhost\n"
	if a := s.address(); a.IsValid() {
		hosts += a.String() + " " + s.hostname() + "\n"
	}
	r.file("etc/hosts", 0o644, hosts)
	r.file("etc/hostname", 0o644, s.hostname()+"\n")
	r.file("etc/resolv.conf", 0o644, "")
	r.file("etc/ssh/sshd_config", 0o600, sshdConfig)

	spec, err := json.Marshal(s)
	r.do("spec", err)
	r.file(specPath, 0o600, string(spec))
}

func authorizedKeys(keys []string) string {
	var lines string
	for _, key := range keys {
		lines += key + "\n"
	}
	return lines
}

func shell() string {
	if _, err := os.Stat("/bin/bash"); err == nil {
		return "/bin/bash"
	}
	return "/bin/sh"
}
