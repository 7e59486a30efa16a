package interop

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// js starts the driver when it is first needed.
var js = sync.OnceValue(startJS)

type jsDriver struct {
	in    io.WriteCloser
	ended chan struct{} // closed when the process has printed its last line

	mu      sync.Mutex // guards all below and writing to in
	last    int        // id given last, to a request or a client
	replies map[int]chan jsReply
	clients map[int]*client
}

func startJS() *jsDriver {
	cmd := exec.Command("node", "js/driver.js")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		panic(err) // the pipes of a command that has not started
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	d := &jsDriver{in: in, ended: make(chan struct{}), replies: make(map[int]chan jsReply), clients: make(map[int]*client)}
	if err := cmd.Start(); err != nil {
		close(d.ended)
		return d
	}
	go func() {
		defer close(d.ended)
		d.read(out)
		_ = cmd.Wait() // how it ended shows in the requests that are left without a reply
	}()
	atEnd(func() {
		in.Close()
		<-d.ended
	})
	return d
}

func (d *jsDriver) read(out io.Reader) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var r jsReply
		if err := json.Unmarshal(line, &r); err != nil {
			panic(fmt.Sprintf("js/driver.js said %q: %v", line, err))
		}
		d.mu.Lock()
		reply, to := d.replies[r.ID], d.clients[r.Client]
		delete(d.replies, r.ID)
		d.mu.Unlock()
		if r.Message != nil {
			to.arrived <- r.Message.message()
		} else {
			reply <- r
		}
	}
}

func (d *jsDriver) add(c *client) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	d.clients[d.last] = c
	return d.last
}

// do sends the request and waits for its reply.
func (d *jsDriver) do(r jsRequest) (jsReply, error) {
	reply, err := d.send(r)
	if err != nil {
		return jsReply{}, err
	}
	select {
	case answer := <-reply:
		return answer, answer.err()
	case <-d.ended:
		return jsReply{}, errors.New("js/driver.js has ended")
	case <-time.After(patience):
		return jsReply{}, errSilent
	}
}

func (d *jsDriver) send(r jsRequest) (chan jsReply, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	r.ID = d.last
	reply := make(chan jsReply, 1)
	d.replies[r.ID] = reply
	line, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	_, err = d.in.Write(append(line, '\n'))
	return reply, err
}

func (r jsReply) err() error {
	switch {
	case r.Error == "":
		return nil
	case r.Code != 0:
		return refusal(r.Code)
	}
	return fmt.Errorf("MQTT.js: %s", r.Error)
}
