package instance

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// loginKey makes a key pair for logins. file is the path of the private key, for ssh -i; authorized
// is the line for authorized_keys.
func loginKey(t *testing.T) (file, authorized string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func sshArgs(key, command string) []string {
	return []string{"ssh", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=50",
		"root@10.200.7.9", command}
}

func TestInstanceServesItsImage(t *testing.T) {
	for _, tt := range []struct {
		image string
		port  int
		want  string
	}{
		{"ami-fba54092", 80, "web server, ami-fba54092, at 10.200.7.9; you are 10.200.7.1:"},
		{"ami-e3a5408a", 8000, "application server, ami-e3a5408a"},
		{"ami-f1a54098", 3306, "mysql_native_password"},
		{"ami-00000001", 22, "SSH-2.0-OpenSSH"},
	} {
		t.Run(tt.image, func(t *testing.T) {
			s := newSpec(t, strings.TrimPrefix(tt.image, "ami-"), tt.image)
			boot(t, s)
			var got string
			err := netns.Do(s.Namespace+"-peer", func() (err error) {
				got, err = readService(fmt.Sprintf("10.200.7.9:%d", tt.port))
				return err
			})
			if err != nil || !strings.Contains(got, tt.want) {
				t.Errorf("port %d answered %q (error %v), want an answer with %q", tt.port, got, err, tt.want)
			}
		})
	}
}

// readService connects to a service from the network namespace of the calling thread and returns what
// the service sends. A web server gets a request first.
func readService(address string) (string, error) {
	to := netip.MustParseAddrPort(address)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	file := os.NewFile(uintptr(fd), address)
	defer file.Close()
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())})
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return "", err
	}
	if to.Port() == 80 || to.Port() == 8000 {
		request, _ := http.NewRequest("GET", "http://"+address+"/", nil)
		request.Close = true
		if err := request.Write(file); err != nil {
			return "", err
		}
		all, err := io.ReadAll(file)
		return string(all), err
	}
	buf := make([]byte, 512)
	n, err := file.Read(buf)
	return string(buf[:n]), err
}

func TestOnlyKeyPairLogsIn(t *testing.T) {
	s := newSpec(t, "ssh", DefaultImage)
	key, authorized := loginKey(t)
	other, _ := loginKey(t)
	s.AuthorizedKeys = []string{authorized}
	s.Hostname = "ip-10-200-7-9"
	boot(t, s)

	if out, err := fromPeer(s, sshArgs(key, "hostname; id -un; tty || true")...); err != nil || !strings.HasPrefix(out, "ip-10-200-7-9\nroot\n") {
		t.Errorf("login with the key pair printed %q (error %v), want the hostname and root", out, err)
	}
	args := append([]string{"ssh", "-tt"}, sshArgs(key, "tty")[1:]...)
	if out, err := fromPeer(s, args...); err != nil || !strings.Contains(out, "/dev/pts/") {
		t.Errorf("login with a terminal printed %q (error %v), want /dev/pts/…", out, err)
	}
	if out, err := fromPeer(s, sshArgs(other, "id")...); err == nil || !strings.Contains(out, "Permission denied (publickey)") {
		t.Errorf("login with another key printed %q (error %v), want permission denied", out, err)
	}
}
