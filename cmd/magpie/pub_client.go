package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

// open connects. stop ends ctx with a reason.
func (p *pubCmd) open(ctx context.Context, cfg client.Config, stop context.CancelCauseFunc) (outlet, error) {
	if !p.goesOn() {
		c, err := p.dial(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return oneConn{c, &p.connFlags}, nil
	}
	o := &steadyOutlet{cmd: p, stop: stop, notices: notices{p.Quiet}}
	c, err := client.Dial(ctx, p.dialURL, o.options(cfg)...)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ended(ctx)
	case err != nil:
		return nil, hinted(err, connectHint(err, p.dialURL))
	}
	o.Client = c
	return o, nil
}

// goesOn reports whether the command outlives its connection: by default if it publishes more than one message, or keeps them.
func (p *pubCmd) goesOn() bool { return p.connectsAgain(p.Lines || p.times() > 1 || p.Queue != "") }

// steadyOutlet is an outlet that connects again. What is not acknowledged is sent again; what was not sent waits.
type steadyOutlet struct {
	*client.Client
	cmd     *pubCmd
	stop    context.CancelCauseFunc
	notices notices
	before  bool // there was a connection; belongs to the functions that the client calls

	mu      sync.Mutex // guards refused
	refused error      // the first refusal of a message that nobody waits for
}

func (o *steadyOutlet) options(cfg client.Config) []client.Option {
	keep := cfg.Session != nil
	cfg.Session = nil // the client has its own
	opts := []client.Option{
		client.WithConfig(cfg), client.WithBackoff(leastPause, mostPause), client.OnRetry(o.notices.failed),
		client.OnConnect(o.connected), client.OnDisconnect(o.disconnected), client.OnRefused(o.noteRefused),
	}
	if keep {
		opts = append(opts, client.WithSession(cfg.SessionExpiry))
	}
	if o.cmd.Queue != "" {
		opts = append(opts, client.WithQueue(string(o.cmd.Queue)))
	}
	if o.cmd.patient() || o.cmd.Queue != "" {
		opts = append(opts, client.WithLazyConnect())
	}
	return opts
}

func (o *steadyOutlet) connected(c client.Connected) {
	o.cmd.debug("connected: client id %q, MQTT %v, session present: %v", c.ClientID, c.Version, c.SessionPresent)
	if o.before {
		o.notices.say("connected again")
	}
	o.before = true
}

func (o *steadyOutlet) disconnected(err error) {
	switch {
	case errors.Is(err, client.ErrClosed):
	case takenOver(err):
		o.stop(err)
	case o.cmd.QoS == 0:
		o.notices.say("connection lost: %v; messages of QoS 0 that were on their way may be lost; connecting again", plainEnd(err))
	default:
		o.notices.lost(err)
	}
}

func (o *steadyOutlet) noteRefused(r client.Refused) {
	err := fmt.Errorf("publish to %q: %w", r.Message.Topic, r.Reason)
	if r.File != "" {
		err = hinted(err, "it was set aside in "+word(r.File))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refused == nil {
		o.refused = err
	}
}

func (o *steadyOutlet) firstRefusal() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refused
}

// start implements outlet. With a queue nobody waits for a single message: when it is on the disk it is safe.
func (o *steadyOutlet) start(ctx context.Context, m *mqtt.Message) (*client.Publication, error) {
	opts := []client.PublishOption{client.QoS(m.QoS), client.Props(m.Props)}
	if m.Retain {
		opts = append(opts, client.Retain)
	}
	if !m.Expires.IsZero() {
		opts = append(opts, client.Expiry(max(time.Until(m.Expires), 1)))
	}
	if o.cmd.Queue != "" {
		opts = append(opts, client.Queued)
	}
	return o.PublishAsync(ctx, m.Topic, m.Payload, opts...)
}

func (o *steadyOutlet) over() <-chan struct{} { return o.Done() }
func (o *steadyOutlet) why() error            { return o.Err() }

// lastWait is how long a command that was interrupted waits for answers when there is a connection.
const lastWait = 2 * time.Second

// close implements outlet.
func (o *steadyOutlet) close(ctx context.Context, err error) error {
	if o.cmd.Queue != "" {
		var cancel context.CancelFunc
		ctx, cancel = withLimit(ctx, o.cmd.Wait)
		defer cancel()
		o.drain(ctx)
	}
	if why := o.Err(); why != nil && err == nil {
		err = why // it can never connect
	}
	closing, cancel := ctx, context.CancelFunc(func() {})
	if _, connected := o.Server(); ctx.Err() != nil && connected {
		closing, cancel = context.WithTimeout(context.Background(), lastWait)
	}
	defer cancel()
	_ = o.Close(closing) // what it did not deliver is counted below
	<-o.Done()
	if ctx.Err() != nil {
		err = ended(ctx)
	}
	if err == nil {
		err = o.firstRefusal()
	}
	return o.explain(plainEnd(err), o.Stats().Pending)
}

// drain waits until nothing is left in the queue. Nothing tells when that is, but who waits for a person's command can look.
func (o *steadyOutlet) drain(ctx context.Context) {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for o.Stats().Pending > 0 {
		select {
		case <-t.C:
		case <-o.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// explain adds to an error what has become of the messages that were not acknowledged.
func (o *steadyOutlet) explain(err error, left int) error {
	switch {
	case err == nil || left == 0:
		return err
	case o.cmd.Queue == "":
		return fmt.Errorf("%w: %s not acknowledged", err, count(left, "message"))
	}
	dir := word(string(o.cmd.Queue))
	return hinted(fmt.Errorf("%w: %s left in %s", err, count(left, "message"), dir),
		"the next run with --queue "+dir+" sends what is left; without topic and message it sends nothing else")
}
