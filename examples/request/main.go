// Request asks a question over MQTT and prints the answer of whoever listens, here the same program.
//
//	go run ./examples/request
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/magpiemq/magpie/client"
)

func main() {
	url := flag.String("url", "mqtt://127.0.0.1:1883", "the broker")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := ask(ctx, *url, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func ask(ctx context.Context, url string, out io.Writer) error {
	server, err := client.Dial(ctx, url)
	if err != nil {
		return err
	}
	defer server.Close(ctx)
	if _, err := server.Subscribe(ctx, "services/upper", func(d *client.Delivery) {
		if err := server.Reply(ctx, d, bytes.ToUpper(d.Payload)); err != nil {
			log.Print(err)
		}
	}); err != nil {
		return err
	}

	c, err := client.Dial(ctx, url)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	reply, err := c.Request(ctx, "services/upper", []byte("hello"))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", reply.Payload)
	return err
}
