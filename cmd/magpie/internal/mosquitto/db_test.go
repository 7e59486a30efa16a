package mosquitto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

var noon = time.Unix(1_800_000_000, 0)

// example is what a broker may have saved: a lamp that is away with a queue, one that was connected, a publisher in the middle
// of its handshakes.
func example() *DB {
	message := func(number uint64, name, payload string, qos mqtt.QoS) Message {
		return Message{number, mqtt.Message{Topic: name, Payload: []byte(payload), QoS: qos, Publisher: "p"}}
	}
	rich := message(4, "a/4", "four", 2)
	rich.Props = mqtt.Properties(nil).WithString(mqtt.ContentType, "text/plain").WithUser("k", "v")
	rich.Expires = noon.Add(time.Minute)
	gone := message(5, "a/5", "five", 1)
	gone.Expires = noon.Add(-time.Minute)
	name := message(1, "site/name", "Yancheng", 1)
	name.Retain = true
	release := message(9, "a/9", "nine", 2)
	release.Retain = true
	return &DB{
		Format: 6,
		Clients: []Client{
			{ClientID: "lamp", User: "u", Expiry: Never},
			{ClientID: "other", Expiry: 3600, Expires: noon.Add(time.Hour / 2)},
			{ClientID: "late", Expiry: 60, Expires: noon.Add(-time.Second)},
			{ClientID: "brief", Expiry: 0},
			{ClientID: "p", Expiry: Never},
		},
		Messages: []Message{rich, name, message(2, "a/2", "two", 1), message(3, "a/3", "three", 2), gone, message(6, "a/6", "six", 2),
			message(7, "a/7", "seven", 2), message(8, "lost", "", 1), release},
		Deliveries: []Delivery{
			{ClientID: "lamp", Message: 3, PacketID: 11, QoS: 2, State: stateReleased},
			{ClientID: "lamp", Message: 4, PacketID: 12, QoS: 2, State: stateSent, IDs: []uint32{7}},
			{ClientID: "lamp", Message: 2, PacketID: 13, QoS: 1, State: 3},
			{ClientID: "lamp", Message: 1, QoS: 1, State: stateQueued, Retain: true},
			{ClientID: "lamp", Message: 6, QoS: 2, State: stateQueued},
			{ClientID: "lamp", Message: 5, QoS: 1, State: stateQueued},
			{ClientID: "lamp", Message: 7, QoS: 0, State: stateQueued},
			{ClientID: "other", Message: 2, QoS: 1, State: stateQueued},
			{ClientID: "other", Message: 7, PacketID: 1, QoS: 2, State: stateToSend},
			{ClientID: "late", Message: 2, QoS: 1, State: stateQueued},
			{ClientID: "p", Message: 9, PacketID: 21, QoS: 2, State: 7, Inbound: true},
		},
		Subscriptions: []Subscription{
			{ClientID: "lamp", Filter: "a/+", QoS: 1, ID: 7},
			{ClientID: "lamp", Filter: "a/#", QoS: 2, RetainAsPublished: true},
			{ClientID: "other", Filter: "$share/g/a/+", QoS: 2},
			{ClientID: "p", Filter: "a/9", QoS: 2, NoLocal: true},
			{ClientID: "p", Filter: "$share/g/a/+", QoS: 2},
			{ClientID: "late", Filter: "a/#", QoS: 2},
			{ClientID: "lamp", Filter: "a/#/b", QoS: 2},
		},
		Retained: []uint64{1, 5, 8},
	}
}

func TestReadDB(t *testing.T) {
	for _, test := range []struct {
		name   string
		format int
		order  binary.ByteOrder
		narrow bool
	}{
		{"2.0", 6, binary.LittleEndian, false},
		{"1.6", 5, binary.LittleEndian, false},
		{"32 bits", 6, binary.LittleEndian, true},
		{"big-endian", 6, binary.BigEndian, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := example()
			want.Format = test.format
			b := newFile(test.format, test.order, test.narrow).write(want)
			got, err := ReadDB(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			if test.format == 5 {
				want.Clients[0].User = "" // was not written
			}
			for i := range got.Messages {
				if len(got.Messages[i].Props) == 0 {
					got.Messages[i].Props = nil
				}
			}
			for i := range reflect.TypeFor[DB]().NumField() {
				g, w := reflect.ValueOf(*got).Field(i).Interface(), reflect.ValueOf(*want).Field(i).Interface()
				if !reflect.DeepEqual(g, w) {
					t.Errorf("read\n%+v, want\n%+v", g, w)
				}
			}
		})
	}
}

// TestCutDB cuts a file at every length: an error, but for cuts between two chunks, which nothing tells from a whole file.
func TestCutDB(t *testing.T) {
	b := newFile(6, binary.LittleEndian, false).write(example())
	whole := 0
	for n := range b {
		_, err := ReadDB(bytes.NewReader(b[:n]), int64(n))
		if err == nil {
			whole++
		} else if !errors.As(err, new(*FormatError)) {
			t.Fatalf("cut after %d bytes: %v", n, err)
		}
	}
	db := example()
	if want := len(db.Messages) + len(db.Clients) + len(db.Deliveries) + len(db.Subscriptions) + len(db.Retained) + 1; whole != want {
		t.Errorf("%d cuts go unnoticed, want %d", whole, want)
	}
	if _, err := ReadDB(bytes.NewReader(b[:100]), int64(len(b))); !errors.As(err, new(*FormatError)) {
		t.Errorf("a file that became shorter: %v", err)
	}
}

func TestBadDB(t *testing.T) {
	good := newFile(6, binary.LittleEndian, false)
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "begins with something else"},
		{"text", []byte("listener 1883\nallow_anonymous true\n"), "begins with something else"},
		{"sqlite", []byte("SQLite format 3\x00 and much more"), "persist_sqlite"},
		{"old", newFile(4, binary.LittleEndian, false).Bytes(), "start Mosquitto 2.0 with it once"},
		{"new", newFile(7, binary.LittleEndian, false).Bytes(), "format 7, which is not known"},
		{"long chunk", append(bytes.Clone(good.Bytes()), 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff), "cut off"},
		{"short chunk", append(bytes.Clone(good.Bytes()), 0, 0, 0, 6, 0, 0, 0, 1, 0), "a chunk of kind 6 makes no sense"},
		{"qos", newFile(6, binary.LittleEndian, false).write(&DB{Messages: []Message{{1, mqtt.Message{Topic: "a", QoS: 3}}}}), "kind 2 makes no sense"},
		{"state", newFile(6, binary.LittleEndian, false).write(&DB{Clients: []Client{{}}, Deliveries: []Delivery{{State: 12}}}), "kind 3 makes no sense"},
		{"properties", newFile(6, binary.LittleEndian, false).write(&DB{Messages: []Message{{1, mqtt.Message{Topic: "a", Props: mqtt.Properties{0x7f}}}}}), "kind 2"},
	} {
		_, err := ReadDB(bytes.NewReader(test.b), int64(len(test.b)))
		if !errors.As(err, new(*FormatError)) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want something with %q", test.name, err, test.want)
		}
	}
}

// recorded lists what is imported, a line a record.
func recorded(t *testing.T, db *DB, cfg ImportConfig) (lines []string, done Imported) {
	t.Helper()
	cfg.Now = noon
	done, err := db.Records(cfg, func(r *store.Record) (store.Position, error) {
		lines = append(lines, line(r))
		return store.Position(len(lines)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines, done
}

func line(r *store.Record) string {
	switch r.Kind {
	case store.Session:
		return fmt.Sprintf("session %d %s of %q, expiry %v", r.Session, r.ClientID, r.Owner, r.Expiry)
	case store.Left:
		return fmt.Sprintf("left %d %v ago", r.Session, noon.Sub(r.Time))
	case store.Subscribed:
		return fmt.Sprintf("subscribed %d %+v %v", r.Session, r.Subscription, r.IDs)
	case store.Accepted:
		s := fmt.Sprintf("accepted %s=%s retain=%v from=%d/%d", r.Message.Topic, r.Message.Payload, r.Message.Retain, r.Session, r.PacketID)
		for _, to := range r.Recipients {
			s += fmt.Sprintf(" to=%d/%d/%v%v%s", to.Session, to.QoS, to.Retain, to.IDs, to.Share)
		}
		return s
	}
	return fmt.Sprintf("kind %d of %d: %d at %d", r.Kind, r.Session, r.PacketID, r.About)
}

// TestRecords spells out what becomes of the example.
func TestRecords(t *testing.T) {
	lines, done := recorded(t, example(), ImportConfig{})
	want := strings.Split(`session 1 lamp of "u", expiry -1ns
left 1 0s ago
session 2 other of "", expiry 1h0m0s
left 2 30m0s ago
session 3 p of "", expiry -1ns
left 3 0s ago
subscribed 1 {Filter:a/+ QoS:1 NoLocal:false RetainAsPublished:false RetainHandling:0} [7]
subscribed 1 {Filter:a/# QoS:2 NoLocal:false RetainAsPublished:true RetainHandling:0} []
subscribed 2 {Filter:$share/g/a/+ QoS:2 NoLocal:false RetainAsPublished:false RetainHandling:0} []
subscribed 3 {Filter:a/9 QoS:2 NoLocal:true RetainAsPublished:false RetainHandling:0} []
subscribed 3 {Filter:$share/g/a/+ QoS:2 NoLocal:false RetainAsPublished:false RetainHandling:0} []
accepted site/name=Yancheng retain=true from=0/0
accepted a/2=two retain=false from=0/0 to=2/1/false[]
accepted a/3=three retain=false from=0/0 to=1/2/false[]
accepted a/4=four retain=false from=0/0 to=1/2/false[7]
accepted a/2=two retain=false from=0/0 to=1/1/false[]
accepted site/name=Yancheng retain=false from=0/0 to=1/1/true[]
accepted a/6=six retain=false from=0/0 to=1/2/false[]
accepted a/7=seven retain=false from=0/0 to=2/2/false[]
kind 8 of 1: 11 at 14
kind 9 of 1: 11 at 14
kind 8 of 1: 12 at 15
kind 8 of 2: 1 at 19
accepted a/9=nine retain=true from=3/21 to=1/2/true[7] to=2/2/false[]$share/g/a/+`, "\n")
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("imported\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if done.Sessions != 3 || done.Subscriptions != 5 || done.Messages != 8 || done.Retained != 1 || done.Waiting != 7 || done.InFlight != 3 || done.Released != 1 {
		t.Errorf("counted %+v", done)
	}
	left := map[string]int{
		"sessions that have expired": 1, "sessions that ended with their connections": 1,
		"subscriptions of sessions that are not there": 1, "subscriptions with a filter that is none": 1,
		"messages that have expired": 1, "retained messages without payload": 1,
		"deliveries whose session or message is not there": 2, "deliveries of QoS 0, which do not wait here": 1,
	}
	if !reflect.DeepEqual(done.Left, left) {
		t.Errorf("left behind %v, want %v", done.Left, left)
	}
}

func TestOwners(t *testing.T) {
	for _, test := range []struct {
		format int
		cfg    ImportConfig
		want   string
	}{
		{6, ImportConfig{}, `"u"`},
		{6, ImportConfig{Owner: "x"}, `"u"`},
		{6, ImportConfig{Anonymous: true}, `""`},
		{5, ImportConfig{}, `""`},
		{5, ImportConfig{Owner: "x"}, `"x"`},
		{5, ImportConfig{Owner: "%c"}, `"lamp"`},
	} {
		db := example()
		if db.Format = test.format; test.format == 5 {
			db.Clients[0].User = ""
		}
		lines, _ := recorded(t, db, test.cfg)
		if !strings.Contains(lines[0], test.want) {
			t.Errorf("format %d, %+v: %s, want %s", test.format, test.cfg, lines[0], test.want)
		}
	}
}

// TestRecordsError: an error of the store ends the import wherever it comes.
func TestRecordsError(t *testing.T) {
	lines, _ := recorded(t, example(), ImportConfig{})
	full := errors.New("full")
	for k := range lines {
		n := 0
		_, err := example().Records(ImportConfig{Now: noon}, func(*store.Record) (store.Position, error) {
			if n++; n > k {
				return 0, full
			}
			return store.Position(n), nil
		})
		if !errors.Is(err, full) || n != k+1 {
			t.Errorf("error at record %d: %v after %d records", k+1, err, n)
		}
	}
}

// FuzzReadDB wants no panic, and only records that can be read again.
func FuzzReadDB(f *testing.F) {
	f.Add(newFile(6, binary.LittleEndian, false).write(example()))
	f.Add(newFile(5, binary.LittleEndian, false).write(example()))
	f.Add(newFile(6, binary.BigEndian, true).write(example()))
	f.Fuzz(func(t *testing.T, b []byte) {
		db, err := ReadDB(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		n := store.Position(0)
		_, err = db.Records(ImportConfig{Now: noon}, func(r *store.Record) (store.Position, error) {
			n++
			var again store.Record
			if err := again.Parse(r.Kind, r.Append(nil)); err != nil {
				t.Errorf("record %+v: %v", r, err)
			}
			return n, nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
