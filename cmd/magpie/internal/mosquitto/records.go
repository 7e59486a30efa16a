package mosquitto

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// ImportConfig says how a [DB] becomes records.
type ImportConfig struct {
	Now time.Time
	// Owner is the user of sessions of which the file does not tell one. %c stands for the ClientID; empty means that they
	// belong to clients without a user.
	Owner string
	// Anonymous makes all sessions those of clients without a user: for a broker that lets in everybody, whatever user name he
	// brings, knows no users.
	Anonymous bool
}

// Imported counts what became records, and what did not.
type Imported struct {
	Sessions, Subscriptions, Messages, Retained int
	InFlight                                    int            // of the deliveries of Messages
	Waiting                                     int            // deliveries
	Released                                    int            // messages whose publisher has still to release them; they are delivered now
	Left                                        map[string]int // by reason, with a noun: "sessions that have expired"
}

// leave counts something that is not imported.
func (i *Imported) leave(reason string) { i.Left[reason]++ }

// Records appends what is in the file to a store that is empty, in an order from which it is restored as it was.
func (db *DB) Records(cfg ImportConfig, add func(*store.Record) (store.Position, error)) (Imported, error) {
	m := &importer{
		db: db, cfg: cfg, add: add, done: Imported{Left: make(map[string]int)}, sessions: make(map[string]*session), at: make(map[uint64]int),
	}
	for _, step := range []func() error{m.addSessions, m.addSubscriptions, m.addMessages, m.addFlights, m.addReleased} {
		if err := step(); err != nil {
			return m.done, fmt.Errorf("import: %w", err)
		}
	}
	return m.done, nil
}

// importer makes records.
type importer struct {
	db       *DB
	cfg      ImportConfig
	add      func(*store.Record) (store.Position, error)
	done     Imported
	sessions map[string]*session
	at       map[uint64]int // messages, by number
	tree     topic.Tree[int, *wish]
	flights  []store.Record // about deliveries that have begun
	inbound  []*Delivery
}

// session is one that is imported.
type session struct {
	id    store.SessionID
	ids   map[uint16]bool // Packet Identifiers in flight
	queue []*Delivery
}

// wish is a subscription that is imported.
type wish struct {
	session store.SessionID
	sub     *Subscription
	share   string // the whole filter of a Shared Subscription
}

// put appends a record whose position nobody needs.
func (m *importer) put(r store.Record) error {
	_, err := m.add(&r)
	return err
}

func (m *importer) addSessions() error {
	for i := range m.db.Clients {
		c := &m.db.Clients[i]
		switch {
		case c.Expiry == 0:
			m.done.leave("sessions that ended with their connections")
		case !c.Expires.IsZero() && !m.cfg.Now.Before(c.Expires):
			m.done.leave("sessions that have expired")
		case !good(c.ClientID) || m.sessions[c.ClientID] != nil:
			m.done.leave("sessions with a client id that is empty, not UTF-8, or there twice")
		default:
			if err := m.addSession(c); err != nil {
				return err
			}
		}
	}
	m.done.Sessions = len(m.sessions)
	return nil
}

// good says whether a name is one that a client may have.
func good(name string) bool {
	return topic.ValidateName(strings.NewReplacer("+", "_", "#", "_").Replace(name), topic.Limits{}) == nil
}

func (m *importer) addSession(c *Client) error {
	s := &session{id: store.SessionID(len(m.sessions) + 1), ids: make(map[uint16]bool)}
	m.sessions[c.ClientID] = s
	r := store.Record{
		Kind: store.Session, Session: s.id, ClientID: c.ClientID, Owner: m.owner(c), Version: mqtt.V5, Time: m.cfg.Now,
		Expiry: time.Duration(c.Expiry) * time.Second,
	}
	if c.Expiry == Never {
		r.Version, r.Expiry = mqtt.V311, -1 // most likely
	}
	left := m.cfg.Now
	if !c.Expires.IsZero() && r.Expiry > 0 {
		left = c.Expires.Add(-r.Expiry)
	}
	if err := m.put(r); err != nil {
		return err
	}
	return m.put(store.Record{Kind: store.Left, Session: s.id, Time: left, Expiry: r.Expiry})
}

// owner is the user to whom a session belongs.
func (m *importer) owner(c *Client) string {
	switch {
	case m.cfg.Anonymous:
		return ""
	case c.User == "" && m.db.Format == 5:
		return strings.ReplaceAll(m.cfg.Owner, "%c", c.ClientID)
	}
	return c.User
}

func (m *importer) addSubscriptions() error {
	for i := range m.db.Subscriptions {
		sub := &m.db.Subscriptions[i]
		s := m.sessions[sub.ClientID]
		switch {
		case s == nil:
			m.done.leave("subscriptions of sessions that are not there")
			continue
		case topic.ValidateFilter(sub.Filter, topic.Limits{}) != nil:
			m.done.leave("subscriptions with a filter that is none")
			continue
		}
		r := store.Record{Kind: store.Subscribed, Session: s.id, Subscription: mqtt.Subscription{
			Filter: sub.Filter, QoS: sub.QoS, NoLocal: sub.NoLocal && !strings.HasPrefix(sub.Filter, "$share/"), RetainAsPublished: sub.RetainAsPublished,
		}}
		if sub.ID != 0 {
			r.IDs = []uint32{sub.ID}
		}
		if err := m.put(r); err != nil {
			return err
		}
		w := &wish{session: s.id, sub: sub}
		_, filter, share := topic.ParseShare(sub.Filter)
		if share {
			w.share = sub.Filter
		}
		m.tree.Set(filter, i, w)
		m.done.Subscriptions++
	}
	return nil
}

// addMessages appends the messages in the order in which they were published, each with all who wait for it. The queues
// are in the order of positions when they are restored. Where a session's queue was in another order, its copy of the message stands
// alone, behind the one before it.
func (m *importer) addMessages() error {
	m.index()
	m.sortDeliveries()
	retained := make(map[uint64]bool)
	for _, number := range m.db.Retained {
		m.retain(number, retained)
	}
	recipients, behind := m.plan()
	for _, number := range slices.Sorted(maps.Keys(m.at)) {
		if to := recipients[number]; len(to) > 0 || retained[number] {
			if err := m.addMessage(number, retained[number], to); err != nil {
				return err
			}
		}
		for _, d := range behind[number] {
			if err := m.addMessage(d.Message, false, []*Delivery{d}); err != nil {
				return err
			}
		}
	}
	return nil
}

// index finds the messages that can be delivered.
func (m *importer) index() {
	for i := range m.db.Messages {
		msg := &m.db.Messages[i]
		switch {
		case msg.Expired(m.cfg.Now):
			m.done.leave("messages that have expired")
		case topic.ValidateName(msg.Topic, topic.Limits{}) != nil:
			m.done.leave("messages with a topic that is none")
		case strings.HasPrefix(msg.Topic, "$SYS/"):
			m.done.leave("messages below $SYS, about the other broker")
		default:
			m.at[msg.Number] = i
		}
	}
}

// retain notes that a message is retained.
func (m *importer) retain(number uint64, retained map[uint64]bool) {
	i, ok := m.at[number]
	switch {
	case !ok || retained[number]:
	case len(m.db.Messages[i].Payload) == 0:
		m.done.leave("retained messages without payload")
	default:
		retained[number] = true
		m.done.Retained++
	}
}

// sortDeliveries gives each delivery to its session.
func (m *importer) sortDeliveries() {
	for i := range m.db.Deliveries {
		d := &m.db.Deliveries[i]
		s, known := m.sessions[d.ClientID], false
		if _, known = m.at[d.Message]; s == nil || !known {
			m.done.leave("deliveries whose session or message is not there")
			continue
		}
		switch {
		case d.QoS == mqtt.AtMostOnce:
			m.done.leave("deliveries of QoS 0, which do not wait here")
		case d.Inbound && (d.QoS != mqtt.ExactlyOnce || d.PacketID == 0):
			m.done.leave("messages from clients that will be sent again")
		case d.Inbound:
			m.inbound = append(m.inbound, d)
		default:
			s.queue = append(s.queue, d)
		}
	}
}

// plan says for whom each message is, and which copies stand behind it.
func (m *importer) plan() (recipients, behind map[uint64][]*Delivery) {
	recipients, behind = make(map[uint64][]*Delivery), make(map[uint64][]*Delivery)
	for _, s := range m.inOrder() {
		last := uint64(0)
		for _, d := range s.queue {
			if d.Message > last {
				recipients[d.Message] = append(recipients[d.Message], d)
				last = d.Message
			} else {
				behind[last] = append(behind[last], d)
			}
		}
	}
	return recipients, behind
}

// inOrder lists the sessions by number.
func (m *importer) inOrder() []*session {
	return slices.SortedFunc(maps.Values(m.sessions), func(a, b *session) int { return cmp.Compare(a.id, b.id) })
}

// addMessage appends a message for deliveries of different sessions.
func (m *importer) addMessage(number uint64, retain bool, to []*Delivery) error {
	msg := m.db.Messages[m.at[number]].Message
	msg.Retain = retain
	r := store.Record{Kind: store.Accepted, Message: &msg}
	for _, d := range to {
		r.Recipients = append(r.Recipients, store.Recipient{
			Session: m.sessions[d.ClientID].id, QoS: d.QoS, Retain: d.Retain, IDs: d.IDs,
		})
	}
	position, err := m.add(&r)
	if err != nil {
		return err
	}
	m.done.Messages++
	for _, d := range to {
		m.deliver(d, position)
	}
	return nil
}

// deliver notes how far a delivery is. One of QoS 1 that was sent is sent again, under whatever Packet Identifier.
func (m *importer) deliver(d *Delivery, at store.Position) {
	m.done.Waiting++
	s := m.sessions[d.ClientID]
	if d.QoS != mqtt.ExactlyOnce || d.PacketID == 0 || s.ids[d.PacketID] {
		return
	}
	r := store.Record{Kind: store.Sent, Session: s.id, About: at, PacketID: d.PacketID}
	switch d.State {
	case stateToSend, stateSent:
		m.flights = append(m.flights, r)
	case stateToRelease, stateReleased:
		m.flights = append(m.flights, r)
		r.Kind = store.Received
		m.flights = append(m.flights, r)
	default:
		return
	}
	s.ids[d.PacketID] = true
	m.done.InFlight++
}

// addFlights appends what was said about deliveries. The order of each session's is that of its queue.
func (m *importer) addFlights() error {
	for _, r := range m.flights {
		if err := m.put(r); err != nil {
			return err
		}
	}
	return nil
}

// addReleased appends messages that clients have published with QoS 2 and not released yet. There they would be delivered with
// the release; here that is done when they are accepted, once.
func (m *importer) addReleased() error {
	for _, d := range m.inbound {
		from, msg := m.sessions[d.ClientID], m.db.Messages[m.at[d.Message]].Message
		r := store.Record{Kind: store.Accepted, Session: from.id, PacketID: d.PacketID, Message: &msg, Recipients: m.subscribers(&msg, d.ClientID)}
		if strings.HasPrefix(msg.Topic, "$") {
			m.done.leave("messages of clients to topics that begin with $")
			continue
		}
		if err := m.put(r); err != nil {
			return err
		}
		m.done.Released++
	}
	return nil
}

// subscribers returns the sessions that get a message of a client now: each once, with the highest QoS [MQTT-3.3.4-2]; one of those that share.
func (m *importer) subscribers(msg *mqtt.Message, publisher string) (all []store.Recipient) {
	found, _ := m.tree.Match(msg.Topic, nil)
	slices.SortFunc(found, func(a, b topic.Entry[int, *wish]) int { return cmp.Compare(a.Key, b.Key) })
	own, shared := make(map[store.SessionID]int), make(map[string]bool)
	for _, e := range found {
		w, qos := e.Value, min(e.Value.sub.QoS, msg.QoS)
		if qos == mqtt.AtMostOnce || w.sub.NoLocal && w.sub.ClientID == publisher || shared[w.share] {
			continue
		}
		i, known := own[w.session]
		if !known || w.share != "" {
			i, all = len(all), append(all, store.Recipient{Session: w.session, Share: w.share})
		}
		if w.share != "" {
			shared[w.share] = true
		} else {
			own[w.session] = i
		}
		widen(&all[i], w.sub, qos, msg)
	}
	return all
}

// widen adds to what a session gets through one subscription what it gets through another.
func widen(r *store.Recipient, sub *Subscription, qos mqtt.QoS, msg *mqtt.Message) {
	r.QoS, r.Retain = max(r.QoS, qos), r.Retain || sub.RetainAsPublished && msg.Retain
	if sub.ID != 0 {
		r.IDs = append(r.IDs, sub.ID)
	}
}
