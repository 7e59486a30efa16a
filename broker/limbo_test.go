package broker

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// ends runs a checkpoint of l on a goroutine of its own.
func ends(l *limbo) <-chan error {
	done := make(chan error, 1)
	l.begin()
	go func() { done <- l.end() }()
	synctest.Wait()
	return done
}

// TestLimbo: the end of a checkpoint waits for what began before, and not for what begins meanwhile.
func TestLimbo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limbo
		if err := <-ends(&l); err != nil {
			t.Fatalf("nothing is under way: %v", err)
		}
		a, b := l.enter(), l.enter()
		done := ends(&l)
		c := l.enter()
		l.leave(a)
		synctest.Wait()
		if len(done) > 0 {
			t.Fatal("it did not wait for the second one")
		}
		l.leave(b)
		if err := <-done; err != nil {
			t.Fatalf("all that was before is over: %v", err)
		}
		done = ends(&l)
		l.giveBack()
		l.leave(c)
		if err := <-done; !errors.Is(err, errDisturbed) {
			t.Fatalf("something came back where it was: %v", err)
		}
		d := l.enter() // never ends in time
		began := time.Now()
		if err := <-ends(&l); !errors.Is(err, errDisturbed) || time.Since(began) != limboMost {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		done = ends(&l)
		synctest.Wait()
		if len(done) > 0 {
			t.Fatal("the next one did not wait for it")
		}
		l.leave(d)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// TestCheckpointWhileWillIsDue: a checkpoint that has seen a session without its Will, which is about to be published, is not over before
// the store knows the Will as a message.
func TestCheckpointWhileWillIsDue(t *testing.T) {
	at := &atPublish{}
	manually(t, Config{Authorizer: at}, func(r *rig, s *manualStore) {
		at.f = func(string) {}
		w := mqtt.Will{Topic: "will", Payload: []byte("gone"), QoS: 1}
		c := r.connect(mqtt.V5, "c", lasting(1000), leaving(w))
		gate := make(chan struct{})
		at.f = func(string) { <-gate }
		_ = c.nc.Close()
		synctest.Wait() // the Will waits for the decision about it
		done := make(chan error, 1)
		go func() { done <- r.b.checkpoint(func(*store.Record) error { return nil }) }()
		synctest.Wait()
		if len(done) > 0 {
			t.Error("the checkpoint is over, and the store does not have the Will")
		}
		close(gate)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := len(s.written(store.Accepted)); n != 1 {
			t.Errorf("%d messages are in the store, want the Will", n)
		}
	})
}
