//go:build soak

package clients

import (
	"encoding/json"
	"os/exec"
	"testing"
)

// payloadSizes returns the sizes that one flow sends: all.
func payloadSizes() (sizes []int) {
	for size := 1; size <= 9000; size++ {
		sizes = append(sizes, size)
	}
	return sizes
}

// iperf3 runs iperf3 between two ends: TCP in both directions, and UDP in datagrams of several sizes.
func iperf3(t *testing.T, from, to *end) {
	t.Helper()
	for _, args := range [][]string{{"-n", "32M"}, {"-n", "32M", "-R"}, {"-u", "-b", "100M", "-n", "2M", "-l", "1400"}, {"-u", "-b", "100M", "-n", "2M", "-l", "1473"}, {"-u", "-b", "100M", "-n", "2M", "-l", "8000"}} {
		server := exec.Command("ip", "netns", "exec", to.namespace, "iperf3", "--server", "--one-off", "--forceflush")
		ready, err := server.StdoutPipe()
		check(t, err)
		check(t, server.Start())
		_, err = ready.Read(make([]byte, 256)) // its first line says that it listens
		check(t, err)
		out, err := exec.Command("ip", append([]string{"netns", "exec", from.namespace, "timeout", "60", "iperf3", "--json", "--client", to.addressFor(from).String()}, args...)...).Output()
		var result struct {
			Error string
			End   struct {
				Received struct{ Bytes int } `json:"sum_received"`
				UDP      struct {
					Packets     int
					LostPercent float64 `json:"lost_percent"`
				} `json:"sum"`
			}
		}
		if err == nil {
			err = json.Unmarshal(out, &result)
		}
		if err != nil || result.Error != "" || args[0] == "-n" && result.End.Received.Bytes == 0 || args[0] == "-u" && (result.End.UDP.Packets == 0 || result.End.UDP.LostPercent > 50) {
			t.Errorf("iperf3 %v from %s to %s: error %v %s; received %+v, UDP %+v", args, from.name, to.name, err, result.Error, result.End.Received, result.End.UDP)
		}
		if server.Process.Kill() == nil {
			_ = server.Wait()
		}
	}
}
