package instance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// A filler is a process inside an instance. It takes the kernel resources that its test names, and
// holds them until the test tells it to close them or the test ends. It runs as the instance's root.
type filler struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

// startFiller starts a filler by Exec.
func startFiller(t *testing.T, s Spec) *filler {
	t.Helper()
	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Exec(t.Context(), s.Namespace, []string{initPath, "fill"}, Stdio{In: inR, Out: outW, Err: outW})
		inR.Close()
		outW.Close()
	}()
	t.Cleanup(func() {
		inW.Close()
		<-ended
		outR.Close()
	})
	return &filler{t: t, in: inW, out: bufio.NewReader(outR)}
}

// startFillerBySSH starts a filler by an ssh login, so that it is a descendant of the instance's
// init.
func startFillerBySSH(t *testing.T, s Spec, key string) *filler {
	t.Helper()
	args := sshArgs(key, initPath+" fill")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, netns.Do(s.Namespace+"-peer", cmd.Start)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return &filler{t: t, in: in, out: bufio.NewReader(out)}
}

// The method do lets the filler repeat an action up to n times. It returns how often the action
// succeeded, and the name of the error that stopped the repetition, or "-" if none did.
func (f *filler) do(what string, n int) (made int, errno string) {
	f.t.Helper()
	fmt.Fprintln(f.in, what, n)
	line, err := f.out.ReadString('\n')
	if _, err := fmt.Sscan(line, &made, &errno); err != nil {
		f.t.Fatalf("action %s: the filler answered %q, want a number and an error name: %v", what, line, err)
	}
	if err != nil {
		f.t.Fatalf("action %s: read the answer of the filler: %v", what, err)
	}
	return made, errno
}

// try is like the method do, but does not wait for an answer, because the instance may be killed
// meanwhile.
func (f *filler) try(what string, n int) { fmt.Fprintln(f.in, what, n) }

// wants lets the filler repeat an action up to n times. It fails the test unless the action succeeds
// made times and then stops with errno.
func (f *filler) wants(what string, n, made int, errno string) {
	f.t.Helper()
	if gotMade, gotErrno := f.do(what, n); gotMade != made || gotErrno != errno {
		f.t.Errorf("%s, up to %d times: succeeded %d times and stopped with %s, want %d times and %s", what, n, gotMade, gotErrno, made, errno)
	}
}

// fill is the main function of a filler inside the instance. It returns the exit status.
func fill() int {
	runtime.LockOSThread() // actions may block signals, which is done per thread
	h := &holding{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var what string
		var n int
		fmt.Sscan(lines.Text(), &what, &n)
		action := actionOf(what)
		if action == nil {
			fmt.Println(0, "unknown")
			continue
		}
		made, err := 0, error(nil)
		for made < n {
			if err = action(h); err != nil {
				break
			}
			made++
		}
		name := "-"
		if err != nil {
			name = err.Error()
			if errno, ok := errors.AsType[unix.Errno](err); ok {
				name = unix.ErrnoName(errno)
			}
		}
		fmt.Println(made, name)
	}
	return 0
}

// available returns the node's available memory (MemAvailable), in bytes.
func available(t *testing.T) int64 {
	t.Helper()
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		var kib int64
		if n, _ := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatalf("/proc/meminfo has no line MemAvailable: %s", data)
	return 0
}

// bootByAnother boots the instance from another process and then kills that process.
func bootByAnother(t *testing.T, s Spec) {
	t.Helper()
	spec, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("/proc/self/exe", "daemon")
	daemon.Stdin = bytes.NewReader(spec)
	daemon.Stderr = os.Stderr
	out, err := daemon.StdoutPipe()
	if err == nil {
		err = daemon.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := bufio.NewReader(out).ReadString('\n')
	daemon.Process.Kill()
	daemon.Wait()
	if answer != "booted\n" {
		t.Fatalf("the other daemon answered %q, want booted", answer)
	}
}

// runDaemon is the main function of the process that bootByAnother starts. It boots the instance
// whose Spec it reads from standard input, and waits until it is killed.
func runDaemon() int {
	var s Spec
	err := json.NewDecoder(os.Stdin).Decode(&s)
	if err == nil {
		_, err = Boot(context.Background(), s)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("booted")
	select {}
}
