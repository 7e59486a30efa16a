package broker

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// reasonOf returns the reason code inside an error.
func reasonOf(err error) (code mqtt.ReasonCode, ok bool) {
	ok = errors.As(err, &code)
	return code, ok
}

// nameError says what a client hears about a Topic Name that breaks a rule: one that is well-formed but too long for us is
// invalid (0x90), everything else breaks the format.
func nameError(err error) error {
	if errors.Is(err, topic.ErrTooLong) || errors.Is(err, topic.ErrTooManyLevels) {
		return fmt.Errorf("%w: %w", mqtt.TopicNameInvalid, err)
	}
	return fmt.Errorf("%w: %w", mqtt.MalformedPacket, err) // [MQTT-3.3.2-2], [MQTT-4.7.1-1]
}

// bytesOf views a string as bytes that nobody may change, so that a name that we own can go where one that is borrowed
// goes without a copy for every message.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
