package packet_test

import (
	"fmt"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
)

func ExamplePacket_String() {
	for _, frame := range [][]byte{
		packettest.Build(tcp(packet.SYN|packet.ACK, "hello")),
		packettest.Build(echo()),
		fragment(udp(""), 72, false, 5),
		packettest.ICMPError(packet.ICMPUnreachable, 3, server, client, packettest.Build(udp("x")), ec2.MAC{2}, ec2.MAC{4}),
		packettest.ARP(1, ec2.MAC{2}, client, server),
	} {
		var p packet.Packet
		packet.NewDecoder().Decode(frame, &p)
		fmt.Println(&p)
	}
	// Output:
	// tcp 203.0.113.25:40000 > 198.18.0.9:22, flags SYN+ACK, 45 bytes
	// icmp 203.0.113.25:7 > 198.18.0.9:7, type 8, code 0, 36 bytes
	// udp 203.0.113.25:0 > 198.18.0.9:0, 25 bytes, fragment of id 99 at 72, more follow: false
	// icmp 198.18.0.9:0 > 203.0.113.25:0, type 3, code 3, 56 bytes, about udp 203.0.113.25:40000 > 198.18.0.9:53
	// arp operation 1, 203.0.113.25 (02:00:00:00:00:00) asks for 198.18.0.9
}
