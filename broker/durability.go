package broker

import (
	"fmt"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// Durability says what the acknowledgement of messages means whose topics match a filter. Sessions, subscriptions and the
// handshakes of QoS 2 are kept as the store promises of itself whenever there is a store.
type Durability struct {
	Filter  string        // Topic Filter
	Memory  bool          // the store is not told of such messages of QoS 0 and 1: a restart forgets them
	Promise store.Promise // what the store has to have done before one is acknowledged; of QoS 2 at least what it does by default
}

func checkDurabilities(ds []Durability) error {
	for _, d := range ds {
		if err := topic.ValidateFilter(d.Filter, topic.Limits{}); err != nil {
			return fmt.Errorf("durability of %q: %w", d.Filter, err)
		}
	}
	return nil
}

// durability returns what is to be done with a message of that name: by the first filter that matches.
func (b *Broker) durability(name string) (d Durability) {
	for i := range b.config.Durabilities {
		if r := &b.config.Durabilities[i]; topic.Match(r.Filter, name) {
			return *r
		}
	}
	return d
}

// forgetRetained tells the store that the retained message it has of a topic counts no more, since another has replaced it of which
// it is not told.
func (b *Broker) forgetRetained(old kept) {
	if old.position != 0 {
		b.noteLater(&store.Record{Kind: store.Accepted, Message: &mqtt.Message{Topic: old.Topic, Retain: true}})
	}
}
