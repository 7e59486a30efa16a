package journal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// A record is
//
//	checksum  4 bytes  CRC-32C of payload, kind and length, exclusive or with mask(epoch, offset)
//	kind      1 byte   never zero, so that zeros are not a record
//	length    1 to 5   of the payload, as a varint
//	payload
//
// in little endian. The mask binds the record to its place: moved to another offset, or left over from an earlier use of the
// file, it does not match. The payload comes first in the checksum, so that it can be summed before the place is known.
const (
	minRecord = 6  // bytes before the payload, at least
	maxHeader = 10 // and at most

	// MaxPayload is the largest payload of a record, in bytes.
	MaxPayload = 1 << 30

	// MaxKind is the highest kind that a caller may use; the lowest is 1. What is above belongs to the log.
	MaxKind = 0xef
)

// The kinds that belong to the log.
const (
	kindStart  byte = 0xf0 + iota // first of each segment: the state of the log when the segment began
	kindMark                      // up to which place the log was synced when this was written
	kindClose                     // a mark that ended the log in an orderly way
	kindEnd                       // last of a segment: what follows is in the next one
	kindFree                      // a segment whose records mean nothing any more
	kindAnchor                    // from where a replay can begin
	kindLost                      // stands where salvage could not read
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mask is what the checksum of a record at a place differs by from that of its bytes.
func mask(epoch uint64, off int64) uint32 {
	return uint32((epoch ^ uint64(off)) * 0x9e3779b97f4a7c15 >> 32)
}

// recordSize is how many bytes a record with a payload of n bytes takes.
func recordSize(n int) int64 {
	size := int64(minRecord + n)
	for n >>= 7; n > 0; n >>= 7 {
		size++
	}
	return size
}

// length returns how long a payload in parts is.
func length(parts [][]byte) (n int) {
	for _, p := range parts {
		n += len(p)
	}
	return n
}

// sum returns the checksum of a payload in parts.
func sum(parts [][]byte) (crc uint32) {
	for _, p := range parts {
		crc = crc32.Update(crc, castagnoli, p)
	}
	return crc
}

// appendHeader appends what stands before a payload of n bytes with this checksum.
func appendHeader(b []byte, kind byte, n int, crc uint32, epoch uint64, off int64) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, kind)
	b = binary.AppendUvarint(b, uint64(n))
	crc = crc32.Update(crc, castagnoli, b[start+4:])
	binary.LittleEndian.PutUint32(b[start:], crc^mask(epoch, off))
	return b
}

// appendRecord appends a whole record.
func appendRecord(b []byte, kind byte, payload []byte, epoch uint64, off int64) []byte {
	b = appendHeader(b, kind, len(payload), crc32.Checksum(payload, castagnoli), epoch, off)
	return append(b, payload...)
}

// header is what stands before a payload.
type header struct {
	crc  uint32
	kind byte
	size int // of the header itself
	n    int // of the payload
}

// parseHeader reads a header from the first bytes of a record, of which there are at least maxHeader unless the file ends.
// It says no when no record can begin so.
func parseHeader(b []byte) (h header, ok bool) {
	if len(b) < minRecord || b[4] == 0 {
		return h, false
	}
	n, size := uint64(b[5]), 1
	if n >= 0x80 {
		if n, size = binary.Uvarint(b[5:min(len(b), maxHeader)]); size <= 0 || n > MaxPayload {
			return h, false
		}
	}
	return header{crc: binary.LittleEndian.Uint32(b), kind: b[4], size: 5 + size, n: int(n)}, true
}

// total is the size of the whole record.
func (h header) total() int64 { return int64(h.size + h.n) }

// matches says whether b, a whole record with this header, is what was written at this place.
func (h header) matches(b []byte, epoch uint64, off int64) bool {
	crc := crc32.Update(0, castagnoli, b[h.size:h.size+h.n])
	crc = crc32.Update(crc, castagnoli, b[4:h.size])
	return crc^mask(epoch, off) == h.crc
}

// A mark holds the epoch of its segment, which nobody outside knows and by which it is found among damaged bytes, and the
// place up to which the log was synced.
const (
	markPayload = 16
	markSize    = minRecord + markPayload
	endSize     = minRecord
)

// putMark writes a mark over the one at the beginning of b.
func putMark(b []byte, kind byte, epoch uint64, off int64, synced Position) {
	var payload [markPayload]byte
	binary.LittleEndian.PutUint64(payload[:], epoch)
	binary.LittleEndian.PutUint64(payload[8:], uint64(synced))
	appendRecord(b[:0], kind, payload[:], epoch, off)
}

// parseMark reads the payload of a mark.
func parseMark(payload []byte, epoch uint64) (synced Position, ok bool) {
	if len(payload) != markPayload || binary.LittleEndian.Uint64(payload) != epoch {
		return 0, false
	}
	return Position(binary.LittleEndian.Uint64(payload[8:])), true
}

// indexMark finds the first mark in b, which are the bytes of a segment from offset off on. It returns -1 when there is none.
func indexMark(b []byte, epoch uint64, off int64) int {
	var want [8]byte
	binary.LittleEndian.PutUint64(want[:], epoch)
	for from := 0; ; {
		i := bytes.Index(b[from:], want[:])
		if i < 0 {
			return -1
		}
		start := from + i - minRecord
		if start >= 0 && isMark(b[start:], epoch, off+int64(start)) {
			return start
		}
		from += i + 1
	}
}

// isMark says whether a whole mark begins b.
func isMark(b []byte, epoch uint64, off int64) bool {
	if len(b) < markSize {
		return false
	}
	h, ok := parseHeader(b)
	return ok && (h.kind == kindMark || h.kind == kindClose) && h.n == markPayload && h.matches(b, epoch, off)
}
