package journal

import (
	"encoding/binary"
	"hash/crc32"
)

// FormatVersion is the version of the files that this package writes, and the highest that it reads.
const FormatVersion = 1

// page is what the disk and the page cache like to be addressed by, in bytes. The first page of a segment is its header.
const page = 4096

// The header is written twice into its page, so that a bad sector does not take the epoch away and with it the whole segment:
//
//	magic     8 bytes  "magpielg"
//	version   4 bytes
//	number    4 bytes  of the segment
//	epoch     8 bytes  random, new each time the file is prepared
//	log id   16 bytes  random, the same in all segments of a log
//	checksum  4 bytes  CRC-32C of all before
const (
	headerSize = 44
	headerCopy = page / 2 // where the second one is
)

var magic = [8]byte{'m', 'a', 'g', 'p', 'i', 'e', 'l', 'g'}

// logID tells one log from another.
type logID [16]byte

// fileHeader is the header of a segment.
type fileHeader struct {
	version uint32
	number  uint32
	epoch   uint64
	id      logID
}

// page returns the first page of the segment.
func (h fileHeader) page() []byte {
	b := make([]byte, page)
	copy(b, magic[:])
	binary.LittleEndian.PutUint32(b[8:], h.version)
	binary.LittleEndian.PutUint32(b[12:], h.number)
	binary.LittleEndian.PutUint64(b[16:], h.epoch)
	copy(b[24:], h.id[:])
	binary.LittleEndian.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
	copy(b[headerCopy:], b[:headerSize])
	return b
}

// parseFileHeader reads a header. The reason tells what is wrong; a version that we do not know is not wrong.
func parseFileHeader(b []byte) (h fileHeader, reason string) {
	if len(b) < headerSize {
		return h, "too short for a header"
	}
	if [8]byte(b[:8]) != magic {
		return h, "not a segment of a journal"
	}
	h.version = binary.LittleEndian.Uint32(b[8:])
	h.number = binary.LittleEndian.Uint32(b[12:])
	h.epoch = binary.LittleEndian.Uint64(b[16:])
	h.id = logID(b[24:40])
	if crc32.Checksum(b[:40], castagnoli) != binary.LittleEndian.Uint32(b[40:]) {
		return h, "header does not match its checksum"
	}
	return h, ""
}
