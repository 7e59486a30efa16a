// Package interop runs clients written by others against the real magpie binary: eclipse/paho.mqtt.golang, eclipse/paho.golang
// (paho and autopaho), MQTT.js and Debian's mosquitto_pub, mosquitto_sub and mosquitto_rr.
//
// The other way round, it runs our own client library against brokers written by others: Debian's mosquitto, mochi-mqtt and, with MQTT
// 3.1.1, nats-server; and measures it beside the two pahos.
//
// It is a module of its own, so that who imports the broker does not inherit these clients and brokers. It knows what a client can see, and
// nothing of the broker's inside: the rules of the specification, one by one, are the business of the conformance suite.
//
// Run ./setup.sh once to install the peers, then go test. A peer that is not installed fails its tests; nothing is skipped.
// With MAGPIE_INTEROP_BROKER=mosquitto the same tests run against Debian's mosquitto: a test that fails there too asks for too
// much, or its peer is broken.
package interop
