package client

import (
	"errors"
	"fmt"

	"github.com/magpiemq/magpie/mqtt"
)

// ErrClosed is the error of a connection that this side has ended.
var ErrClosed = errors.New("connection is closed")

// ServerError is a refusal, or the end of the connection, in the server's words. It wraps the Reason Code.
type ServerError struct {
	Packet mqtt.PacketType // CONNACK, PUBACK, PUBREC, SUBACK, UNSUBACK or DISCONNECT
	Code   mqtt.ReasonCode // for MQTT 3 the code that means the same
	Reason string          // the Reason String: the server's text, hostile like all text from outside; empty if it gave none
	Props  mqtt.Properties // of the packet; the Server Reference is here
}

func (e *ServerError) Error() string {
	what := "server refused"
	switch e.Packet {
	case mqtt.CONNACK:
		what = "server refused the connection"
	case mqtt.DISCONNECT:
		what = "server ended the connection"
	}
	if e.Reason == "" {
		return fmt.Sprintf("%s: %v", what, e.Code)
	}
	return fmt.Sprintf("%s: %v: %q", what, e.Code, e.Reason)
}

// Unwrap returns the Reason Code.
func (e *ServerError) Unwrap() error { return e.Code }

// serverError makes an error of a packet's code and properties, which borrow.
func serverError(t mqtt.PacketType, code mqtt.ReasonCode, props mqtt.Properties) error {
	return &ServerError{Packet: t, Code: code, Reason: props.String(mqtt.ReasonString), Props: props.Without()}
}

// violation is what a server must not do. The code is what it hears in DISCONNECT.
func violation(code mqtt.ReasonCode, format string, args ...any) error {
	return fmt.Errorf("server broke the protocol: %w: %s", code, fmt.Sprintf(format, args...))
}

// ErrOffline is the error of what could not be done in time because there was no connection.
var ErrOffline = errors.New("not connected")

// ConfigError says which setting of [Dial] can never work.
type ConfigError struct {
	What string // the setting: "server", "options", "queue"
	Err  error
}

func (e *ConfigError) Error() string { return e.What + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *ConfigError) Unwrap() error { return e.Err }
