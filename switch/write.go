package vswitch

import (
	"time"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// write writes the frame to the device of a port, and returns Forward or the verdict that drops the
// frame. If the device lacks an offload that the frame needs, write cuts the frame into packets and
// computes their checksums.
func (f *frame) write(to *Port) verdict.Verdict {
	failpoint.Reach()
	if f.trace != nil {
		return verdict.Forward
	}
	var begin time.Duration
	if f.timesWrites(to) {
		var ok bool
		if begin, ok = f.beginWrite(to); !ok {
			return f.overShare()
		}
	}
	var err error
	if to.offloads.Take(&f.pkt) {
		err = to.device.Write(f.buffer[:offloadLen+f.pkt.Len])
	} else {
		f.plain = to
		err = packet.Segment(f.buffer[:offloadLen], f.bytes(), &f.pkt, f.scratch[offloadLen:], f.emit)
	}
	if begin != 0 {
		f.endWrite(to, begin, f.pkt.Len, int(f.pkt.Segments))
	}
	if err == nil {
		to.txFrames.Add(1)
		to.txBytes.Add(uint64(f.pkt.Len))
	}
	return f.written(err)
}

// written returns the verdict of a write that ended with err.
func (f *frame) written(err error) verdict.Verdict {
	if err != nil {
		return verdict.WriteFailed
	}
	return verdict.Forward
}

// emitPlain writes one finished packet without offloads. packet.Segment has put it into f.scratch,
// behind room for a virtio header, or into f.buffer, where it has cleared the header.
func (f *frame) emitPlain(out []byte) error {
	failpoint.Reach()
	if &out[0] == &f.scratch[offloadLen] {
		clear(f.scratch[:offloadLen])
		return f.plain.device.Write(f.scratch[:offloadLen+len(out)])
	}
	return f.plain.device.Write(f.buffer[:offloadLen+len(out)])
}
