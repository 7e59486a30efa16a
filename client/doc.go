// Package client is one connection to an MQTT server, for versions 3.1, 3.1.1 and 5.0 alike:
//
//	c, err := client.Dial(ctx, "mqtt://127.0.0.1", client.Config{
//		Handler: func(d *client.Delivery) { fmt.Printf("%s %s\n", d.Message.Topic, d.Message.Payload) },
//	})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	_, err = c.Subscribe(ctx, mqtt.Subscription{Filter: "bins/#", QoS: mqtt.AtLeastOnce})
//	_, err = c.Publish(ctx, &mqtt.Message{Topic: "bins/7/level", Payload: []byte("93"), QoS: mqtt.AtLeastOnce})
//
// It knows the protocol from the client's side: the handshakes of QoS 1 and 2, the server's limits, keep alive, enhanced
// authentication. It refuses to know how to connect again after the end and where to keep messages meanwhile; what such a
// client needs is here: a [Session] outlives its connections, and [Conn.Done] tells when the next one may begin.
//
// # Goroutines
//
// The methods of a [Conn] may be called by many goroutines at once, the [Config.Handler] included: it runs on a goroutine of
// its own, one message after the other in the order of their arrival, and may publish, subscribe and close. A message of
// QoS 1 or 2 is acknowledged when the handler has returned. A handler that is slow makes the server wait: the connection is
// not read while [Config.InboxBytes] wait for the handler. The exception is while a publish or subscribe waits for its answer, which
// may be behind those messages; then QoS 0 beyond the limit is dropped and counted ([Conn.Dropped]), and when QoS 1 and 2 reach
// four times the limit the connection ends with [mqtt.QuotaExceeded].
//
// # Errors
//
// What the server refused is a [ServerError], which wraps the [mqtt.ReasonCode]. What the server has said it would refuse is
// not sent: that error wraps the same code but is no ServerError. Both answer to errors.As:
//
//	var code mqtt.ReasonCode
//	if errors.As(err, &code) && code == mqtt.NotAuthorized {
//
// # Locks
//
// One mutex, Conn.mu, guards the session and all that waits. It is not held while reading, writing or calling the handler.
package client
