// Package controlclient sends requests to a node's control socket, which the node's operator uses.
// Package control (internal/node/control) is the server and defines the paths and answers.
package controlclient

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Get requests path over the control socket and decodes the JSON answer into the value that into
// points to. If the node refuses the request, the error's text is the reason that the node gives.
// Timeout: 5 s.
func Get(ctx context.Context, socket, path string, into any) error {
	return call(ctx, socket, http.MethodGet, path, nil, func(body io.Reader) error {
		return json.NewDecoder(body).Decode(into)
	})
}

// Post is like Get, but for a request that changes something: it sends value as JSON. Its timeout
// is 30 s, because a change may have to wait for an election.
func Post(ctx context.Context, socket, path string, value, into any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return call(ctx, socket, http.MethodPost, path, data, func(body io.Reader) error {
		return json.NewDecoder(body).Decode(into)
	})
}

// Download is like Get, but writes the answer to a writer without decoding it.
func Download(ctx context.Context, socket, path string, to io.Writer) error {
	return call(ctx, socket, http.MethodGet, path, nil, func(body io.Reader) error {
		_, err := io.Copy(to, body)
		return err
	})
}

func call(ctx context.Context, socket, method, path string, data []byte, read func(io.Reader) error) error {
	limit := 5 * time.Second
	if method != http.MethodGet {
		limit = 30 * time.Second
	}
	client := &http.Client{
		Timeout: limit,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
		},
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://node"+path, bytes.NewReader(data))
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
		if err := read(body); err != nil {
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
