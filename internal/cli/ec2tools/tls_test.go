package ec2tools

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestServerCertificateIsCheckedAgainstBundle(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<a/>") }))
	defer srv.Close()
	svc := &service{url: srv.URL}
	dir := t.TempDir()
	bundle, empty := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "empty.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for file, data := range map[string][]byte{bundle: certificate, empty: []byte("none\n")} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		bundle string
		exit   int
		stderr string
	}{
		{bundle, 0, ""},
		{"", 1, "certificate"},
		{empty, 2, "no certificate in " + empty},
		{filepath.Join(dir, "nothing"), 1, "AWS_CA_BUNDLE"},
	} {
		got := svc.run(t, map[string]string{"AWS_CA_BUNDLE": c.bundle}, "ec2-describe-group")
		if got.exit != c.exit || !strings.Contains(got.stderr, c.stderr) {
			t.Errorf("AWS_CA_BUNDLE=%q: got %+v, want exit %d and %q", c.bundle, got, c.exit, c.stderr)
		}
	}
}
