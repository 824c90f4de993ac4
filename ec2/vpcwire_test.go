package ec2

// vpcSamples has one filled request of every type that is of VPCs, what is in them, and
// tags.
func vpcSamples() []Request {
	return []Request{
		&CreateTags{albert, east, []string{"sg-455b6c31", "i-cfd732a6"}, map[string]string{"Name": "web", "stage": ""}},
		&DeleteTags{albert, east, []string{"sg-455b6c31"}, []TagSelector{{"Name", nil}, {"stage", new("")}}},
	}
}
