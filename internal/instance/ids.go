package instance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// An instance has a user namespace: its ids 0 to 65535 are ids of the node that nothing else
// has. So root inside is an unprivileged user of the node, and the kernel counts against
// each instance apart what it counts by user: inotify and fanotify instances, pending
// signals, POSIX message queues, pages of pipes, watches of epoll, descriptors in flight.
//
// The kernel charges the use of a user namespace to whoever made it as well
// (user_namespaces(7)). So each is made by a process that runs as the first id of its range.
// This is also how a range is found again: the kernel tells the maker of the user namespace
// that a network namespace belongs to. No file has to be kept beside it.
//
// The ids lie between those that systemd gives to containers (0x00080000 to 0x6fffffff, its
// UIDS-GIDS document) and those that it reserves below 2^31. Debian's subordinate ids
// (subuid(5)) end at 600165535.
const (
	firstID        = 0x70000000
	idsPerInstance = 1 << 16
	maxIDRanges    = 0xffe // so many instances can live on one machine
)

// An idRange is the first of the node ids of an instance.
type idRange int

func (r idRange) valid() bool {
	return r >= firstID && r < firstID+maxIDRanges*idsPerInstance && (r-firstID)%idsPerInstance == 0
}

// ErrSharedIDs says that a network namespace belongs to the node's own user namespace. Prepare makes
// another in its place once nothing runs in it.
var ErrSharedIDs = errors.New("its network namespace was made by an earlier release, which gave instances no ids of their own")

// idsOf returns the ids of the instance with this network namespace, or ErrSharedIDs.
func idsOf(namespace string) (idRange, error) {
	user, err := userNamespace(netns.Path(namespace))
	if err != nil {
		return 0, err
	}
	defer user.Close()
	return idsOfMaker(int(user.Fd()))
}

// userNamespace opens the user namespace that the namespace at path belongs to.
func userNamespace(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	user, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
	if err != nil {
		return nil, fmt.Errorf("find the user namespace of %s: %w", path, err)
	}
	return os.NewFile(uintptr(user), "user namespace of "+path), nil
}

// idsOfMaker returns the ids of a user namespace.
func idsOfMaker(user int) (idRange, error) {
	maker, err := unix.IoctlGetUint32(user, unix.NS_GET_OWNER_UID)
	if err != nil {
		return 0, fmt.Errorf("find who made a user namespace: %w", err)
	}
	if ids := idRange(maker); ids.valid() {
		return ids, nil
	}
	return 0, ErrSharedIDs
}

// makeNamespace makes a user namespace with ids of its own, in it a network namespace, and
// names the latter, which keeps both. The lock on the directory of the names, which all
// daemons of the machine share, is held from the choice of ids until the name can be seen.
func makeNamespace(name string) error {
	if err := os.MkdirAll(netns.Dir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(netns.Dir)
	if err != nil {
		return err
	}
	defer dir.Close() // and with it the lock
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", netns.Dir, err)
	}
	ids, err := freeIDs()
	if err != nil {
		return err
	}
	if err := makeOwned(name, ids); err != nil {
		return fmt.Errorf("make a namespace with ids from %d on: %w", ids, err)
	}
	return nil
}

// removeEarlier removes a namespace that an earlier release made, unless something runs in it.
func removeEarlier(name string) error {
	if !netns.Exists(name) {
		return nil
	}
	if _, err := idsOf(name); !errors.Is(err, ErrSharedIDs) {
		return err
	}
	if running, err := netns.Processes(name); err != nil || len(running) > 0 {
		return err
	}
	return netns.Delete(name)
}

// firstChoice is where the search for free ids begins.
var firstChoice = func() int { return rand.IntN(maxIDRanges) }

// freeIDs chooses a range that no named network namespace and no process has. It begins
// anywhere, so that ids are not used again at once.
func freeIDs() (idRange, error) {
	taken := map[idRange]bool{}
	names, err := netns.List("")
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if ids, err := idsOf(name); err == nil {
			taken[ids] = true
		}
	}
	// The name may be gone, and a process inside alive.
	maps, err := filepath.Glob("/proc/[0-9]*/uid_map")
	if err != nil {
		return 0, err
	}
	for _, path := range maps {
		takeMapped(path, taken)
	}
	start := firstChoice()
	for i := range maxIDRanges {
		ids := idRange(firstID + (start+i)%maxIDRanges*idsPerInstance)
		if !taken[ids] {
			return ids, nil
		}
	}
	return 0, fmt.Errorf("all %d ranges of user ids are taken", maxIDRanges)
}

// takeMapped notes every range that the uid_map at path touches. Each line is the first id
// inside, the first one outside, and how many (user_namespaces(7)).
func takeMapped(path string, taken map[idRange]bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return // it has ended
	}
	for line := range strings.Lines(string(data)) {
		var inside, outside, count int
		if n, _ := fmt.Sscan(line, &inside, &outside, &count); n != 3 || inside == outside {
			continue // the node's own, or one that changes nothing
		}
		first := max(outside, firstID)
		first -= (first - firstID) % idsPerInstance
		for id := first; id < min(outside+count, firstID+maxIDRanges*idsPerInstance); id += idsPerInstance {
			taken[idRange(id)] = true
		}
	}
}

// makeOwned starts the stage that makes the two namespaces and lives until they have a name.
func makeOwned(name string, ids idRange) error {
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
	defer cancel()
	said, saidW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{namespaceStage, strconv.Itoa(int(ids))}
	cmd.Env = stageEnv
	cmd.ExtraFiles = []*os.File{saidW}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: uint32(ids), Gid: uint32(ids)},
		AmbientCaps: []uintptr{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SYS_ADMIN},
	}
	hold, err := cmd.StdinPipe()
	if err != nil {
		return errors.Join(err, saidW.Close())
	}
	err = cmd.Start()
	saidW.Close()
	if err != nil {
		return explainStart(err)
	}
	defer cmd.Wait()
	defer hold.Close() // ends the stage and the process that it started
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		return fmt.Errorf("it said %q: %w", line, err)
	}
	pid, isPID := strings.CutPrefix(strings.TrimSpace(line), statusHeld)
	if !isPID {
		return errors.New(strings.TrimSpace(line))
	}
	inside, err := strconv.Atoi(pid)
	if err != nil {
		return fmt.Errorf("process %q: %w", pid, err)
	}
	return netns.Name(name, inside)
}

// explainStart says what to do where the binary may not be run by the instance's ids.
func explainStart(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	self, _ := os.Executable()
	return fmt.Errorf("%w: %s must be readable and executable by everybody (chmod 755), because instances run it by ids of their own", err, self)
}

// runNamespace makes a user namespace and a network namespace in it, tells the process that
// is in them, and keeps it until its input ends.
func runNamespace(args []string) error {
	if len(args) < 2 {
		return errors.New("no ids")
	}
	ids, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: ids, Size: idsPerInstance}}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{holdStage}
	cmd.Env = stageEnv
	cmd.Stdin = os.Stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: mapping, GidMappings: mapping, GidMappingsEnableSetgroups: true,
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("%w: each instance needs a user and a network namespace, and the kernel gives no more: see user.max_user_namespaces and user.max_net_namespaces (sysctl)", err)
		}
		return fmt.Errorf("make a user namespace: %w", err)
	}
	tell("%s%d", statusHeld, cmd.Process.Pid)
	return cmd.Wait()
}

// runHold is in the new namespaces, and does nothing until its input ends.
func runHold([]string) error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
