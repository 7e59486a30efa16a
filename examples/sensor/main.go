// Sensor measures every few seconds and never loses a measurement: they wait on the disk while there is no network, also when the program is
// restarted, and are sent in their order.
//
//	go run ./examples/sensor -queue /tmp/sensor
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"github.com/magpiemq/magpie/client"
)

func main() {
	url := flag.String("url", "mqtt://127.0.0.1:1883", "the broker, which may come and go")
	dir := flag.String("queue", "sensor-queue", "folder for what was not sent yet")
	every := flag.Duration("every", 2*time.Second, "time between measurements")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, *url, *dir, *every); err != nil {
		log.Fatal(err)
	}
}

// measure runs until ctx is done.
func measure(ctx context.Context, url, dir string, every time.Duration) error {
	c, err := client.Dial(ctx, url, client.WithClientID("sensor-1"), client.WithSession(24*time.Hour), client.WithQueue(dir),
		client.WithLazyConnect(), // it need not be there yet
		client.WithLogger(slog.Default()),
		client.OnRefused(func(r client.Refused) { log.Printf("refused: %v, kept in %s", r.Reason, r.File) }))
	if err != nil {
		return err
	}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for err == nil {
		value := fmt.Sprintf(`{"ts":%d,"celsius":%.1f}`, time.Now().UnixMilli(), 20+3*rand.Float64())
		if err = c.Publish(ctx, "sensors/1/telemetry", []byte(value), client.Queued); err == nil { // it is on the disk now
			select {
			case <-ticks.C:
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
	}
	bye, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if closed := c.Close(bye); ctx.Err() == nil || closed != nil {
		return errors.Join(err, closed)
	}
	return nil
}
