package broker

import (
	"sync"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/topic"
)

// Handler receives messages in process. retained is true for a message that was retained before the subscription was made. It
// runs on a goroutine of its subscription, one message after the other, and may block and call the broker.
type Handler func(m *mqtt.Message, retained bool)

// local is the connection of a subscriber in process: a queue and a function.
type local struct {
	handle Handler
	most   int // messages that may wait; further ones are dropped
	room   int // bytes that may wait, the same

	mu    sync.Mutex
	queue []session.Delivery
	bytes int           // of the messages in queue, and of those that are being handled
	wake  chan struct{} // has room for one
	done  chan struct{}
}

func (l *local) push(d session.Delivery) DropReason {
	l.mu.Lock()
	full := len(l.queue) >= l.most || l.bytes > l.room
	if !full {
		l.queue = append(l.queue, d)
		l.bytes += d.Size()
	}
	l.mu.Unlock()
	if full {
		return DropQueue
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nothingDropped
}

// run hands over what comes until the subscription is closed.
func (l *local) run() {
	for {
		select {
		case <-l.done:
			return
		case <-l.wake:
		}
		l.mu.Lock()
		batch := l.queue
		l.queue = nil
		l.mu.Unlock()
		for i := range batch {
			select {
			case <-l.done:
				return
			default:
				l.handle(batch[i].Message, batch[i].Retain)
				l.handled(&batch[i])
			}
		}
	}
}

// handled makes room for others.
func (l *local) handled(d *session.Delivery) {
	size := d.Size()
	*d = session.Delivery{}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes -= size
}

// localBytes is how many bytes may wait for one subscriber in process, without a memory limit.
const localBytes = 64 << 20

// localRoom returns how many bytes may wait for one subscriber in process.
func (l *Limits) localRoom() int {
	room := min(l.QueuedBytes, localBytes)
	if l.Memory > 0 {
		room = int(min(int64(room), l.Memory/packetShare))
	}
	return room
}

// LocalSubscription is a subscription in process.
type LocalSubscription struct {
	session *Session
	once    sync.Once
}

// Subscribe calls handle for every message that the filter matches, retained ones first. Nothing is checked by the
// Authorizer: this is the program itself. Up to Limits.QueuedMessages, Limits.QueuedBytes and 64 MiB may wait for handle, and
// no more than an eighth of Limits.Memory; further ones are dropped and counted. Close the subscription when it is not needed any more; Shutdown closes it too.
func (b *Broker) Subscribe(filter string, qos mqtt.QoS, handle Handler) (*LocalSubscription, error) {
	sub, err := b.checkSubscription(nil, mqtt.Subscription{Filter: filter, QoS: qos})
	if err != nil {
		return nil, err
	}
	l := &local{handle: handle, most: b.limits.QueuedMessages, room: b.limits.localRoom(), wake: make(chan struct{}, 1), done: make(chan struct{})}
	s := &Session{broker: b, local: l, expiry: NeverExpires}
	sub.session = s
	made := &LocalSubscription{session: s}
	b.mu.Lock()
	if b.closing {
		b.mu.Unlock()
		return nil, mqtt.ServerShuttingDown
	}
	b.locals[made] = struct{}{}
	b.tasks.Add(1)
	b.mu.Unlock()
	go func() {
		defer b.tasks.Done()
		l.run()
	}()
	if _, err := s.addSubscription(sub, nil); err != nil {
		made.Close()
		return nil, err
	}
	if sub.wantsRetained(true) {
		s.pushRetained(sub)
	}
	return made, nil
}

// pushRetained queues the retained messages for a subscriber in process.
func (s *Session) pushRetained(sub *subscription) {
	t := s.broker.beginTurn()
	defer t.end()
	r := &s.broker.retained
	for from := ""; ; {
		var lost []*mqtt.Message
		r.mu.RLock() // held while pushing: see sendCurrent
		t.items, from = r.tree.Next(sub.filter, from, replayPage, t.items[:0])
		for i := range t.items {
			m := t.items[i].Value.Message
			if m.Expired(t.now) {
				continue
			}
			if s.local.push(session.Delivery{Message: m, QoS: min(m.QoS, sub.QoS), Retain: true}) != nothingDropped {
				lost = append(lost, m)
			}
		}
		r.mu.RUnlock()
		for _, m := range lost {
			s.broker.droppedMessage(s, m, DropQueue)
		}
		if from == "" {
			return
		}
	}
}

// Close ends the subscription. A handler that is running goes on; none is started after Close returns, except by itself.
func (l *LocalSubscription) Close() {
	l.once.Do(func() {
		s := l.session
		b := s.broker
		b.mu.Lock()
		delete(b.locals, l)
		b.mu.Unlock()
		t := b.beginTurn()
		defer t.end()
		b.endSession(s, mqtt.AdministrativeAction, t)
		close(s.local.done)
	})
}

// Publish publishes a message in process. It is routed before Publish returns, but not waited for until the store has
// committed it. The message must not be changed afterwards. Nothing is checked by the Authorizer; topics
// that begin with $ are allowed.
func (b *Broker) Publish(m *mqtt.Message) error {
	if err := topic.ValidateName(m.Topic, b.topicLimits); err != nil {
		return nameError(err)
	}
	if m.QoS > mqtt.ExactlyOnce {
		return mqtt.QoSNotSupported
	}
	t := b.beginTurn()
	defer t.end()
	t.pub.beginMessage(m, t.now)
	_, err := b.publish(t, nil, nil, 0)
	return err
}
