// Inprocess runs a broker inside a program that is itself a publisher and a subscriber. Devices may connect at the same time.
//
//	go run ./examples/inprocess
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

func main() {
	b, err := broker.New(broker.Config{})
	if err != nil {
		log.Fatal(err)
	}
	full := make(chan string)
	sub, err := b.Subscribe("bins/+/level", mqtt.AtLeastOnce, func(m *mqtt.Message, retained bool) {
		fmt.Printf("%s is %s %% full (retained: %v)\n", m.Topic, m.Payload, retained)
		if string(m.Payload) == "93" {
			full <- m.Topic
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, level := range []string{"12", "57", "93"} {
		m := &mqtt.Message{Topic: "bins/7/level", Payload: []byte(level), QoS: mqtt.AtLeastOnce, Retain: true}
		if err := b.Publish(m); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("empty this one:", <-full)
	sub.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := b.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
}
