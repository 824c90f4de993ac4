package instance

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
)

const sshdPath = "/usr/sbin/sshd"

// sshdConfig admits only root, and only by key, like Amazon's images.
const sshdConfig = `Port 22
AddressFamily inet
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PubkeyAuthentication yes
AuthorizedKeysFile .ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
X11Forwarding no
PrintLastLog no
PidFile none
MaxStartups 100:30:200
Subsystem sftp internal-sftp
`

// serve starts the services of an image and sshd, and returns when all of them listen.
func (i *initProcess) serve(image Image) error {
	for _, service := range image.Services {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", service.Port))
		if err != nil {
			return fmt.Errorf("serve %s: %w", service.Name, err)
		}
		switch service.Name {
		case "http":
			go runHTTP(l, i.spec, image)
		case "mysql":
			go runMySQL(l)
		default:
			return fmt.Errorf("image %s: unknown service %q", image.ID, service.Name)
		}
	}
	return i.startSSHD()
}

// makeHostKey makes the host key by which ssh clients recognise the instance, and writes it to path.
func makeHostKey(path string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return fmt.Errorf("make host key: %w", err)
	}
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}

// runHTTP serves one page with the id and address of the instance.
func runHTTP(l net.Listener, s Spec, image Image) {
	page := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><title>%[1]s</title><h1>%[1]s</h1><p>%[2]s, %[3]s, at %[4]s; you are %[5]s.</p>\n",
			s.ID, image.Name, image.ID, s.address(), html.EscapeString(r.RemoteAddr))
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(page),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	slog.Error("http server ended", "err", server.Serve(l))
}

// maxMySQL bounds the connections on which the server waits for the client's first packet. Further
// connections are closed.
const maxMySQL = 100

// runMySQL sends MySQL's greeting and refuses every login. A port scan recognises MySQL by the
// greeting, and a client gets a proper error.
func runMySQL(l net.Listener) {
	slots := make(chan struct{}, maxMySQL)
	for serial := uint32(1); ; serial++ {
		conn, err := l.Accept()
		if err != nil {
			slog.Error("mysql server ended", "err", err)
			return
		}
		select {
		case slots <- struct{}{}:
			go func() {
				defer func() { <-slots }()
				defer conn.Close()
				greetMySQL(conn, serial)
			}()
		default:
			conn.Close()
		}
	}
}

// greetMySQL sends the two packets of a refused login in MySQL's protocol 10 (MySQL Internals,
// "Connection Phase"): the greeting, and error 1045 after the client's login.
func greetMySQL(conn net.Conn, serial uint32) {
	var salt [20]byte
	rand.Read(salt[:])
	for i := range salt {
		salt[i] = salt[i]&0x7f | 0x01 // a zero byte would end the salt
	}
	greeting := append([]byte{10}, "5.7.44-palisade\x00"...)
	greeting = binary.LittleEndian.AppendUint32(greeting, serial)
	greeting = append(greeting, salt[:8]...)
	greeting = append(greeting, 0, 0xff, 0xf7, 0x21, 0x02, 0x00, 0x0f, 0x80, 21)
	greeting = append(greeting, make([]byte, 10)...)
	greeting = append(append(greeting, salt[8:]...), 0)
	greeting = append(greeting, "mysql_native_password\x00"...)

	conn.SetDeadline(time.Now().Add(10 * time.Second)) // MySQL's connect_timeout
	if _, err := conn.Write(mysqlPacket(0, greeting)); err != nil {
		return
	}
	var header [4]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return
	}
	length := int64(header[0]) | int64(header[1])<<8 | int64(header[2])<<16
	if _, err := io.CopyN(io.Discard, conn, length); err != nil {
		return
	}
	conn.Write(mysqlPacket(header[3]+1, []byte("\xff\x15\x04#28000Access denied")))
}

// mysqlPacket returns a packet of MySQL's protocol: three bytes with the length of the payload, one
// byte with the sequence number, and the payload.
func mysqlPacket(sequence byte, payload []byte) []byte {
	n := len(payload)
	return append([]byte{byte(n), byte(n >> 8), byte(n >> 16), sequence}, payload...)
}
