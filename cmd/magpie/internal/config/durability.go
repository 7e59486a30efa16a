package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// TopicDurability is the durability of messages whose topics match a filter.
type TopicDurability struct {
	Pos    Pos    `yaml:"-"`
	Filter string `yaml:"filter" required:"true" doc:"Topic Filter."`
	Mode   string `yaml:"mode" required:"true" doc:"durable, interval=DUR or memory, as durability. QoS 2 is never less safe than the other topics on disk."`
}

// mode is what an acknowledgement promises.
type mode struct {
	memory   bool
	interval time.Duration // zero: synced before it is acknowledged
}

func parseMode(s string) (mode, error) {
	switch s {
	case "", "durable":
		return mode{}, nil
	case "memory":
		return mode{memory: true}, nil
	}
	text, ok := strings.CutPrefix(s, "interval=")
	d, err := time.ParseDuration(text)
	if !ok || err != nil || d <= 0 {
		return mode{}, fmt.Errorf("%q is not durable, interval=DUR (such as interval=1s) or memory", s)
	}
	return mode{interval: d}, nil
}

// Storage is what the durability of all topics together asks of the broker and its journal.
type Storage struct {
	Kept       bool          // some messages are kept on disk: there is a journal
	Interval   time.Duration // how often it is synced; zero is before every acknowledgement
	SyncWithin time.Duration // when what nobody waits for is synced; zero means the journal's default
	ByTopic    []broker.Durability
	Label      string // for people
}

// Storage returns what the keys durability and durability_by_topic ask for.
func (c *Config) Storage() (Storage, error) {
	byDefault, err := parseMode(c.Durability)
	if err != nil {
		return Storage{}, c.Pos.Errorf("durability: %w", err)
	}
	s := Storage{Kept: !byDefault.memory, Label: c.Durability}
	if s.Label == "" {
		s.Label = "durable"
	}
	synced := !byDefault.memory && byDefault.interval == 0
	shortest := byDefault.interval
	for _, t := range c.DurabilityByTopic {
		m, err := t.parse()
		if err != nil {
			return Storage{}, err
		}
		s.Label += "; " + t.Filter + ": " + t.Mode
		s.Kept = s.Kept || !m.memory
		d := broker.Durability{Filter: t.Filter, Memory: m.memory, Promise: store.Written}
		switch {
		case m.interval > 0 && (shortest == 0 || m.interval < shortest):
			shortest = m.interval
		case m.interval == 0 && !m.memory:
			d.Promise = store.Synced
			synced = synced || byDefault.memory
		}
		s.ByTopic = append(s.ByTopic, d)
	}
	if synced {
		s.SyncWithin = shortest
	} else {
		s.Interval = shortest
	}
	if byDefault.memory && s.Kept {
		s.ByTopic = append(s.ByTopic, broker.Durability{Filter: "#", Memory: true})
		for _, t := range c.DollarTopics {
			s.ByTopic = append(s.ByTopic, broker.Durability{Filter: t + "/#", Memory: true})
		}
	}
	return s, nil
}

func (t *TopicDurability) parse() (mode, error) {
	if err := topic.ValidateFilter(t.Filter, topic.Limits{}); err != nil {
		return mode{}, t.Pos.Errorf("durability_by_topic: filter: %w", err)
	}
	m, err := parseMode(t.Mode)
	if err != nil || t.Mode == "" {
		return mode{}, t.Pos.Errorf("durability_by_topic: mode: %w", err)
	}
	return m, nil
}
