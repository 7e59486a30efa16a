// Lamp is a smart lamp and the phone that switches it, two clients of one broker. The lamp keeps its state as a retained message, and its
// Will says that it is gone; the phone sees both, also when it comes later.
//
//	magpie serve &
//	go run ./examples/lamp            # the lamp, until it is interrupted
//	go run ./examples/lamp -switch on # the phone
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

const (
	command = "home/lamp/command"
	state   = "home/lamp/state"
	online  = "home/lamp/online"
)

func main() {
	url := flag.String("url", "mqtt://127.0.0.1:1883", "the broker")
	to := flag.String("switch", "", "be the phone, and switch the lamp on or off")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := lamp
	if *to != "" {
		run = func(ctx context.Context, url string, out io.Writer) error { return phone(ctx, url, *to, out) }
	}
	if err := run(ctx, *url, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// lamp does what it is told until ctx is done.
func lamp(ctx context.Context, url string, out io.Writer) error {
	c, err := client.Dial(ctx, url, client.WithClientID("lamp-1"), client.WithSession(time.Hour), // commands wait for it
		client.WithWill(mqtt.Will{Topic: online, Payload: []byte("no"), QoS: mqtt.AtLeastOnce, Retain: true}))
	if err != nil {
		return err
	}
	_, err = c.Subscribe(ctx, command, func(d *client.Delivery) {
		fmt.Fprintf(out, "the lamp is %s\n", d.Payload)
		if err := c.Publish(ctx, state, d.Payload, client.Retain); err != nil {
			log.Print(err)
		}
	})
	if err == nil {
		err = c.Publish(ctx, online, []byte("yes"), client.Retain)
	}
	if err == nil {
		<-ctx.Done()
	}
	bye, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = c.Publish(bye, online, []byte("no"), client.Retain) // a Will is for those who cannot say it
	_ = c.Close(bye)
	return err
}

// phone switches the lamp, and returns when the lamp says that it has done so.
func phone(ctx context.Context, url, to string, out io.Writer) error {
	c, err := client.Dial(ctx, url)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	sub, err := c.Subscribe(ctx, "home/lamp/+", nil)
	if err != nil {
		return err
	}
	if err := c.Publish(ctx, command, []byte(to)); err != nil {
		return err
	}
	for d := range sub.Messages(ctx) {
		switch d.Topic {
		case online:
			fmt.Fprintf(out, "lamp online: %s\n", d.Payload)
		case state:
			fmt.Fprintf(out, "lamp: %s\n", d.Payload)
			if !d.Retain && string(d.Payload) == to {
				return nil
			}
		}
	}
	return ctx.Err()
}
