// Validator is an MQTT server in a few lines: it lets everybody in, except that the client c001 must bring the user u001
// and the password p001; it prints who comes and goes and every message; and it answers two commands, clients and exit.
//
//	go run ./examples/validator
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// validator is the rule about c001.
type validator struct{}

func (validator) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	if r.ClientID == "c001" && (r.Username != "u001" || string(r.Password) != "p001") {
		return broker.Grant{}, mqtt.BadUserNameOrPassword
	}
	return broker.Grant{User: r.Username}, nil
}

func main() {
	address := flag.String("mqtt", "127.0.0.1:1883", "address to listen on")
	flag.Parse()
	b, err := broker.New(broker.Config{Authenticator: validator{}, Events: broker.Events{
		Connected:    func(c *broker.ClientInfo) { fmt.Printf("+ %q connected with MQTT %v\n", c.ClientID, c.Version) },
		Disconnected: func(c *broker.ClientInfo, why error) { fmt.Printf("- %q left: %v\n", c.ClientID, why) },
		Published: func(c *broker.ClientInfo, m *mqtt.Message) {
			if c != nil {
				fmt.Printf("  %q published %q: %q, QoS %d, retain %v\n", c.ClientID, m.Topic, m.Payload, m.QoS, m.Retain)
			}
		},
	}})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", ln.Addr(), "- type clients or exit")
	ctx, exit := context.WithCancel(context.Background())
	go console(b, exit)
	if err := b.Serve(ctx, ln); err != nil {
		log.Fatal(err)
	}
	patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := b.Shutdown(patience); err != nil {
		log.Fatal(err)
	}
}

// console answers commands.
func console(b *broker.Broker, exit func()) {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch command := in.Text(); command {
		case "clients":
			for _, c := range b.Clients() {
				fmt.Printf("%q, MQTT %v, from %v, since %v\n", c.ClientID, c.Version, c.Remote, c.Since.Format(time.DateTime))
			}
		case "exit":
			exit()
		default:
			fmt.Printf("unknown command %q: type clients or exit\n", command)
		}
	}
}
