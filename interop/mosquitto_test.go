package interop

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mosquitto is Debian's mosquitto_pub and mosquitto_sub: a process per connection, and one per message.
type mosquitto struct{}

func (mosquitto) missing() error {
	for _, program := range []string{"mosquitto_pub", "mosquitto_sub", "mosquitto_rr", "stdbuf"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	return nil
}

// shown makes mosquitto_sub print a message as one line of fields that cannot be confused with its debug lines.
const shown = `=%q\t%r\t%C\t%R\t%D\t%P\t%t\t%x`

func (mosquitto) connect(t *testing.T, s settings, filters ...string) (*client, error) {
	// -d is how it tells that the SUBACK has come.
	args := append(mosquittoArgs(s), "-d", "-F", shown, "-q", strconv.Itoa(int(s.qos)))
	if len(filters) == 0 {
		filters = []string{"nothing/for/" + s.clientID} // it wants to subscribe to something
	}
	for _, filter := range filters {
		args = append(args, "-t", filter)
	}
	if s.keep {
		args = append(args, "-c")
	}
	if s.will != nil {
		args = append(args, "--will-topic", s.will.name, "--will-payload", s.will.payload, "--will-qos", strconv.Itoa(int(s.will.qos)))
		if s.will.retain {
			args = append(args, "--will-retain")
		}
	}
	return startSub(t, args)
}

func startSub(t *testing.T, args []string) (*client, error) {
	// Into a pipe it would print whole blocks only.
	cmd := command(t, "stdbuf", append([]string{"-oL", "mosquitto_sub"}, args...)...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := newClient()
	subscribed := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		readSub(out, c, subscribed)
		ended <- cmd.Wait()
		close(ended)
	}()
	end := func(sig syscall.Signal) func() {
		return func() {
			_ = cmd.Process.Signal(sig) // an error means that it has ended already
			<-ended
		}
	}
	c.leave, c.cut = end(syscall.SIGTERM), end(syscall.SIGKILL)
	t.Cleanup(c.cut)
	select {
	case <-subscribed:
		return c, nil
	case err := <-ended:
		return nil, mosquittoError(err, complaints.String())
	case <-time.After(patience):
		return nil, errSilent
	}
}

// readSub reads what mosquitto_sub prints until it ends.
func readSub(out io.Reader, c *client, subscribed chan struct{}) {
	var once sync.Once
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "Subscribed (") {
			once.Do(func() { close(subscribed) })
		} else if m, ok := parseShown(line); ok {
			c.arrived <- m
		}
	}
}

func parseShown(line string) (message, bool) {
	field := strings.Split(line, "\t")
	if len(field) != 8 || len(field[0]) != 2 || field[0][0] != '=' {
		return message{}, false
	}
	payload, err := hex.DecodeString(field[7])
	if err != nil {
		return message{}, false
	}
	m := message{name: field[6], payload: string(payload), qos: field[0][1] - '0', retain: field[1] == "1"}
	m.props = properties{contentType: field[2], responseTopic: field[3], correlation: field[4]}
	for pair := range strings.FieldsSeq(field[5]) {
		key, value, _ := strings.Cut(pair, ":")
		m.props.user = append(m.props.user, property{key, value})
	}
	return m, true
}

func (mosquitto) publish(t *testing.T, s settings, messages ...message) error {
	for _, m := range messages {
		if err := runPub(t, append(mosquittoArgs(s), pubArgs(m)...), m.payload); err != nil {
			return err
		}
	}
	return nil
}

func runPub(t *testing.T, args []string, payload string) error {
	ctx, cancel := soon(t)
	defer cancel()
	cmd := exec.CommandContext(ctx, "mosquitto_pub", args...)
	cmd.Stdin = strings.NewReader(payload)
	complaints, err := cmd.CombinedOutput()
	return mosquittoError(err, string(complaints))
}

func pubArgs(m message) []string {
	args := []string{"-t", m.name, "-q", strconv.Itoa(int(m.qos))}
	if m.payload == "" {
		args = append(args, "-n")
	} else {
		args = append(args, "-s") // all of standard input
	}
	if m.retain {
		args = append(args, "-r")
	}
	property := func(name, value string) {
		if value != "" {
			args = append(args, "-D", "publish", name, value)
		}
	}
	property("content-type", m.props.contentType)
	property("response-topic", m.props.responseTopic)
	property("correlation-data", m.props.correlation)
	for _, u := range m.props.user {
		args = append(args, "-D", "publish", "user-property", u.key, u.value)
	}
	return args
}

// mosquittoArgs are the flags that all the programs share.
func mosquittoArgs(s settings) []string {
	host, port := s.at.split()
	args := []string{"-V", map[version]string{v31: "mqttv31", v311: "mqttv311", v5: "mqttv5"}[s.version], "-i", s.clientID}
	if s.at.network == "unix" {
		args = append(args, "--unix", s.at.address)
	} else {
		args = append(args, "-h", host, "-p", port)
	}
	if s.user != "" {
		args = append(args, "-u", s.user, "-P", s.password)
	}
	if s.at.secure() {
		args = append(args, "--cafile", s.at.certs.authority)
	}
	if s.certificate {
		args = append(args, "--cert", s.at.certs.clientCert, "--key", s.at.certs.clientKey)
	}
	return args
}

// mosquittoError is nil for success. A program that was refused exits with the code of the CONNACK.
func mosquittoError(err error, complaints string) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && strings.HasPrefix(complaints, "Connection error:") {
		return refusal(exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("mosquitto: %w: %s", err, complaints)
	}
	return nil
}
