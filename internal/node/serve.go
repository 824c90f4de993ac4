package node

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// A server is a listener and the handler of its requests.
type server struct {
	listener net.Listener
	handler  http.Handler
}

// newServer returns a server whose connections are bounded by limit, if there is one.
func newServer(l net.Listener, h http.Handler, limit *connLimit) server {
	if limit != nil {
		l = limit.listener(l)
	}
	return server{l, whileAnswered(h)}
}

// listen opens the listeners of all servers; on an error it closes those that it opened.
func (n *Node) listen() (servers []server, err error) {
	defer func() {
		if err != nil {
			for _, s := range servers {
				err = errors.Join(err, s.listener.Close())
			}
		}
	}()
	for _, s := range []struct {
		path    string
		handler http.Handler
		limit   *connLimit
	}{{n.config.APISocket, n.api, n.limitAPI(1)}, {n.config.ControlSocket, n.control.Handler(), nil}} {
		l, err := listenUnix(s.path)
		if err != nil {
			return servers, err
		}
		servers = append(servers, newServer(l, s.handler, s.limit))
	}
	if !n.config.APIListen.IsValid() {
		return servers, nil
	}
	l, err := n.listenTLS()
	if err != nil {
		return servers, err
	}
	return append(servers, newServer(l, n.api, nil)), nil
}

// listenTLS listens for API requests from other machines. Clients verify the node's certificate with
// the root of the cluster's certificate authority.
func (n *Node) listenTLS() (net.Listener, error) {
	if n.id == nil {
		return nil, errors.New(`"api_listen" needs a certificate, which only a node with "peer.listen" has`)
	}
	l, err := net.Listen("tcp", n.config.APIListen.String())
	if err != nil {
		return nil, err
	}
	return tls.NewListener(n.limitAPI(4).listener(l), &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c := n.id.PublicCertificate() // changes while the authority is replaced
			return &c, nil
		},
	}), nil
}

// limitAPI returns the limit of connections of the API. One address may have the part-th part of them. A unix
// socket has one address, because its clients, such as a front door, are local and root.
func (n *Node) limitAPI(part int) *connLimit {
	most := cmp.Or(n.config.APILimits.Connections, defaultAPIConnections)
	return newConnLimit(most, max(most/part, 1), n.log)
}

// listenUnix opens a Unix socket that only root may use. It replaces the socket of a process that has
// ended.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// serve answers HTTP requests until ctx ends. It returns when all handlers have returned, or after one
// second. Timeouts disconnect slow and idle clients.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, ConnContext: withConn,
		WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // else each broken connection of a stranger is a line
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped // Serve returns as soon as Shutdown begins
	return nil
}
