package journal

import (
	"fmt"

	"github.com/magpiemq/magpie/store"
)

// Position is where a record is: the number of its segment in the upper 32 bits, the offset in the file in the lower. The
// order of positions is the order of records. Zero stands before all of them; the first record is not 1.
type Position = store.Position

// at makes a position.
func at(number uint32, off int64) Position { return Position(number)<<32 | Position(uint32(off)) }

// SegmentOf returns the number of the segment that holds a position.
func SegmentOf(p Position) uint32 { return uint32(p >> 32) }

// OffsetOf returns the offset of a position in its segment, in bytes.
func OffsetOf(p Position) int64 { return int64(uint32(p)) }

// fileName is the name of the file of a segment.
func fileName(number uint32) string { return fmt.Sprintf("%08x.seg", number) }

// parseName returns the number of the segment that a file name stands for.
func parseName(name string) (number uint32, ok bool) {
	n, err := fmt.Sscanf(name, "%08x.seg", &number)
	return number, err == nil && n == 1 && number > 0 && name == fileName(number)
}
