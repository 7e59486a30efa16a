package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// connectTo makes a client of a broker in this process, to be closed at the end of the test.
func connectTo(t testing.TB, dial func(context.Context, string, string) (net.Conn, error), v mqtt.Version, opts ...Option) *Client {
	t.Helper()
	c, err := Dial(context.Background(), "mqtt://broker", append([]Option{WithDialer(dial), WithVersion(v)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
		<-c.Done()
	})
	return c
}

// TestHandlersMayDoAnything: handlers publish, subscribe, wait for other handlers, close their own subscription and at last the client.
func TestHandlersMayDoAnything(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		c, err := Dial(t.Context(), "mqtt://broker", WithDialer(startBroker(t, broker.Config{})), WithVersion(v))
		if err != nil {
			t.Fatal(err)
		}
		answered, more := make(chan string), make(chan string)
		must := func(err error) {
			if err != nil {
				t.Error(err)
			}
		}
		_, err = c.Subscribe(t.Context(), "answer/+", func(d *Delivery) { answered <- d.Topic })
		must(err)
		var once *Subscription
		once, err = c.Subscribe(t.Context(), "once", func(d *Delivery) {
			if once.Err() != nil {
				t.Error("called after Close")
			}
			must(once.Close(t.Context()))
			must(c.Publish(t.Context(), "answer/once", nil, ExactlyOnce))
		}, ExactlyOnce)
		must(err)
		_, err = c.Subscribe(t.Context(), "ask/+", func(d *Delivery) {
			name := fmt.Sprintf("more/%s", d.Payload)
			sub, err := c.Subscribe(t.Context(), name, func(*Delivery) { more <- name })
			must(err)
			must(c.Publish(t.Context(), name, nil))
			if got := <-more; got != name { // from the other handler
				t.Errorf("got %q, want %q", got, name)
			}
			must(sub.Close(t.Context()))
			must(c.Publish(t.Context(), "answer/"+string(d.Payload), nil, QoS(d.QoS)))
			if string(d.Payload) == "9" {
				must(c.Close(t.Context()))
			}
		})
		must(err)
		var asked sync.WaitGroup
		for range 3 {
			asked.Go(func() { must(c.Publish(t.Context(), "once", nil, ExactlyOnce)) })
		}
		asked.Wait()
		if got := <-answered; got != "answer/once" {
			t.Errorf("got %q", got)
		}
		for i := range 10 {
			must(c.Publish(t.Context(), "ask/x", fmt.Append(nil, i)))
			if got, want := <-answered, fmt.Sprint("answer/", i); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		<-c.Done()
	})
}

// TestHandlerThatStandsStill: it keeps neither other subscriptions, nor publishing, nor a new connection, nor Close from working.
func TestHandlerThatStandsStill(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		dial := startBroker(t, broker.Config{})
		var last net.Conn
		c, err := Dial(t.Context(), "mqtt://broker", WithVersion(v), WithClientID("c"), WithSession(time.Hour),
			WithDialer(func(ctx context.Context, network, address string) (nc net.Conn, err error) {
				nc, err = dial(ctx, network, address)
				last = nc
				return nc, err
			}))
		if err != nil {
			t.Fatal(err)
		}
		release, got := make(chan struct{}), make(chan string, 100)
		stuck := 0
		if _, err = c.Subscribe(t.Context(), "stuck", func(*Delivery) { stuck++; <-release }, ExactlyOnce); err != nil {
			t.Fatal(err)
		}
		if _, err = c.Subscribe(t.Context(), "other", func(d *Delivery) { got <- string(d.Payload) }, ExactlyOnce); err != nil {
			t.Fatal(err)
		}
		send := func(name, payload string) {
			t.Helper()
			if err := c.Publish(t.Context(), name, []byte(payload), ExactlyOnce); err != nil {
				t.Error(err)
			}
		}
		send("stuck", "1")
		send("stuck", "2")
		send("other", "a")
		for _, want := range []string{"b", "c"} {
			_ = last.Close()
			send("other", want)
		}
		for _, want := range []string{"a", "b", "c"} {
			if s := <-got; s != want {
				t.Errorf("got %q, want %q", s, want)
			}
		}
		close(release)
		synctest.Wait()
		if stuck != 2 {
			t.Errorf("the handler was called %d times: the messages are those of before", stuck)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		<-c.Done()
	})
}

// TestOverlapping: with Subscription Identifiers each subscription gets each message once, and several may have one filter.
func TestOverlapping(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := connectTo(t, startBroker(t, broker.Config{}), mqtt.V5)
		var mu sync.Mutex
		got := make(map[string]int)
		add := func(filter, name string) *Subscription {
			s, err := c.Subscribe(t.Context(), filter, func(d *Delivery) {
				mu.Lock()
				defer mu.Unlock()
				got[name+" "+d.Topic]++
			})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		add("a/#", "1")
		add("a/+", "2")
		third := add("a/+", "3")
		add("$share/g/a/b", "4")
		publish := func(name string) {
			if err := c.Publish(t.Context(), name, nil); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		check := func(want ...string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			var all []string
			for what, n := range got {
				if n != 1 {
					t.Errorf("%q: %d times", what, n)
				}
				all = append(all, what)
			}
			slices.Sort(all)
			if !slices.Equal(all, want) {
				t.Errorf("got %q, want %q", all, want)
			}
			clear(got)
		}
		publish("a/b")
		check("1 a/b", "2 a/b", "3 a/b", "4 a/b")
		publish("a/b/c")
		check("1 a/b/c")
		if err := third.Close(t.Context()); err != nil {
			t.Error(err)
		}
		publish("a/c")
		check("1 a/c", "2 a/c")
	})
}

// TestSubscriptionRefused: at once, and when it is made again; the others live on.
func TestSubscriptionRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s, p := dialed(t, mqtt.V5, mqtt.Connack{})
		subscribe := func(filter string) <-chan error {
			return result(func() error { _, err := c.Subscribe(t.Context(), filter, nil); return err })
		}
		refused := subscribe("a")
		p.suback(p.subscribe().PacketID, mqtt.NotAuthorized)
		isServerError(t, <-refused, mqtt.SUBACK, mqtt.NotAuthorized)

		var sub *Subscription
		granted := result(func() (err error) { sub, err = c.Subscribe(t.Context(), "b", nil); return err })
		p.suback(p.subscribe().PacketID, mqtt.GrantedQoS1)
		if err := <-granted; err != nil {
			t.Fatal(err)
		}
		_ = p.nc.Close()
		p, _ = s.accept(mqtt.Connack{})
		p.suback(p.subscribe().PacketID, mqtt.NotAuthorized)
		<-sub.Done()
		isServerError(t, sub.Err(), mqtt.SUBACK, mqtt.NotAuthorized)
		for range sub.Messages(t.Context()) {
			t.Error("a message")
		}
		_ = p.nc.Close()
		p, _ = s.accept(mqtt.Connack{})
		closeClient(t, c, p) // nothing is subscribed to any more
	})
}

// TestSubscribeManyWithoutAnswer: subscriptions made while the server does not answer are made on the next connection, each once, and
// those taken back meanwhile are not.
func TestSubscribeManyWithoutAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s, p := dialed(t, mqtt.V5, mqtt.Connack{})
		const many = requestLimit + 100
		go swallow(p.nc)
		var granted []<-chan error
		for i := range many {
			granted = append(granted, result(func() error { _, err := c.Subscribe(t.Context(), fmt.Sprint(i), nil); return err }))
		}
		synctest.Wait() // as many as may be are asked for
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Subscribe(ctx, "taken back", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		_ = p.nc.Close()
		p, _ = s.accept(mqtt.Connack{SessionPresent: true})
		seen := make(map[string]bool)
		for len(seen) < many && !t.Failed() {
			m := p.subscribe()
			for _, sub := range m.Subscriptions {
				if seen[sub.Filter] || sub.Filter == "taken back" {
					t.Errorf("%q again", sub.Filter)
				}
				seen[sub.Filter] = true
			}
			p.suback(m.PacketID, mqtt.GrantedQoS1)
		}
		for _, ch := range granted {
			if err := <-ch; err != nil {
				t.Error(err)
			}
		}
		closeClient(t, c, p)
	})
}

// TestUnsubscribedMeanwhile: a subscription that was closed while there was no connection is ended at the server that still has it.
func TestUnsubscribedMeanwhile(t *testing.T) {
	for _, kept := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			c, s, p := dialed(t, mqtt.V5, mqtt.Connack{})
			var sub *Subscription
			granted := result(func() (err error) { sub, err = c.Subscribe(t.Context(), "a", nil); return err })
			p.suback(p.subscribe().PacketID, mqtt.GrantedQoS1)
			<-granted
			_ = p.nc.Close()
			synctest.Wait()
			if err := sub.Close(t.Context()); err != nil {
				t.Error(err)
			}
			p, _ = s.accept(mqtt.Connack{SessionPresent: kept})
			if kept {
				p.expect(mqtt.UNSUBSCRIBE)
			}
			closeClient(t, c, p)
		})
	}
}

// TestMessages: the loop gets the messages in order and acknowledges each at the end of its step.
func TestMessages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, _, p := dialed(t, mqtt.V5, mqtt.Connack{})
		var sub *Subscription
		granted := result(func() (err error) { sub, err = c.Subscribe(t.Context(), "a", nil); return err })
		p.suback(p.subscribe().PacketID, mqtt.GrantedQoS1)
		<-granted
		for id := range uint16(3) {
			p.sendPublish(publish(1, id+1, fmt.Sprint(id)))
		}
		n := 0
		for d := range sub.Messages(t.Context()) {
			if string(d.Payload) != fmt.Sprint(n) {
				t.Errorf("message %d is %q", n, d.Payload)
			}
			if n++; n == 2 {
				break
			}
		}
		for id := range uint16(2) {
			if a := p.ack(mqtt.PUBACK); a.PacketID != id+1 {
				t.Errorf("PUBACK of %d", a.PacketID)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for d := range sub.Messages(ctx) {
			cancel()
			if string(d.Payload) != "2" {
				t.Errorf("the third message is %q", d.Payload)
			}
		}
		p.ack(mqtt.PUBACK)
		closeClient(t, c, p)
		for range sub.Messages(t.Context()) {
			t.Error("a message after Close")
		}
	})
}

// TestManualAck: the answers are sent in the order of the messages, whoever is acknowledged first, and late ones do no harm.
func TestManualAck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s, p := dialed(t, mqtt.V5, mqtt.Connack{})
		got := make(chan *Delivery, 10)
		granted := result(func() (err error) {
			_, err = c.Subscribe(t.Context(), "a", func(d *Delivery) { got <- d }, ManualAck, ExactlyOnce)
			return err
		})
		p.suback(p.subscribe().PacketID, mqtt.GrantedQoS2)
		<-granted
		p.sendPublish(publish(1, 1, "1"))
		p.sendPublish(publish(2, 2, "2"))
		p.sendPublish(publish(1, 3, "3"))
		one, two, three := <-got, <-got, <-got
		two.Acknowledge()
		p.quiet()
		one.Acknowledge()
		p.ack(mqtt.PUBACK)
		p.ack(mqtt.PUBREC)
		_ = p.nc.Close()
		synctest.Wait()
		p, _ = s.accept(mqtt.Connack{SessionPresent: true})
		m := publish(1, 3, "3")
		m.Dup = true
		p.sendPublish(m) // is the one that we have
		p.quiet()
		three.Acknowledge()
		three.Acknowledge()
		p.ack(mqtt.PUBACK)
		synctest.Wait()
		if len(got) != 0 {
			t.Error("delivered twice")
		}
		closeClient(t, c, p)
	})
}

// TestCloseDuringHandler: what waits for a handler when the client is closed stays with the server.
func TestCloseDuringHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, _, p := dialed(t, mqtt.V5, mqtt.Connack{})
		calls := 0
		granted := result(func() (err error) {
			_, err = c.Subscribe(t.Context(), "a", func(d *Delivery) {
				calls++
				if err := c.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
			return err
		})
		p.suback(p.subscribe().PacketID, mqtt.GrantedQoS1)
		<-granted
		p.sendPublish(publish(1, 1, ""))
		d := p.disconnect()
		if expiry, given := d.Props.Int(mqtt.SessionExpiryInterval); expiry != 0 || !given {
			t.Error("the session was to end with the client")
		}
		_ = p.nc.Close()
		if <-c.Done(); calls != 1 {
			t.Errorf("%d calls", calls)
		}
	})
}

// TestCloseWaits: Close waits for what is on its way as long as its context allows.
func TestCloseWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s, p := dialed(t, mqtt.V5, mqtt.Connack{})
		sent, err := c.PublishAsync(t.Context(), "a", nil, ExactlyOnce)
		if err != nil {
			t.Fatal(err)
		}
		p.publish()
		_ = p.nc.Close()
		closed := result(func() error { return c.Close(t.Context()) })
		p, _ = s.accept(mqtt.Connack{SessionPresent: true})
		if err := c.Publish(t.Context(), "b", nil); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		answerPublish(p)
		p.disconnect()
		_ = p.nc.Close()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if _, err := sent.Result(); err != nil {
			t.Error(err)
		}
		<-c.Done()
	})
	bubble(t, func(t *testing.T) {
		c, _, p := dialed(t, mqtt.V5, mqtt.Connack{})
		sent, err := c.PublishAsync(t.Context(), "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		p.publish()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go swallow(p.nc)
		if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		<-c.Done()
		if _, err := sent.Result(); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// TestEvents: functions of the user may block for ever without keeping the client from its work.
func TestEvents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServers(t, mqtt.V5)
		release := make(chan struct{})
		var seen []string
		c, err := Dial(t.Context(), "mqtt://u:p@server", WithDialer(s.dial), WithLazyConnect(),
			OnConnect(func(i Connected) {
				if i.Server != "mqtt://server" {
					t.Errorf("connected to %q", i.Server)
				}
				seen = append(seen, "+")
				<-release
			}),
			OnDisconnect(func(error) { seen = append(seen, "-") }))
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			p, _ := s.accept(mqtt.Connack{})
			_ = p.nc.Close()
		}
		p, _ := s.accept(mqtt.Connack{})
		if err := c.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		closed := result(func() error { return c.Close(t.Context()) })
		p.disconnect()
		_ = p.nc.Close()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		close(release)
		if <-c.Done(); len(seen) != 1+mostEvents {
			t.Errorf("%d events", len(seen))
		}
	})
}

// TestRequest: requests are told from each other, and from replies to others.
func TestRequest(t *testing.T) {
	eachVersion(t, func(t *testing.T, v mqtt.Version) {
		dial := startBroker(t, broker.Config{})
		server, c := connectTo(t, dial, v), connectTo(t, dial, v)
		if _, err := server.Subscribe(t.Context(), "double/+", func(d *Delivery) {
			payload := append(d.Payload, d.Payload...)
			err := server.Reply(t.Context(), d, payload)
			if errors.Is(err, ErrNoReplyTopic) && v != mqtt.V5 {
				err = server.Publish(t.Context(), "agreed", payload)
			}
			if err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		ask := func(payload string) (*Delivery, error) {
			if v != mqtt.V5 {
				return c.RequestOn(t.Context(), "agreed", "double/x", []byte(payload))
			}
			return c.Request(t.Context(), "double/x", []byte(payload))
		}
		n := 1
		if v == mqtt.V5 {
			n = 20 // at a time
		}
		var asked sync.WaitGroup
		for i := range n {
			asked.Go(func() {
				d, err := ask(fmt.Sprint(i))
				if err != nil {
					t.Error(err)
				} else if want := fmt.Sprint(i) + fmt.Sprint(i); string(d.Payload) != want {
					t.Errorf("reply %q, want %q", d.Payload, want)
				}
			})
		}
		asked.Wait()
		if _, err := c.Request(t.Context(), "double/x", nil); v != mqtt.V5 && !errors.Is(err, ErrNoReplyTopic) {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.RequestOn(ctx, "nobody", "silence", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestQueuedInMemory: Queued returns at once, and who asked not to wait hears of a refusal by the event.
func TestQueuedInMemory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var refused []Refused
		c, _, p := dialed(t, mqtt.V5, mqtt.Connack{}, OnRefused(func(r Refused) { refused = append(refused, r) }))
		for _, name := range []string{"a", "b"} {
			if err := c.Publish(t.Context(), name, []byte("x"), Queued); err != nil {
				t.Error(err)
			}
		}
		if err := c.Publish(t.Context(), "late", nil, Queued, Expiry(-time.Second)); err != nil {
			t.Error(err)
		}
		p.sendAck(mqtt.PUBACK, p.publish().PacketID, mqtt.NotAuthorized)
		p.finishPublish(p.publish())
		p.finishPublish(p.publish()) // no expiry is below zero
		synctest.Wait()
		if len(refused) != 1 || refused[0].Message.Topic != "a" || !errors.Is(refused[0].Reason, mqtt.NotAuthorized) {
			t.Errorf("refused %+v", refused)
		}
		if st := c.Stats(); st.Refused != 1 || st.Acknowledged != 3 || st.Published != 3 || st.Pending != 0 {
			t.Errorf("%+v", st)
		}
		closeClient(t, c, p)
	})
}

// TestExpiredWhileOffline: a message whose time has passed is not sent.
func TestExpiredWhileOffline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s, p := dialed(t, mqtt.V5, mqtt.Connack{})
		s.setRefuse(errors.New("no"))
		_ = p.nc.Close()
		synctest.Wait()
		late := result(func() error { return c.Publish(t.Context(), "late", nil, Expiry(time.Second)) })
		good := result(func() error { return c.Publish(t.Context(), "good", nil, Expiry(time.Hour)) })
		time.Sleep(time.Minute)
		s.setRefuse(nil)
		p, _ = s.accept(mqtt.Connack{SessionPresent: true})
		m := answerPublish(p)
		if string(m.Topic) != "good" || m.Expiry >= 3600 || m.Expiry < 3300 {
			t.Errorf("sent %+v", m)
		}
		if err := <-late; !errors.Is(err, ErrExpired) {
			t.Error(err)
		}
		if err := <-good; err != nil {
			t.Error(err)
		}
		closeClient(t, c, p)
	})
}

// TestParked: what a session brings before the program has subscribed waits for it, and not for ever.
func TestParked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, _, p := dialed(t, mqtt.V311, mqtt.Connack{SessionPresent: true}, WithClientID("c"), WithSession(time.Hour))
		for id := range uint16(4) {
			m := publish(mqtt.QoS(1+id%2), id+1, fmt.Sprint(id))
			m.Topic = []byte{'a' + byte(id%2)}
			p.sendPublish(m)
		}
		p.quiet()
		got := make(chan string, 10)
		granted := result(func() error {
			_, err := c.Subscribe(t.Context(), "b", func(d *Delivery) { got <- string(d.Payload) }, ExactlyOnce)
			return err
		})
		p.suback(p.subscribe().PacketID, mqtt.GrantedQoS2)
		<-granted
		if one, three := <-got, <-got; one != "1" || three != "3" {
			t.Errorf("got %q, %q", one, three)
		}
		time.Sleep(parkTime)
		for id := range uint16(4) { // in their order
			if a := p.ack([]mqtt.PacketType{mqtt.PUBACK, mqtt.PUBREC}[id%2]); a.PacketID != id+1 {
				t.Errorf("answer to %d", a.PacketID)
			}
		}
		p.sendPublish(publish(1, 9, "")) // for nobody
		p.ack(mqtt.PUBACK)
		if st := c.Stats(); st.Unhandled != 3 || st.Received != 5 {
			t.Errorf("%+v", st)
		}
		closeClient(t, c, p)
	})
}
