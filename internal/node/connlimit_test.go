package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"palisade/ec2"
)

const describeGroups = "Action=DescribeSecurityGroups&Version=2016-11-15&Filter.1.Name=group-name&Filter.1.Value.1=default"

// limitedServer serves a handler on loopback TCP with a limit of connections.
func limitedServer(t *testing.T, most, ofOne int, h http.HandlerFunc) (address string, limit *connLimit) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limit = newConnLimit(most, ofOne, discard)
	s := newServer(l, h, limit)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, s.listener, s.handler) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), limit
}

// dialFrom connects from a loopback address, and closes the connection at the end of the test.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)), Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// get sends a request and reports whether it was answered.
func get(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return false
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	return err == nil && answer.StatusCode == http.StatusOK
}

// isClosed reports whether the server closed a connection on which it has sent nothing.
func isClosed(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	timeout, ok := err.(net.Error)
	return err != nil && !(ok && timeout.Timeout())
}

// open returns how many connections are counted, when that number is settled.
func (l *connLimit) open(t *testing.T, want int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		n, addresses := l.all, len(l.addresses)
		l.mu.Unlock()
		if n == want && (n > 0 || addresses == 0) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections of %d addresses are counted, want %d", n, addresses, want)
		}
	}
}

// TestConnectionsOfOneAddressAreBounded: a connection beyond the limit of its address displaces the one of this
// address that waits longest, and none of another address.
func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	address, limit := limitedServer(t, 100, 3, func(http.ResponseWriter, *http.Request) {})
	other := dialFrom(t, "127.0.0.2", address)
	var mine []net.Conn
	for i := range 3 {
		mine = append(mine, dialFrom(t, "127.0.0.1", address))
		limit.open(t, i+2)
	}
	if !get(mine[0]) { // so that mine[1] waits longest
		t.Fatal("a connection within the limit was not answered")
	}
	mine = append(mine, dialFrom(t, "127.0.0.1", address))
	if !get(mine[3]) {
		t.Error("a connection that displaced another was not answered")
	}
	if !isClosed(mine[1]) {
		t.Error("the connection that waited longest is open")
	}
	for i, c := range []net.Conn{mine[0], mine[2], other} {
		if !get(c) {
			t.Errorf("connection %d, which was within the limits, was closed", i)
		}
	}
	for _, c := range append(mine, other) {
		c.Close()
	}
	limit.open(t, 0)
}

// TestConnectionsOfAllAddressesAreBounded: a connection beyond the limit of all displaces one of the address
// that has the most.
func TestConnectionsOfAllAddressesAreBounded(t *testing.T) {
	address, limit := limitedServer(t, 8, 6, func(http.ResponseWriter, *http.Request) {})
	var flood []net.Conn
	for i := range 6 {
		flood = append(flood, dialFrom(t, "127.0.0.1", address))
		limit.open(t, i+1)
	}
	var others []net.Conn
	for i := range 5 {
		others = append(others, dialFrom(t, fmt.Sprintf("127.0.0.%d", i+2), address))
		if !get(others[i]) {
			t.Fatalf("the connection of address %d was not answered", i)
		}
	}
	limit.open(t, 8)
	if closed := slices.IndexFunc(flood, func(c net.Conn) bool { return !isClosed(c) }); closed != 3 {
		t.Errorf("%d connections of the address with the most were closed, want the oldest 3", closed)
	}
	for i, c := range others {
		if !get(c) {
			t.Errorf("the connection of address %d was closed", i)
		}
	}
}

// TestRequestUnderWayIsNotDisplaced: a connection whose whole request was received is kept until it is
// answered. If there is no other, the new connection is closed. A request that is not whole does not count.
func TestRequestUnderWayIsNotDisplaced(t *testing.T) {
	entered, leave := make(chan struct{}, 4), make(chan struct{})
	address, limit := limitedServer(t, 100, 2, func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			entered <- struct{}{}
			<-leave
		}
	})
	post := func(c net.Conn, sent string) {
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n%s", sent)
	}
	whole := []net.Conn{dialFrom(t, "127.0.0.1", address), dialFrom(t, "127.0.0.1", address)}
	for _, c := range whole {
		post(c, "whole")
		<-entered
	}
	if late := dialFrom(t, "127.0.0.1", address); !isClosed(late) {
		t.Error("a connection beyond the limit was accepted, although none waits")
	}
	limit.open(t, 2)
	close(leave)
	for i, c := range whole {
		if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("request %d, which was under way, got %v and error %v", i, answer, err)
		}
		c.Close()
	}
	limit.open(t, 0)
	half := []net.Conn{dialFrom(t, "127.0.0.1", address), dialFrom(t, "127.0.0.1", address)}
	for _, c := range half {
		post(c, "ha")
	}
	limit.open(t, 2)
	time.Sleep(50 * time.Millisecond) // until the handlers read
	c := dialFrom(t, "127.0.0.1", address)
	post(c, "whole")
	if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("a request beside two that are not whole got %v and error %v", answer, err)
	}
}

// apiNode runs a node whose API listens on loopback too, and returns an HTTP client that trusts it.
func apiNode(t *testing.T) (n testNode, address string, trust *tls.Config) {
	t.Helper()
	c := secretConfig(t)
	c.Peer.Listen, c.APIListen = freePorts(t), freePorts(t)
	c.Account = append(c.Account, Account{ID: "495219933132", Name: "mary", Platform: ec2.Classic, AccessKey: "AKIDMARY", SecretKey: plainText})
	if _, err := InitCluster(c); err != nil {
		t.Fatal(err)
	}
	n = newNode(t, c)
	n.start(t)
	identity, _, err := c.identity()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(identity.RootPEM())
	return n, c.APIListen.String(), &tls.Config{RootCAs: roots, ServerName: c.Peer.Listen.Addr().String()}
}

// clientOver returns a client whose connections are to an address, by a dialer.
func clientOver(dial func() (net.Conn, error), trust *tls.Config) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		TLSClientConfig:     trust,
		MaxIdleConnsPerHost: 100,
		DialContext:         func(context.Context, string, string) (net.Conn, error) { return dial() },
	}}
}

// callAPI sends a signed request of an account and returns its status and how long it took.
func callAPI(t testing.TB, client *http.Client, scheme, account, form string) (int, time.Duration) {
	t.Helper()
	r := signedBy(t, "AKID"+account, form, plainText)
	r.RequestURI, r.URL.Scheme = "", scheme
	began := time.Now()
	answer, err := client.Do(r)
	if err != nil {
		t.Errorf("%s got no answer: %v", account, err)
		return 0, time.Since(began)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Errorf("%s got no whole answer: %v", account, err)
	}
	return answer.StatusCode, time.Since(began)
}

// TestSlowAndIdleConnectionsDoNotStopAPI: 500 idle connections and 200 with a part of a request, of headers or
// of a body, all from the address of the client, do not keep it from an answer within a second.
func TestSlowAndIdleConnectionsDoNotStopAPI(t *testing.T) {
	n, address, trust := apiNode(t)
	overTLS := func() (net.Conn, error) { return net.DialTimeout("tcp", address, 10*time.Second) }
	overUnix := func() (net.Conn, error) { return net.Dial("unix", n.config.APISocket) }
	for _, c := range []struct {
		scheme string
		dial   func() (net.Conn, error)
	}{{"https", overTLS}, {"http", overUnix}} {
		var all []net.Conn
		for i := range 700 {
			conn, err := c.dial()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, conn)
			if i%7 > 1 {
				continue
			}
			if c.scheme == "https" {
				secured := tls.Client(conn, trust)
				_ = secured.SetDeadline(time.Now().Add(10 * time.Second))
				if secured.Handshake() != nil {
					continue // displaced meanwhile
				}
				conn = secured
			}
			part := "POST / HTTP/1.1\r\nHost: a\r\nContent-Le"
			if i%7 == 1 {
				part += "ngth: 1000\r\n\r\nAction="
			}
			_, _ = io.WriteString(conn, part)
		}
		client := clientOver(c.dial, trust)
		for range 20 {
			if status, took := callAPI(t, client, c.scheme, "ALBERT", describeGroups); status != http.StatusOK || took > time.Second {
				t.Errorf("%s: status %d after %s, want 200 within a second", c.scheme, status, took)
			}
			client.CloseIdleConnections()
		}
		for _, conn := range all {
			conn.Close()
		}
	}
}

// TestFloodOfOneAccountSlowsOthersAtMostTwice: 64 connections on which one account calls without end, beyond
// its rate and with bad signatures, make the calls of another at most twice as slow.
func TestFloodOfOneAccountSlowsOthersAtMostTwice(t *testing.T) {
	n, _, _ := apiNode(t)
	dial := func() (net.Conn, error) { return net.Dial("unix", n.config.APISocket) }
	calm := clientOver(dial, nil)
	median := func() time.Duration {
		var all []time.Duration
		for range 25 {
			status, took := callAPI(t, calm, "http", "ALBERT", describeGroups)
			if status != http.StatusOK {
				t.Errorf("albert: status %d, want 200", status)
			}
			all = append(all, took)
			time.Sleep(40 * time.Millisecond) // within EC2's rate
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	var idle, flooded time.Duration
	var throttled int
	for range 4 { // other processes of the machine disturb a measurement
		idle = median()
		flooded, throttled = n.flood(t, dial, median)
		if flooded <= 2*idle {
			break
		}
	}
	t.Logf("median of a call: %s idle, %s during a flood, of which %d calls were throttled", idle, flooded, throttled)
	if flooded > 2*idle {
		t.Errorf("a call takes %s during a flood and %s without, want at most twice as long", flooded, idle)
	}
	if throttled == 0 {
		t.Error("no call of the flood was throttled")
	}
}

// flood runs measure while mary calls without end, and returns its result and the number of throttled calls.
func (n testNode) flood(t *testing.T, dial func() (net.Conn, error), measure func() time.Duration) (result time.Duration, throttled int) {
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var flood sync.WaitGroup
	forms := []string{
		describeGroups, "Action=DescribeInstances&Version=2016-11-15", "Action=CreateSecurityGroup&Version=2016-11-15&GroupName=web&GroupDescription=x",
		"Action=Nothing&Version=2016-11-15",
	}
	for i := range 64 {
		flood.Go(func() {
			client := clientOver(dial, nil)
			for k := 0; ctx.Err() == nil; k++ {
				key := "MARY"
				if i%8 == 0 {
					key = "NOBODY"
				}
				if status, _ := callAPI(t, client, "http", key, forms[k%len(forms)]); status == http.StatusServiceUnavailable {
					mu.Lock()
					throttled++
					mu.Unlock()
				}
			}
			client.CloseIdleConnections()
		})
	}
	time.Sleep(time.Second) // until mary's buckets are empty
	result = measure()
	cancel()
	flood.Wait()
	return result, throttled
}
