package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Control returns the socket on which a node answers its operator.
func (l *Lab) Control(node string) string { return l.controlSocket(node) }

// Get asks a node's control socket for a path and reads the JSON it answers. What the
// node says is wrong with the question comes back as the error's text.
func Get(ctx context.Context, socket, path string, into any) error {
	client := &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node"+path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask %s: %w", socket, err)
	}
	defer response.Body.Close()
	body := io.LimitReader(response.Body, 256<<20)
	if response.StatusCode == http.StatusOK {
		if err := json.NewDecoder(body).Decode(into); err != nil {
			return fmt.Errorf("ask %s: %w", socket, err)
		}
		return nil
	}
	var refusal struct {
		Error string `json:"error"`
	}
	text, _ := io.ReadAll(io.LimitReader(body, 4096))
	if json.Unmarshal(text, &refusal) == nil && refusal.Error != "" {
		return fmt.Errorf("%s", refusal.Error)
	}
	return fmt.Errorf("ask %s: %s: %s", socket, response.Status, text)
}

// The addresses of the hosts outside, as the guide's examples and the story's tests know
// them.
const (
	LaptopAddress   = "203.0.113.25"
	StrangerAddress = "198.51.100.7"
)
