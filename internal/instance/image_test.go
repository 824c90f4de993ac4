package instance

import "testing"

func TestLookupAcceptsAnyWellFormedImage(t *testing.T) {
	for _, tt := range []struct {
		id   string
		port uint16 // of the only service besides ssh; 0: none
		ok   bool
	}{
		{"ami-eca54085", 0, true},
		{"ami-fba54092", 80, true},
		{"ami-e3a5408a", 8000, true},
		{"ami-f1a54098", 3306, true},
		{"ami-12345678", 0, true},
		{"ami-0123456789abcdef0", 0, true},
		{"ami-", 0, false},
		{"ami-1234567", 0, false},
		{"ami-1234567g", 0, false},
		{"i-12345678", 0, false},
		{"ami-12345678\n", 0, false},
		{"", 0, false},
	} {
		image, err := Lookup(tt.id)
		if (err == nil) != tt.ok {
			t.Errorf("Lookup(%q) returned the error %v, want success %v", tt.id, err, tt.ok)
			continue
		}
		var port uint16
		for _, s := range image.Services {
			port = s.Port
		}
		if port != tt.port {
			t.Errorf("the image of %q serves port %d besides ssh, want %d", tt.id, port, tt.port)
		}
	}
}
