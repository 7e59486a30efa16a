package client

import (
	"io"

	"github.com/magpiemq/magpie/mqtt"
)

const (
	inputSize = 4 << 10  // bytes to begin with
	keepInput = 64 << 10 // bytes of the largest buffer that is kept when it is empty
)

// input cuts a stream into packets. Its buffer grows with what has arrived, never with what a length announces.
type input struct {
	r        io.Reader
	buf      []byte
	from, to int // what was read and not taken yet
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// next returns the next packet, which is good until the next call.
func (in *input) next(v mqtt.Version, limit int) (mqtt.Frame, error) {
	for {
		f, size, err := mqtt.ParseFrame(in.buf[in.from:in.to], v, limit)
		if err != nil {
			return f, err
		}
		if size > 0 && size <= in.to-in.from {
			in.from += size
			return f, nil
		}
		if err := in.fill(); err != nil {
			return f, err
		}
	}
}

// fill reads some more.
func (in *input) fill() error {
	switch {
	case in.from == in.to && (len(in.buf) == 0 || len(in.buf) > keepInput):
		in.buf, in.from, in.to = make([]byte, inputSize), 0, 0
	case in.from > 0:
		in.to = copy(in.buf, in.buf[in.from:in.to])
		in.from = 0
	case in.to == len(in.buf):
		in.buf = append(in.buf, make([]byte, len(in.buf))...)
	}
	n, err := in.r.Read(in.buf[in.to:])
	in.to += n
	if n > 0 {
		return nil // an error comes again
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}
