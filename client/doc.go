// Package client is an MQTT client for versions 3.1, 3.1.1 and 5.0 alike, against any server:
//
//	c, err := client.Dial(ctx, "mqtt://127.0.0.1", client.WithClientID("bin-7"))
//	if err != nil {
//		return err
//	}
//	defer c.Close(ctx)
//	_, err = c.Subscribe(ctx, "bins/+/command", func(d *client.Delivery) { fmt.Printf("%s %s\n", d.Topic, d.Payload) })
//	err = c.Publish(ctx, "bins/7/level", []byte("93"))
//
// There are two levels. A [Client] connects again by itself, keeps its subscriptions and its messages from one connection to the next, and
// has a handler for each subscription. It stands on a [Conn], one connection with one handler, for programs that end with
// their connection. Both speak the whole protocol: the handshakes of QoS 1 and 2, the server's limits, Topic Aliases, keep alive, enhanced
// authentication. Neither knows what messages mean.
//
// # What Publish returns
//
// nil means that the handshake of the QoS is complete; with [Queued], that the message is safely queued. A [ServerError], or an error that
// wraps a [mqtt.ReasonCode], means that it did not arrive and never will. The error of the context means that the caller has
// stopped waiting: the message was taken back if it was not sent, else it may arrive. [ErrClosed] means that the client ended
// first. The end of a connection is no error: the message waits for the next one.
//
// # Order
//
// Messages of one QoS are sent in the order of the calls, also across connections and, with [WithQueue], across programs. Each subscription
// is given its messages in the order of their arrival. Repetitions, which QoS 1 allows, may come between; what comes for the first
// time is in order. Acknowledgements are sent in the order of the messages [MQTT-4.6.0-2].
//
// # Exactly once
//
// QoS 2 arrives exactly once as long as both sides keep their half of the session.
//
// To the server: when it has lost its half, messages without PUBREC are sent again as new ones: nothing is lost, and what the server had
// already passed on comes twice. Those with PUBREC are not sent again. When this program ends, what it had not delivered ends, too, unless
// [WithQueue] keeps it.
//
// From the server: PUBREC is sent when the handlers of a message have returned (with [ManualAck], when it is acknowledged), so a message whose
// handler does not get to its end comes again. Without WithQueue a message that was handled comes again, too, when the program ends before the
// server has heard so. With it, and with [WithSession], the end of the handlers is written to the log, and PUBREC does not leave before that
// is on the disk; a message of which the log says so is acknowledged, not handled, when it comes again. What remains is the time between
// the handler's return and that record, some milliseconds: a program that is killed, or a machine that loses power, in it handles the
// message once more. A handler whose effect must not happen twice even then records it together with something that the message itself
// says. Messages of QoS 1 are not recorded: they may be repeated anyway.
//
// # What a new connection does
//
// If the server has kept the session (MQTT 5.0 keeps it while the link is down; MQTT 3 only with [WithSession]), its half and ours
// fit together, and only subscriptions without an answer are asked for again. If not, all are made again, before anything is published. Then
// PUBRELs and messages without an answer are sent again in their order, then what has waited. What still waits for handlers
// is not fetched a second time if the server repeats it: the acknowledgement goes out on the new connection when the handler is done.
//
// A client of MQTT 3 without WithSession has a new session with each connection: its own messages are kept and sent again, its
// subscriptions are made again, and what others publish while the link is down does not reach it.
//
// A session that outlives the program has messages before anybody has subscribed. Those wait, for 10 s from the first connection on, for a
// subscription that takes them; what nobody takes goes to [Config.Handler], or is acknowledged and counted.
//
// # Back-pressure
//
// Each subscription has a goroutine and a queue of its own, so a handler may block, publish, subscribe, close, and wait for another
// handler. Together the queues hold [Config.InboxBytes]; QoS 1 and 2 are also limited by the Receive Maximum that the server was told
// (MQTT 5.0). Beyond it nothing is read from the connection. The exception is while somebody waits for an answer of the server, which may be
// behind those messages, and may be what a handler waits for: then QoS 0 beyond the limit is dropped and counted, and when QoS 1 and
// 2 reach four times the limit the connection ends with [mqtt.QuotaExceeded]; the server has those messages still.
//
// In the other direction Publish blocks while 4096 messages or 1 MiB wait in memory, or with [WithQueue] its limit on disk.
//
// # Ownership
//
// A [Delivery] is good until its handler returns: its memory is used again, so that a message costs no allocation. [Delivery.Keep] copies. With
// [ManualAck] it is the receiver's. Payloads given to Publish and PublishAsync are copied; those given to [Conn.Start] are not.
//
// # Errors
//
// What the server refused is a [ServerError], which wraps the [mqtt.ReasonCode]. What the server has said it would refuse is
// not sent: that error wraps the same code but is no ServerError. Both answer to errors.As:
//
//	var code mqtt.ReasonCode
//	if errors.As(err, &code) && code == mqtt.NotAuthorized {
//
// A setting that can never work is a [ConfigError]. A refused login is tried again as rarely as the backoff allows, and reported; a CONNECT
// that no server can accept ends the client.
//
// # Goroutines and locks
//
// A connection has a reader and a writer. A client has a supervisor, which connects, and one goroutine for each subscription with a handler; one for
// the user's On… functions while there is something to tell; with a queue its loader and the journal's own.
//
// One mutex, Session.mu, guards the session, what its connection has waiting, and the client's subscriptions. It is not held while reading,
// writing or calling the user. Inside it: events.mu, queue.mu, the journal's. Data flows one way: the reader puts deliveries into mailboxes and
// answers into the writer's buffer; nobody waits for a handler but the handler's own mailbox.
package client
