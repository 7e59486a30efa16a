package loadgen

// verdict is what a sequence number says about its message.
type verdict uint8

const (
	fresh     verdict = iota // the next one, or one after a gap
	late                     // comes for the first time, after one that was sent later
	duplicate                // has come before
)

// order remembers, for many senders, the highest sequence number that has come and which of those just below it. Sequence numbers
// begin at 1. Whatever is so far behind that it is not remembered counts as late.
type order struct {
	highest []uint32
	seen    []uint64 // of each sender a ring of words*64 bits
	words   uint32   // a power of two
}

// newOrder remembers at least so many numbers of each sender.
func newOrder(senders, depth int) *order {
	words := 1
	for words*64 < depth {
		words *= 2
	}
	return &order{make([]uint32, senders), make([]uint64, senders*words), uint32(words)}
}

// arrive notes that a message has come.
func (o *order) arrive(sender int, seq uint32) verdict {
	ring := o.seen[sender*int(o.words) : (sender+1)*int(o.words)]
	mask := o.words*64 - 1
	highest := o.highest[sender]
	word, bit := &ring[(seq&mask)>>6], uint64(1)<<(seq&63)
	switch {
	case seq > highest:
		for missing := max(highest+1, seq-min(seq, mask)); missing < seq; missing++ {
			ring[(missing&mask)>>6] &^= 1 << (missing & 63)
		}
		*word |= bit
		o.highest[sender] = seq
		return fresh
	case highest-seq > mask:
		return late
	case *word&bit != 0:
		return duplicate
	}
	*word |= bit
	return late
}
