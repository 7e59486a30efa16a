package interop

import (
	"os/exec"
	"testing"

	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/extensions/rpc"
)

// mosquitto_rr asks, each peer answers. In 3.x both must know the response topic.
func TestRequest(t *testing.T) {
	need(t, mosquitto{})
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		if s.version == v31 {
			return // mosquitto_rr does not know it
		}
		question, answer := s.clientID+"/question", s.clientID+"/answer"
		responder := connect(t, k, s.by(fresh()).subscribing(1), question)
		heard := make(chan []byte, 1)
		go func() { heard <- requestResponse(t, s.by(fresh()), question, answer) }()

		m := responder.next(t)
		if m.payload != "how full?" || s.version == v5 && m.props.responseTopic != answer {
			t.Errorf("the responder got %v", m)
		}
		publish(t, k, s, message{name: answer, payload: "93 %", qos: 1, props: properties{correlation: m.props.correlation}})
		if got := string(<-heard); got != "93 %\n" {
			t.Errorf("mosquitto_rr printed %q", got)
		}
	})
}

// requestResponse returns what mosquitto_rr prints.
func requestResponse(t *testing.T, s settings, question, answer string) []byte {
	ctx, cancel := soon(t)
	defer cancel()
	args := append(mosquittoArgs(s), "-q", "1", "-t", question, "-e", answer, "-m", "how full?")
	if s.version == v5 {
		args = append(args, "-D", "publish", "correlation-data", "no. 42")
	}
	out, err := exec.CommandContext(ctx, "mosquitto_rr", args...).CombinedOutput()
	if err != nil {
		t.Errorf("mosquitto_rr: %v", err)
	}
	return out
}

// The request/response extension of paho.golang asks, every peer of 5.0 answers.
func TestRPC(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		if s.version != v5 {
			return
		}
		responder := connect(t, k, s.by(fresh()).subscribing(1), s.clientID)
		lib, _, err := dialPaho5(t, s.by(fresh()))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := soon(t)
		defer cancel()
		handler, err := rpc.NewHandler(ctx, lib)
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan string, 1)
		go func() {
			got, err := handler.Request(ctx, &paho.Publish{Topic: s.clientID, QoS: 1, Payload: []byte("ping")})
			if err != nil {
				t.Errorf("request: %v", err)
				got = &paho.Publish{}
			}
			heard <- string(got.Payload)
		}()
		m := responder.next(t)
		publish(t, k, s, message{name: m.props.responseTopic, payload: m.payload + "!", qos: 1, props: properties{correlation: m.props.correlation}})
		if got := <-heard; got != "ping!" {
			t.Errorf("got %q", got)
		}
	})
}
