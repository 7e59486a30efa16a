package client

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store/journal"
)

// kept is what a replay has found out about a message.
type kept struct {
	position uint64
	message  session.Place
	size     int
	id       uint16 // under which it was sent; zero if it was not
	received bool
	done     bool
}

// restore gives the session what waits in the log. Nobody else has the session yet.
func (q *queue) restore() error {
	all := make(map[uint64]*kept)
	var order []*kept
	err := q.log.Replay(0, func(pos journal.Position, kind byte, b []byte) error {
		if kind == recordMessage {
			k := &kept{position: uint64(pos), size: len(b)}
			if m, err := parseMessage(b); err == nil {
				k.message = session.Place{Position: uint64(pos), QoS: uint8(m.QoS), Retain: m.Retain}
				k.size = len(m.Topic) + len(m.Payload) + len(m.Props)
			}
			all[k.position], order = k, append(order, k)
			q.live[journal.SegmentOf(pos)]++
			return nil
		}
		return q.apply(all, pos, kind, b)
	})
	if err != nil {
		return err
	}
	order = slices.DeleteFunc(order, func(k *kept) bool { return k.done })
	return q.resume(order)
}

// apply takes a note. One about a message that is gone means nothing.
func (q *queue) apply(all map[uint64]*kept, pos journal.Position, kind byte, b []byte) error {
	if len(b) != noteSize || kind > recordForgotten {
		return fmt.Errorf("record of kind %d with %d bytes: the queue is of another version", kind, len(b))
	}
	position, id := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint16(b[8:])
	if kind >= recordHandled {
		q.restoreOpen(pos, kind, id)
		return nil
	}
	k := all[position]
	if k == nil {
		return nil
	}
	switch kind {
	case recordSent:
		k.id = id
	case recordReceived:
		k.id, k.received = id, true
	case recordDone:
		k.done = true
		delete(all, position)
		if segment := journal.SegmentOf(journal.Position(position)); q.live[segment] > 1 {
			q.live[segment]--
		} else {
			delete(q.live, segment)
		}
	}
	return nil
}

// resume puts messages in flight and into the queue of the session, in their order.
func (q *queue) resume(order []*kept) error {
	s := q.client.session
	s.in.Restore(slices.Collect(maps.Keys(q.open)))
	s.out.Committed(allCommitted)
	for _, k := range order {
		switch {
		case k.message.QoS == 0:
			q.aside = append(q.aside, asideEntry{position: k.position, reason: errNoMessage})
		case k.id == 0:
			s.out.PushPlace(k.message, k.size)
		default:
			if err := q.resumeSent(k); err != nil {
				return err
			}
		}
	}
	return nil
}

// resumeSent puts a message of QoS 2 in flight.
func (q *queue) resumeSent(k *kept) error {
	s := q.client.session
	s.out.RestoreSent(k.id, k.position, k.received)
	if k.received {
		return nil
	}
	m, err := q.read(k.position)
	if err != nil {
		return err
	}
	s.out.Fill(k.id, session.Delivery{Message: m, QoS: m.QoS, Retain: m.Retain, Position: k.position})
	s.flying[k.id] = &Publication{message: m, position: k.position, unheard: true}
	return nil
}

// read fetches a message.
func (q *queue) read(position uint64) (*mqtt.Message, error) {
	kind, b, err := q.log.Read(journal.Position(position), nil)
	if err != nil {
		return nil, err
	}
	if kind != recordMessage {
		return nil, errNoMessage
	}
	return parseMessage(b)
}

// wakeLoader lets the loader look what there is to do.
func (q *queue) wakeLoader() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// serve is the loader: it does what takes the disk's time, without Session.mu.
func (q *queue) serve() {
	q.wakeLoader()
	for {
		select {
		case <-q.quit:
			return
		case <-q.wake:
			q.load()
			q.writeAside()
			q.tidy()
		}
	}
}

// tidy gives back what the log does not need any more.
func (q *queue) tidy() {
	q.client.session.mu.Lock()
	defer q.client.session.mu.Unlock()
	if q.rotated {
		q.free()
	}
}

// load fetches the messages that are to be sent next.
func (q *queue) load() {
	s := q.client.session
	s.mu.Lock()
	places := s.out.Places(loadAtOnce, nil)
	s.mu.Unlock()
	if len(places) == 0 {
		return
	}
	ds := make([]session.Delivery, len(places))
	for i, p := range places {
		ds[i] = q.fetch(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Loaded(ds)
	if s.conn != nil {
		s.conn.pump()
	}
}

// fetch reads one message. One that cannot be read is set aside, unless it was done meanwhile.
func (q *queue) fetch(p session.Place) session.Delivery {
	d := session.Delivery{Position: p.Position, QoS: mqtt.QoS(p.QoS), Retain: p.Retain}
	m, err := q.read(p.Position)
	if err == nil {
		d.Message = m
	} else if !errors.Is(err, journal.ErrNotFound) {
		q.client.session.mu.Lock()
		q.aside = append(q.aside, asideEntry{position: p.Position, reason: err})
		q.client.session.mu.Unlock()
		q.wakeLoader()
	}
	return d
}

// asideEntry is a message to be set aside.
type asideEntry struct {
	position uint64
	message  *mqtt.Message // nil if it cannot be read
	reason   error
}

// setAside takes a message that will not arrive out of the queue, holding Session.mu: it must not be sent again at the next start.
func (q *queue) setAside(position uint64, m *mqtt.Message, reason error) {
	q.aside = append(q.aside, asideEntry{position, m, reason})
	q.wakeLoader()
}

// writeAside writes what is to be set aside to files, reports it and takes it out of the queue.
func (q *queue) writeAside() {
	s := q.client.session
	s.mu.Lock()
	entries := q.aside
	q.aside = nil
	s.mu.Unlock()
	for _, e := range entries {
		file, err := q.writeFile(e)
		if err != nil {
			q.client.set.log.Error("message cannot be set aside", "reason", err)
		}
		if e.message == nil {
			e.message = new(mqtt.Message)
		}
		s.mu.Lock()
		q.done(e.position)
		s.mu.Unlock()
		q.client.report(Refused{Message: e.message, Reason: e.reason, File: file})
	}
}

// asideFile is the content of a file of a message that was set aside.
type asideFile struct {
	Reason     string    `json:"reason"`
	Time       time.Time `json:"time"`
	Topic      string    `json:"topic"`
	QoS        byte      `json:"qos"`
	Retain     bool      `json:"retain,omitempty"`
	Properties []byte    `json:"properties,omitempty"` // encoded as in MQTT 5.0
	Payload    []byte    `json:"payload"`
}

// writeFile writes one message, synced, and returns the file's name.
func (q *queue) writeFile(e asideEntry) (name string, err error) {
	dir := filepath.Join(q.dir, asideFolder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if files, err := os.ReadDir(dir); err != nil {
		return "", err
	} else if len(files) >= mostAside {
		return "", fmt.Errorf("%s has %d files already", dir, len(files))
	}
	content := asideFile{Reason: e.reason.Error(), Time: time.Now()}
	if m := e.message; m != nil {
		content.Topic, content.QoS, content.Retain, content.Properties, content.Payload = m.Topic, byte(m.QoS), m.Retain, m.Props, m.Payload
	}
	b, err := json.Marshal(content)
	if err != nil {
		return "", err
	}
	name = filepath.Join(dir, fmt.Sprintf("%016x.json", e.position))
	return name, writeSynced(name, b)
}

func writeSynced(name string, b []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
