package ec2

func (o *Outside) String() string {
	if o.Namespace == "" {
		return "device " + o.Device
	}
	return "namespace " + o.Namespace + ", device " + o.Device
}
