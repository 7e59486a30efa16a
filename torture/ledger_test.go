package torture

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/magpiemq/magpie/mqtt"
)

// stream is what has an order: the messages of one publisher (the Topic Name tells which) on one topic with one QoS. They are
// numbered from 1.
type stream struct {
	name string
	qos  mqtt.QoS
}

// clearEvery says which messages of a retained stream are empty, and so remove the one that is there.
const clearEvery = 7

func (s stream) retained() bool { return strings.HasPrefix(s.name, "r/") }

// shared says that the stream goes to the members of a Shared Subscription.
func (s stream) shared() bool { return strings.HasPrefix(s.name, "s/") }

// clears reports whether message n removes the retained one.
func (s stream) clears(n int) bool { return s.retained() && n%clearEvery == 0 }

// after returns the number of the message that a subscriber gets next. Empty messages have no number and are not counted.
func (s stream) after(n int) int {
	if s.clears(n + 1) {
		return n + 2
	}
	return n + 1
}

// account is what is known of a stream.
type account struct {
	sent  int          // the last number that was sent at all
	acked map[int]bool // by PUBACK or PUBREC
	owned int          // all up to here are acknowledged
}

// fate is what must become of a Will.
type fate int

const (
	open      fate = iota // nothing was acknowledged after its CONNECT, or a kill came near: it may be published or not
	promised              // something was, so the CONNECT is on disk, and the connection was not or will not be ended in peace
	forbidden             // it must not be published: its client has left with DISCONNECT, and that is on disk; or it comes back in time
)

// ledger is what the clients were promised. All clients share it.
type ledger struct {
	mu      sync.Mutex
	streams map[stream]*account
	wills   map[string][]fate // by Topic Name; of connection 1, 2, …
	steps   int
	target  int
	reached chan struct{}
	wrong   []string
	onWrong func()
}

func newLedger(onWrong func()) *ledger {
	return &ledger{streams: make(map[stream]*account), wills: make(map[string][]fate), onWrong: onWrong}
}

// fail notes that a promise was broken. It ends the run.
func (l *ledger) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
	l.onWrong()
}

// failures returns what was noted, at most 20.
func (l *ledger) failures() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wrong[:min(len(l.wrong), 20)]
}

// after returns a channel that is closed when the clients have done n more steps. There is one at a time.
func (l *ledger) after(n int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target, l.reached = l.steps+n, make(chan struct{})
	return l.reached
}

// step counts an acknowledgement or a delivery. The caller holds l.mu.
func (l *ledger) step() {
	if l.steps++; l.steps == l.target {
		close(l.reached)
	}
}

// arrived counts a delivery.
func (l *ledger) arrived() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.step()
}

// send opens the account of the next message of a stream and returns its number.
func (l *ledger) send(s stream) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.streams[s]
	if a == nil {
		a = &account{acked: make(map[int]bool)}
		l.streams[s] = a
	}
	a.sent++
	return a.sent
}

// acknowledge notes that the broker has taken message n.
func (l *ledger) acknowledge(s stream, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.streams[s]
	if n <= a.owned {
		return
	}
	a.acked[n] = true
	for a.acked[a.owned+1] {
		a.owned++
		delete(a.acked, a.owned)
	}
	l.step()
}

// balance returns up to where a stream is acknowledged and how far it was sent.
func (l *ledger) balance(s stream) (owned, sent int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.streams[s]; a != nil {
		return a.owned, a.sent
	}
	return 0, 0
}

// isAcknowledged reports whether the broker has said that it took message n.
func (l *ledger) isAcknowledged(s stream, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.streams[s]
	return a != nil && (n <= a.owned || a.acked[n])
}

// newWill opens the account of a Will and returns its number.
func (l *ledger) newWill(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wills[name] = append(l.wills[name], open)
	return len(l.wills[name])
}

func (l *ledger) setWill(name string, n int, f fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wills[name][n-1] = f
}

func (l *ledger) will(name string, n int) fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wills[name][n-1]
}

// snapshot returns a copy of what there is.
func (l *ledger) snapshot() (streams map[stream]account, wills map[string][]fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	streams, wills = make(map[stream]account), make(map[string][]fate)
	for s, a := range l.streams {
		streams[s] = account{sent: a.sent, owned: a.owned}
	}
	for name, f := range l.wills {
		wills[name] = append([]fate(nil), f...)
	}
	return streams, wills
}

// body is the payload of message n of a stream: who it is, and size bytes that are wrong when a byte of it is lost.
func body(qos mqtt.QoS, n, size int) []byte {
	b := fmt.Appendf(nil, "%d %d %d ", qos, n, size)
	return append(b, bytes.Repeat([]byte{byte('a' + n%26)}, size)...)
}

// readBody is the way back.
func readBody(b []byte) (qos mqtt.QoS, n int, err error) {
	f := bytes.SplitN(b, []byte(" "), 4)
	if len(f) != 4 {
		return 0, 0, fmt.Errorf("payload of %d bytes is none of ours", len(b))
	}
	var v [3]int
	for i := range v {
		if v[i], err = strconv.Atoi(string(f[i])); err != nil {
			return 0, 0, fmt.Errorf("payload: %w", err)
		}
	}
	if want := body(mqtt.QoS(v[0]), v[1], v[2]); !bytes.Equal(b, want) {
		return 0, 0, fmt.Errorf("payload of message %d is damaged: %d bytes, want %d", v[1], len(b), len(want))
	}
	return mqtt.QoS(v[0]), v[1], nil
}
