package control

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// A traceHost is the sender or the receiver of an imagined packet: an interface, or a host outside the cluster.
type traceHost struct {
	text     string            // as given
	address  netip.Addr        // as given, or the first private address of the named interface
	eni      *ec2.Interface    // nil for a host outside, or an address that no interface of the sender's network has
	named    bool              // by an id or a name, not by an address
	endpoint *vswitch.Endpoint // of eni; nil if eni is nil, or its node reports it down
}

// findHosts finds sender and receiver. A private address may exist in many networks. It is then the one in the network of
// the other host; if that leaves several, findHosts returns an error that lists them.
func (s *Server) findHosts(view *state.View, r traceRequest) (src, dst traceHost, err error) {
	senders, err := candidates(view, r.From)
	if err != nil {
		return src, dst, err
	}
	receivers, err := candidates(view, r.To)
	if err != nil {
		return src, dst, err
	}
	senders = narrowed(senders, receivers)
	if len(senders) > 1 {
		return src, dst, ambiguous(view, r.From, senders)
	}
	if src, err = s.host(r.From, senders); err != nil {
		return src, dst, err
	}
	if src.eni != nil && src.endpoint == nil {
		return src, dst, fmt.Errorf("%s (%s) has no port: its node %s reports it down", r.From, src.eni.ID, src.eni.Node)
	}
	receivers = narrowed(receivers, senders)
	// Of a private address that is in no network of the sender, the sender's network decides: no interface has it there.
	if len(receivers) > 1 && (src.eni == nil || isNamed(r.To)) {
		return src, dst, ambiguous(view, r.To, receivers)
	}
	if len(receivers) > 1 {
		receivers = nil
	}
	dst, err = s.host(r.To, receivers)
	return src, dst, err
}

func isNamed(text string) bool { _, err := netip.ParseAddr(text); return err != nil }

func (s *Server) host(text string, of []*ec2.Interface) (traceHost, error) {
	h := traceHost{text: text, named: isNamed(text)}
	if !h.named {
		h.address = netip.MustParseAddr(text)
	}
	if len(of) == 0 {
		return h, nil
	}
	h.eni = of[0]
	if h.named {
		h.address = h.eni.Private
	}
	h.endpoint = s.Switch.Snapshot().Owner(vswitch.VNI(h.eni.VNI), h.eni.Private)
	return h, nil
}

// candidates returns the interfaces that text means: an id or a name of an instance or interface, or an address.
// It returns none for an address that no interface has.
func candidates(view *state.View, text string) ([]*ec2.Interface, error) {
	if in, ok := view.Instance(ec2.InstanceID(text)); ok {
		eni, ok := view.Interface(in.Interface)
		if !ok || eni.State != ec2.Active {
			return nil, fmt.Errorf("%s is %s and has no address", text, in.State)
		}
		return []*ec2.Interface{eni}, nil
	}
	if eni, ok := view.Interface(ec2.InterfaceID(text)); ok {
		if eni.State != ec2.Active {
			return nil, fmt.Errorf("%s is not attached to a running instance or a device", text)
		}
		return []*ec2.Interface{eni}, nil
	}
	address, err := netip.ParseAddr(text)
	if err == nil && !address.Is4() {
		return nil, fmt.Errorf("%q is neither the id or name of an instance or interface nor an IPv4 address", text)
	}
	var found []*ec2.Interface
	for eni := range view.Interfaces() {
		switch {
		case eni.State != ec2.Active:
		case err == nil && slices.ContainsFunc(eni.Addresses(), func(p ec2.AddressPair) bool { return p.Private == address || p.Public == address }),
			err != nil && text != "" && (tagName(view, string(eni.ID)) == text || isPrimary(eni) && tagName(view, string(eni.Instance)) == text):
			found = append(found, eni)
		}
	}
	if err != nil && len(found) == 0 {
		return nil, fmt.Errorf("%q is neither the id or name of an instance or interface nor an IPv4 address", ec2.Clip(text))
	}
	return found, nil
}

// isPrimary reports whether an interface is the first one of an instance.
func isPrimary(eni *ec2.Interface) bool {
	return eni.Instance != "" && (eni.Attachment == nil || eni.Attachment.DeviceIndex == 0)
}

// tagName returns the tag Name of a resource, or "".
func tagName(view *state.View, id string) string {
	if id == "" {
		return ""
	}
	for tag := range view.Tags(id) {
		if tag.Key == "Name" {
			return tag.Value
		}
	}
	return ""
}

// narrowed returns those of several interfaces that are in a network of the others; all of them if none is.
func narrowed(several, others []*ec2.Interface) []*ec2.Interface {
	if len(several) < 2 {
		return several
	}
	near := slices.DeleteFunc(slices.Clone(several), func(eni *ec2.Interface) bool {
		return !slices.ContainsFunc(others, func(o *ec2.Interface) bool { return o.VNI == eni.VNI && o.ID != eni.ID })
	})
	if len(near) == 0 {
		return several
	}
	return near
}

// maxCandidates bounds the interfaces that an error lists.
const maxCandidates = 10

// ambiguous returns an error that asks which of several interfaces text means.
func ambiguous(view *state.View, text string, of []*ec2.Interface) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s may be %d interfaces; name one of them by its id:", text, len(of))
	for _, eni := range of[:min(len(of), maxCandidates)] {
		fmt.Fprintf(&b, "\n  %s", describe(view, eni))
	}
	if len(of) > maxCandidates {
		fmt.Fprintf(&b, "\n  and %d more", len(of)-maxCandidates)
	}
	return errors.New(b.String())
}

// describe returns one line about an interface: its id, instance, name, address, network and account.
func describe(view *state.View, eni *ec2.Interface) string {
	w := whoseOf(view, eni)
	text := string(w.Interface)
	if w.Instance != "" {
		text += " of " + string(w.Instance)
	}
	if w.Name != "" {
		text += fmt.Sprintf(" (%s)", w.Name)
	}
	return fmt.Sprintf("%s, %s in %s, %s, account %s", text, w.Address, w.VPC, w.Region, cmp.Or(w.AccountName, string(w.Account)))
}

// A Whose says which interface a port is of.
type Whose struct {
	Interface   ec2.InterfaceID `json:"interface,omitempty"`
	Instance    ec2.InstanceID  `json:"instance,omitempty"`
	Name        string          `json:"name,omitempty"` // the tag Name of the instance, or of the interface
	Address     string          `json:"address,omitempty"`
	VPC         string          `json:"vpc,omitempty"` // the id, or "classic"
	Region      ec2.Region      `json:"region,omitempty"`
	Account     ec2.AccountID   `json:"account,omitempty"`
	AccountName string          `json:"account_name,omitempty"`
}

func whoseOf(view *state.View, eni *ec2.Interface) Whose {
	w := Whose{Interface: eni.ID, Instance: eni.Instance, Name: cmp.Or(tagName(view, string(eni.Instance)), tagName(view, string(eni.ID))),
		Address: eni.Private.String(), VPC: ClassicName, Region: eni.Region, Account: eni.Account}
	if n, ok := view.Network(eni.VNI); ok && n.VPC != "" {
		w.VPC = string(n.VPC)
	}
	if a, ok := view.Account(eni.Account); ok {
		w.AccountName = a.Name
	}
	return w
}

// unaddressed returns the Trace of a packet that has no destination: the receiver was named, is in another network than the
// sender, which no route leads to, and has no public address. It returns nil for all other packets.
func (s *Server) unaddressed(src traceHost, dst *traceHost) *Trace {
	if dst.eni == nil || src.eni != nil && (src.eni.VNI == dst.eni.VNI || !dst.named || s.isPeer(src, *dst)) {
		return nil
	}
	for _, p := range dst.eni.Addresses() {
		if (p.Private == dst.address || p.Public == dst.address) && p.Public.IsValid() {
			dst.address = p.Public
			return nil
		}
	}
	at, where := "uplink", "outside of the cluster"
	if src.eni != nil {
		at, where = src.endpoint.Port.Name(), "in another network"
	}
	return &Trace{
		Verdict: verdict.NoRoute.String(), Meaning: verdict.NoRoute.Meaning(), At: at, Node: s.Node, Steps: []TraceStep{},
		Reason: fmt.Sprintf("%s has no public address, and %s is %s", dst.text, src.text, where),
	}
}

// isPeer reports whether the routes of the sender's subnet lead to the receiver by a peering.
func (s *Server) isPeer(src, dst traceHost) bool {
	n, ok := s.Switch.Snapshot().Network(vswitch.VNI(src.eni.VNI))
	peer := vswitch.Target{Kind: vswitch.Peer, Peer: vswitch.VNI(dst.eni.VNI)}
	return ok && n.SubnetOf(src.eni.Private).TargetOf(dst.address) == peer
}

// aim sets the packet's addresses and returns the port where the packet enters the switch. From
// outside the cluster an instance is reached only by its public address.
func (s *Server) aim(src, dst traceHost, t *packet.Template) (*vswitch.Port, error) {
	t.Flow.Src, t.Flow.Dst = src.address, dst.address
	if src.endpoint != nil {
		if src.endpoint.Port == nil {
			return nil, fmt.Errorf("%s is not on this node", src.address)
		}
		if !src.endpoint.Owns(src.address) {
			t.Flow.Src = src.endpoint.PrivateOf(src.address)
		}
		t.SrcMAC, t.DstMAC = src.endpoint.MAC, vswitch.GatewayMAC
		return src.endpoint.Port, nil
	}
	up := s.Switch.Snapshot().UplinkPort()
	if up == nil {
		return nil, fmt.Errorf("%s is outside the cluster, and this node has no uplink for its packets", src.address)
	}
	t.SrcMAC, t.DstMAC = up.NextHop, up.MAC
	return up.Port, nil
}
