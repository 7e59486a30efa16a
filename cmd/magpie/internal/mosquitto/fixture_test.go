package mosquitto

import (
	"bytes"
	"encoding/binary"
	"flag"
	"os"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

var update = flag.Bool("update", false, "write testdata/mosquitto.db anew")

// TestFixture makes sure that the file which the scripts of the command import is what this package's tests know how to write.
func TestFixture(t *testing.T) {
	message := func(n uint64, name, payload string, qos mqtt.QoS) Message {
		return Message{n, mqtt.Message{Topic: name, Payload: []byte(payload), QoS: qos, Publisher: "switch"}}
	}
	b := newFile(6, binary.LittleEndian, false).write(&DB{
		Messages: []Message{message(1, "site/name", "Yancheng", 1), message(2, "lamps/1", "on", 1), message(3, "lamps/1", "dimmed", 2),
			message(4, "lamps/1", "off", 1), message(5, "lamps/1", "unreleased", 2)},
		Clients: []Client{{ClientID: "lamp", User: "ann", Expiry: Never}, {ClientID: "switch", User: "bob", Expiry: Never}, {ClientID: "gone", Expiry: 0}},
		Deliveries: []Delivery{
			{ClientID: "lamp", Message: 2, PacketID: 1, QoS: 1, State: 3},
			{ClientID: "lamp", Message: 3, PacketID: 2, QoS: 2, State: stateSent},
			{ClientID: "lamp", Message: 4, QoS: 1, State: stateQueued},
			{ClientID: "switch", Message: 5, PacketID: 9, QoS: 2, State: 7, Inbound: true},
		},
		Subscriptions: []Subscription{{ClientID: "lamp", Filter: "lamps/#", QoS: 2}},
		Retained:      []uint64{1},
	})
	const name = "testdata/mosquitto.db"
	if *update {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, b) {
		t.Errorf("%s is another one: go test -update writes it", name)
	}
}
