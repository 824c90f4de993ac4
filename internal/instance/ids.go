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

// An instance has a user namespace. The ids 0 to 65535 inside are a range of the node's user ids that
// nothing else uses. So root of an instance is an unprivileged user of the node, and the kernel
// applies its limits per user to each instance separately: inotify and fanotify instances, pending
// signals, POSIX message queues, pages of pipes, watches of epoll, descriptors in flight.
//
// The kernel also charges the use of a user namespace to the user who made it (user_namespaces(7)).
// So each user namespace is made by a process that runs as the first id of its range. Therefore no
// file must store the range of a network namespace: the kernel reports which user made its user
// namespace.
//
// The ranges begin above the ids that systemd gives to containers (0x00080000 to 0x6fffffff, its
// UIDS-GIDS document) and end below the ids that it reserves near 2^31. Debian's subordinate ids
// (subuid(5)) end at 600165535.
const (
	firstID        = 0x70000000
	idsPerInstance = 1 << 16
	maxIDRanges    = 0xffe // the number of instances that one machine can have
)

// An idRange is the range of the node's user ids of one instance. Its value is the first id of the
// range.
type idRange int

func (r idRange) valid() bool {
	return r >= firstID && r < firstID+maxIDRanges*idsPerInstance && (r-firstID)%idsPerInstance == 0
}

// ErrSharedIDs means that an instance's network namespace belongs to the node's own user namespace.
// Prepare replaces such a namespace if no process runs in it.
var ErrSharedIDs = errors.New("its network namespace was made by an earlier release, which gave instances no ids of their own")

// idsOf returns the id range of the instance with this network namespace, or ErrSharedIDs if it has
// none.
func idsOf(namespace string) (idRange, error) {
	user, err := userNamespace(netns.Path(namespace))
	if err != nil {
		return 0, err
	}
	defer user.Close()
	return idsOfMaker(int(user.Fd()))
}

// userNamespace opens the user namespace to which the namespace at path belongs.
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

// idsOfMaker returns the id range of the user namespace with the descriptor user. The range begins
// with the id of the user who made the namespace.
func idsOfMaker(user int) (idRange, error) {
	maker, err := unix.IoctlGetUint32(user, unix.NS_GET_OWNER_UID)
	if err != nil {
		return 0, fmt.Errorf("find the user who made a user namespace: %w", err)
	}
	if ids := idRange(maker); ids.valid() {
		return ids, nil
	}
	return 0, ErrSharedIDs
}

// makeNamespace makes a user namespace with a free id range, makes a network namespace in it, and
// gives the network namespace a name. Both namespaces exist as long as the name does. From the choice
// of ids until the name is visible it holds a lock on the directory of the names, which all daemons
// of the machine share.
func makeNamespace(name string) error {
	if err := os.MkdirAll(netns.Dir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(netns.Dir)
	if err != nil {
		return err
	}
	defer dir.Close() // also releases the lock
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

// removeEarlier removes a namespace that an earlier release made, unless a process runs in it.
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

// firstChoice returns the number of the range with which freeIDs begins its search.
var firstChoice = func() int { return rand.IntN(maxIDRanges) }

// freeIDs returns a range that no named network namespace and no process has. It begins its search at
// a random range, so that ids are not reused soon.
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
	// A process may still run in a namespace whose name was removed.
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

// takeMapped adds to taken every range that overlaps the uid_map in the file at path. Each line of
// the map has the first id inside, the first id outside, and the number of ids (user_namespaces(7)).
func takeMapped(path string, taken map[idRange]bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return // the process has ended
	}
	for line := range strings.Lines(string(data)) {
		var inside, outside, count int
		if n, _ := fmt.Sscan(line, &inside, &outside, &count); n != 3 || inside == outside {
			continue // the node's own map, or an identity map
		}
		first := max(outside, firstID)
		first -= (first - firstID) % idsPerInstance
		for id := first; id < min(outside+count, firstID+maxIDRanges*idsPerInstance); id += idsPerInstance {
			taken[idRange(id)] = true
		}
	}
}

// makeOwned starts the stage that makes the user namespace and the network namespace, and gives the
// network namespace the name.
func makeOwned(name string, ids idRange) error {
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
	defer cancel()
	status, statusW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer status.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{namespaceStage, strconv.Itoa(int(ids))}
	cmd.Env = stageEnv
	cmd.ExtraFiles = []*os.File{statusW}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: uint32(ids), Gid: uint32(ids)},
		AmbientCaps: []uintptr{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SYS_ADMIN},
	}
	hold, err := cmd.StdinPipe()
	if err != nil {
		return errors.Join(err, statusW.Close())
	}
	err = cmd.Start()
	statusW.Close()
	if err != nil {
		return explainStart(err)
	}
	defer cmd.Wait()
	defer hold.Close() // so both stages end
	line, err := bufio.NewReader(status).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the status line, got %q: %w", line, err)
	}
	pid, isPID := strings.CutPrefix(strings.TrimSpace(line), statusHeld)
	if !isPID {
		return errors.New(strings.TrimSpace(line))
	}
	inside, err := strconv.Atoi(pid)
	if err != nil {
		return fmt.Errorf("status line with process id %q: %w", pid, err)
	}
	return netns.Name(name, inside)
}

// explainStart returns err. If its cause is that the instance's ids have no permission to execute the
// binary, it adds what the operator must do.
func explainStart(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	self, _ := os.Executable()
	return fmt.Errorf("%w: %s must be readable and executable by everybody (chmod 755), because instances run it with their own user ids", err, self)
}

// runNamespace is the namespace stage. It starts the hold stage in a new user namespace with a new
// network namespace, reports its pid on the status pipe, and waits until it ends.
func runNamespace(args []string) error {
	if len(args) < 2 {
		return errors.New("the namespace stage needs the first user id as argument")
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

// runHold is the hold stage. It runs in the new namespaces, so they exist until its standard input
// ends.
func runHold([]string) error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
