package broker

import "testing"

// TestInputFull: a buffer that is given back while it is full, because its connection has to wait, has room when it is there again.
func TestInputFull(t *testing.T) {
	for _, small := range []bool{false, true} {
		in := &input{small: small}
		in.acquire()
		size := len(in.buf)
		for i := range in.buf {
			in.buf[i] = byte(i)
		}
		in.n, in.need = size, 3*size
		in.release()
		in.acquire()
		if in.n != size || len(in.buf) <= size {
			t.Fatalf("small %v: %d of %d bytes are there, in a buffer of %d", small, in.n, size, len(in.buf))
		}
		for i, b := range in.buf[:in.n] {
			if b != byte(i) {
				t.Fatalf("small %v: byte %d is %d", small, i, b)
			}
		}
		in.free()
	}
}
