package broker

import (
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// manualStore commits when the test says so.
type manualStore struct {
	mu        sync.Mutex
	records   []store.Record
	committed store.Position
	news      func(store.Position)
	full      bool
}

func (m *manualStore) Append(r *store.Record) (store.Position, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		return 0, errors.New("no room")
	}
	m.records = append(m.records, *r)
	return store.Position(len(m.records)), nil
}

func (m *manualStore) Committed() store.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.committed
}

func (m *manualStore) Safe(store.Promise) store.Position                              { return m.Committed() }
func (m *manualStore) OnCommit(f func(store.Position))                                { m.news = f }
func (m *manualStore) Maintain(store.Upkeep)                                          {}
func (m *manualStore) OnFail(func(error))                                             {}
func (m *manualStore) Restore(func(store.Position, *store.Record) error) error        { return nil }
func (m *manualStore) Load(store.Position, *store.Record) error                       { return errors.New("not there") }
func (m *manualStore) LoadAll([]store.Position, func(int, *store.Record, error) bool) {}
func (m *manualStore) Busy() bool                                                     { return false }
func (m *manualStore) Use(store.Position, int)                                        {}
func (m *manualStore) Close() error                                                   { return nil }

func (m *manualStore) commit(p store.Position) {
	m.mu.Lock()
	m.committed = p
	m.mu.Unlock()
	m.news(p)
}

// answers reads packets from nc and passes on their types and identifiers.
func answers(nc net.Conn) <-chan mqtt.Ack {
	got := make(chan mqtt.Ack, 100)
	go func() {
		defer close(got)
		var buf []byte
		chunk := make([]byte, 4096)
		for {
			n, err := nc.Read(chunk)
			if err != nil {
				return
			}
			buf = append(buf, chunk[:n]...)
			for {
				f, size, err := mqtt.ParseFrame(buf, mqtt.V5, mqtt.MaxPacket)
				if err != nil || size == 0 || size > len(buf) {
					break
				}
				var a mqtt.Ack
				if f.Type != mqtt.PUBACK && f.Type != mqtt.PUBREC {
					a.Type = f.Type
				} else if a.Parse(f, mqtt.V5) != nil {
					return
				}
				got <- a
				buf = buf[size:]
			}
		}
	}()
	return got
}

// TestAcknowledgeAfterCommit: a message is acknowledged when the store has committed it and not before [MQTT-4.3.2-4];
// reading goes on meanwhile, and answers keep the order of the messages [MQTT-4.6.0-2], [MQTT-4.6.0-3].
func TestAcknowledgeAfterCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &manualStore{}
		b, err := New(Config{Store: s, SysInterval: -1})
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		b.ServeConn(theirs)
		got := answers(ours)
		send := func(packet []byte) {
			if _, err := ours.Write(packet); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		want := func(types ...mqtt.PacketType) {
			t.Helper()
			for _, w := range types {
				select {
				case a := <-got:
					if a.Type != w {
						t.Fatalf("got %v, want %v", a.Type, w)
					}
				default:
					t.Fatalf("nothing was sent, want %v", w)
				}
			}
			select {
			case a := <-got:
				t.Fatalf("got %v, want nothing", a.Type)
			default:
			}
		}
		publish := func(qos mqtt.QoS, id uint16) {
			send((&mqtt.Publish{Topic: []byte("a"), QoS: qos, PacketID: id, Payload: []byte("x"), Retain: qos > 0}).Append(nil, mqtt.V5))
		}
		kept := mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 100)
		send((&mqtt.Connect{Version: mqtt.V5, CleanStart: true, ClientID: "c", Props: kept}).Append(nil))
		want(mqtt.CONNACK)

		publish(mqtt.AtLeastOnce, 1)
		publish(mqtt.ExactlyOnce, 2)
		publish(mqtt.AtLeastOnce, 3)
		publish(mqtt.AtMostOnce, 0)
		want() // three messages were read, none is safe
		if len(s.records) != 4 || s.records[0].ClientID != "c" || s.records[2].PacketID != 2 || s.records[2].Session != s.records[0].Session || s.records[1].PacketID != 0 {
			t.Fatalf("records: %+v", s.records)
		}
		publish(mqtt.ExactlyOnce, 2) // again: seen before, so its answer needs no record of its own, but keeps its place
		want()
		s.commit(2)
		synctest.Wait()
		want(mqtt.PUBACK)
		s.commit(4)
		synctest.Wait()
		want(mqtt.PUBREC, mqtt.PUBACK, mqtt.PUBREC)

		s.full = true
		publish(mqtt.AtLeastOnce, 4)
		a := <-got
		if a.Type != mqtt.PUBACK || a.Code != mqtt.QuotaExceeded {
			t.Fatalf("with a full store got %v %v", a.Type, a.Code)
		}
		s.full = false
		publish(mqtt.AtLeastOnce, 5)
		if err := ours.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.commit(6) // of a client that is gone
		if n := len(b.holding.conns); n != 0 {
			t.Errorf("%d connections still wait", n)
		}
		if err := b.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
