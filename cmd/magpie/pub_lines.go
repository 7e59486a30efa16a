package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/magpiemq/magpie/mqtt"
)

// inputLine is a line of stdin, or the end of it with its error.
type inputLine struct {
	text []byte
	err  error
	end  bool
}

// readLinesFrom sends lines without their ends, and then the end. Its goroutine ends with the input, or with ctx at the next line.
func readLinesFrom(ctx context.Context, in io.Reader) <-chan inputLine {
	lines := make(chan inputLine)
	send := func(l inputLine) bool {
		select {
		case lines <- l:
			return true
		case <-ctx.Done():
			return false
		}
	}
	go func() {
		s := bufio.NewScanner(in)
		s.Buffer(nil, mqtt.MaxPacket)
		s.Split(splitLines)
		for s.Scan() {
			if !send(inputLine{text: bytes.Clone(s.Bytes())}) {
				return
			}
		}
		l := inputLine{end: true}
		if err := s.Err(); err != nil {
			l.err = fmt.Errorf("reading stdin: %w", err)
		}
		send(l)
	}()
	return lines
}

// splitLines splits at \n and leaves everything else alone.
func splitLines(data []byte, atEOF bool) (advance int, line []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
